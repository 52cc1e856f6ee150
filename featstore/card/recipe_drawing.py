"""What a recipe does to an image, drawn at true proportions: resize, crop, pad, the grid over it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from ..geometry import (
    RGB,
    Crop,
    GridShape,
    ImageTransform,
    Pad,
    Size,
    Stretch,
    Upright,
    WholeCells,
)
from ..recipes import Rect, cell_size, placed_image

SIDE = 150.0  # pixels of a drawing's longest side
MARGIN = 2.0  # around a drawing, for its lines
UNKNOWN_SIZE = (640, 480)  # of an example, where the store has no sizes
SCENE = """<svg class="hidden" aria-hidden="true"><defs>
<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
<rect width="6" height="6" fill="var(--raised)"/><rect width="1.5" height="6" fill="var(--hatch)"/></pattern>
<symbol id="scene" viewBox="0 0 100 100" preserveAspectRatio="none">
<rect width="100" height="100" fill="#7fa7c9"/><rect y="62" width="100" height="38" fill="#6d8f5a"/>
<path d="M8 62 L34 26 L60 62 Z" fill="#56687d"/><path d="M46 62 L66 38 L88 62 Z" fill="#6b7d91"/>
</symbol></defs></svg>"""


@dataclass(frozen=True)
class Panel:
    """One step of the drawing; lengths are in pixels of the image at that step."""

    title: str
    detail: str
    whole: Size  # (width, height) of what is drawn
    image: Rect  # left, top, width, height of the image in it
    kept: tuple[int, int, int, int] | None = None  # what a crop keeps
    is_frame: bool = False  # what the image does not cover is padding
    grid: tuple[GridShape, float, float] | None = None  # shape, width and height of a cell


def panels(steps: Sequence[ImageTransform], size: Size, shape: GridShape | None) -> list[Panel]:
    """Return the drawings of what happens to an image of (width, height).

    `shape` is that of its grid. The list ends at a step of which no pixel would be left.
    """
    width, height = size
    found = [Panel("image", f"{width} x {height} pixels", size, (0, 0, width, height))]
    placed: Rect = (0, 0, width, height)  # of the image in the frame of the last step
    for done, step in enumerate(steps, start=1):
        before, new = placed, step.size(size)
        after = placed_image(steps[:done], (width, height))
        if after is None:
            return found
        placed, (wide, high) = after, new
        if isinstance(step, Upright):
            found[0] = Panel(
                "image",
                f"{width} x {height} pixels, turned as its EXIF orientation says",
                size,
                (0, 0, width, height),
            )
            continue
        if isinstance(step, RGB):
            continue
        if isinstance(step, Crop):
            left, top = step.corner(size)
            kept = (left, top, wide, high)
            text = f"keeps the central {wide} x {high}"
            found.append(Panel("crop", text, size, before, kept=kept))
        elif isinstance(step, Pad):
            text = f"{wide} x {high}, the rest is black"
            found.append(Panel("pad", text, new, placed, is_frame=True))
        else:
            title = "stretch" if isinstance(step, Stretch) else "resize"
            whole = ", whole cells" if isinstance(step, WholeCells) else ""
            how = f"{step.interpolation}, to {wide} x {high}{whole}"
            found.append(Panel(title, how, new, placed))
        size = new
    if shape is not None:
        found.append(_grid_panel(steps, size, shape, placed))
    return found


def _grid_panel(
    steps: Sequence[ImageTransform], frame: Size, shape: GridShape, placed: Rect
) -> Panel:
    """Return the drawing of the grid over the pixels that enter the backbone."""
    cell = cell_size(steps, frame, shape)
    detail = f"{shape.rows} x {shape.cols} cells"
    if cell is None:
        each = (frame[0] / shape.cols, frame[1] / shape.rows)
    else:
        each = (float(cell[1]), float(cell[0]))
        detail += f" of {cell[1]} x {cell[0]} pixels"
    is_frame = any(isinstance(step, Pad) for step in steps)
    return Panel("grid", detail, frame, placed, is_frame=is_frame, grid=(shape, *each))


def photo_scene(name: str, data_url: str) -> str:
    """Return a photograph as what is drawn in place of SCENE's landscape, under a name of its own."""
    return (
        f'<svg class="hidden" aria-hidden="true"><symbol id="{name}" viewBox="0 0 100 100" '
        f'preserveAspectRatio="none"><image width="100" height="100" preserveAspectRatio="none" '
        f'href="{data_url}"/></symbol></svg>\n'
    )


def drawing(found: Sequence[Panel], scene: str = "scene") -> str:
    """Return the drawings as a list in HTML; the page must have SCENE, and the symbol `scene`."""
    longest = max(max(panel.whole) for panel in found)
    scale = SIDE / longest
    # An image that is much larger than what is made of it would leave that too small to see.
    scales = (max(scale, 0.45 * SIDE / max(panel.whole)) for panel in found)
    items = (_item(*each, scene) for each in zip(found, scales, strict=True))
    return f'<ol class="steps">\n{"".join(items)}</ol>\n'


def _item(panel: Panel, scale: float, scene: str) -> str:
    width, height = (scale * side for side in panel.whole)
    label = escape(f"{panel.title}: {panel.detail}")
    inside = "".join(_shapes(panel, scale, scene))
    box = f"{-MARGIN:g} {-MARGIN:g} {width + 2 * MARGIN:.1f} {height + 2 * MARGIN:.1f}"
    return (
        f'<li><svg role="img" aria-label="{label}" viewBox="{box}" width="{width + 2 * MARGIN:.0f}" '
        f'height="{height + 2 * MARGIN:.0f}">{inside}</svg>'
        f'<strong>{escape(panel.title)}</strong><span class="faint">{escape(panel.detail)}</span></li>\n'
    )


def _shapes(panel: Panel, scale: float, scene: str) -> Iterator[str]:
    """Yield the elements of a drawing, from the back to the front."""
    whole = (0, 0, *panel.whole)
    if panel.is_frame:
        yield _rect(whole, scale, "padding")
    right, bottom = (scale * side for side in panel.whole)
    left, top, width, height = (scale * each for each in panel.image)
    # An element svg of its own cuts off what lies outside of it.
    yield (
        f'<svg width="{right:.1f}" height="{bottom:.1f}"><use href="#{scene}" x="{left:.1f}" '
        f'y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"/></svg>'
    )
    if panel.kept is not None:
        (wide, high), (x, y, w, h) = panel.whole, panel.kept
        lost = (
            (0, 0, wide, y),
            (0, y + h, wide, high - y - h),
            (0, y, x, h),
            (x + w, y, wide - x - w, h),
        )
        for rest in lost:
            if min(rest[2:]) > 0:
                yield _rect(rest, scale, "lost")
        yield _rect(panel.kept, scale, "kept")
    if panel.grid is not None:
        shape, cell_width, cell_height = panel.grid
        right, bottom = scale * shape.cols * cell_width, scale * shape.rows * cell_height
        lines = [f"M{scale * col * cell_width:.1f} 0V{bottom:.1f}" for col in range(shape.cols + 1)]
        lines += [
            f"M0 {scale * row * cell_height:.1f}H{right:.1f}" for row in range(shape.rows + 1)
        ]
        yield f'<path class="cells" d="{"".join(lines)}"/>'
    yield _rect(whole, scale, "outline")


def _rect(rect: Sequence[float], scale: float, kind: str) -> str:
    x, y, width, height = (scale * each for each in rect)
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
    )
