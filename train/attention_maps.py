"""Pictures of attention: a grid as colours, and an image brightened by the attention over it."""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Shaped

from ..base.errors import UsageError
from .figures import BLUE, FAINT, INK, bare, missing_glyphs, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes


DARK = 0.82  # share of an image's light that is removed where the attention is zero
MIN_SPAN = 1e-3  # standard deviations; smaller variation is rounding, and gets no colours
MAX_LINES = 8  # of a question; a very long one would take minutes, and more pixels than fit
MAX_ASPECT = 3.0  # of the sides of a panel; a grid of 36 x 1 would have no width
WORD_WIDTH = 1.7  # inches, of a panel of a word
MAX_HEIGHT = 1.5  # height by width of such a panel; 1 / MAX_HEIGHT is the least
WORD_DPI = 80  # a page has dozens of these


def draw_answer(
    out: Path,
    *,
    question: str,
    top: Sequence[tuple[str, float]],
    attention: Float[np.ndarray, "row col"],
    grid: Float[np.ndarray, "row col dim"],
    mask: Bool[np.ndarray, "row col"],
    image: Shaped[np.ndarray, "height width 3"] | None,
) -> None:
    """Write a PNG of one question: the image, the attention over it, and the answers.

    `top` has the most likely answers with the accuracy that the model expects of each, 0 to 1.
    Without an image its grid is drawn, with features as colours. An image is assumed to cover the
    cells in `mask`, which are all except a recipe's padding.
    """
    real = np.ix_(mask.any(axis=1), mask.any(axis=0))
    attention, grid = attention[real], grid[real]
    height, width = attention.shape if image is None else image.shape[:2]
    side = 3.6 * np.clip(width / height, 1 / MAX_ASPECT, MAX_ASPECT) ** 0.5  # inches
    tall = 3.6**2 / side
    answer, score = top[0]
    lines = textwrap.wrap(question, 90, max_lines=MAX_LINES)
    lines.append(textwrap.shorten(answer, 90) + f"  ({score:.0%})")
    figure = new_figure(2 * side + 3.0, tall + 0.6 + 0.22 * len(lines))
    input_axis, attention_axis, answer_axis = figure.subplots(1, 3, width_ratios=(side, side, 2.6))
    if image is None:
        show_cells(input_axis, grid_colors([grid])[0])
        show_cells(attention_axis, attention)
        input_axis.set_title("its grid, features as colors", fontsize=9, color=FAINT)
    else:
        show(input_axis, image)
        show_lit(attention_axis, image, attention)
        input_axis.set_title("the image", fontsize=9, color=FAINT)
    attention_axis.set_title("where the model looks", fontsize=9, color=FAINT)
    _draw_answers(answer_axis, top)
    figure.suptitle("\n".join(lines), fontsize=12, color=INK, parse_math=False)
    save(figure, out)


def show(axis: "Axes", image: Shaped[np.ndarray, "height width 3"]) -> None:
    """Draw an image, without a frame."""
    axis.imshow(image)
    bare(axis)


def show_lit(
    axis: "Axes",
    image: Shaped[np.ndarray, "height width 3"],
    attention: Float[np.ndarray, "row col"],
) -> None:
    """Draw an image that is bright where the attention is high and dark elsewhere."""
    show(axis, image)
    height, width = image.shape[:2]
    shade = np.zeros((*attention.shape, 4))  # black, and how opaque
    shade[..., 3] = DARK * (1 - attention / attention.max())
    axis.imshow(shade, interpolation="bicubic", extent=(-0.5, width - 0.5, height - 0.5, -0.5))


def show_cells(
    axis: "Axes", cells: Float[np.ndarray, "row col"] | Float[np.ndarray, "row col 3"]
) -> None:
    """Draw a grid with a number, or a colour, for each cell."""
    axis.imshow(cells, cmap="magma", vmin=0, aspect="auto" if _is_strip(cells) else "equal")
    bare(axis)


def grid_colors(grids: Sequence[Float[np.ndarray, "_ _ dim"]]) -> list[np.ndarray]:
    """Return each grid (row, col, dim) as colours (row, col, 3) in 0...1.

    The three colours are the first three principal components of all cells shown, each
    scaled to its range from the 2nd to the 98th percentile.
    """
    cells = np.concatenate([g.reshape(-1, g.shape[-1]) for g in grids]).astype(np.float32)
    mean, scale = cells.mean(axis=0), cells.std(axis=0) + 1e-6
    _, _, axes = np.linalg.svd((cells - mean) / scale, full_matrices=False)
    axes = np.concatenate([axes, np.zeros((3, axes.shape[1]))])[:3]  # two cells have only two
    low, high = np.percentile((cells - mean) / scale @ axes.T, [2, 98], axis=0)
    low, high = np.where(high - low > MIN_SPAN, (low, high), (low - 1, low + 1))
    return [
        (((g.astype(np.float32) - mean) / scale @ axes.T - low) / (high - low)).clip(0, 1)
        for g in grids
    ]


def read_image(path: Path) -> Shaped[np.ndarray, "height width 3"]:
    """Return an image file as colours; UsageError for a file that is not a readable image.

    As in extraction, EXIF orientation is ignored.
    """
    from matplotlib.image import imread

    try:
        image = imread(path)
    except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: Pillow, of a broken PNG
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(
            f"{path} is not a readable image ({reason}); pass another --image, or none",
            code="E-IMAGE-READ",
        ) from None
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    return image[..., :3]


def _draw_answers(axis: "Axes", top: Sequence[tuple[str, float]]) -> None:
    """Draw a bar for each answer, the most likely one at the top."""
    bare(axis)
    axis.barh(range(len(top)), [1.0] * len(top), height=0.3, color="#eef0f2")
    for rank, (answer, score) in enumerate(top):
        weight, color = ("bold", BLUE) if rank == 0 else ("normal", INK)
        axis.barh(rank, score, height=0.3, color=BLUE if rank == 0 else FAINT)
        text = textwrap.shorten(answer, 26, placeholder="...")
        axis.text(0, rank - 0.24, text, color=color, weight=weight, parse_math=False)
        axis.text(1, rank - 0.24, f"{100 * score:.1f} %", color=color, ha="right")
    axis.set_xlim(0, 1)
    axis.set_ylim(max(len(top), 5) - 0.5, -0.9)
    axis.set_title("its answers, and how sure it is", fontsize=9, color=FAINT)


def _is_strip(cells: np.ndarray) -> bool:
    rows, cols = cells.shape[:2]
    return max(rows, cols) > MAX_ASPECT * min(rows, cols)


def draw_words(
    words: Sequence[tuple[str, Float[np.ndarray, "row col"]]],
    image: Shaped[np.ndarray, "height width 3"] | None,
) -> bytes:
    """Return a PNG: the image, then a panel for each word with its attention over the cells.

    Without an image only the cells are drawn. An image is assumed to cover the grid.
    """
    panels = len(words) + (image is not None)
    height, width = words[0][1].shape if image is None else image.shape[:2]
    tall = WORD_WIDTH * min(max(height / width, 1 / MAX_HEIGHT), MAX_HEIGHT)
    figure = new_figure(WORD_WIDTH * panels, tall + 0.3)
    axes = figure.subplots(1, panels, squeeze=False)[0].tolist()
    if image is not None:
        image_axis = axes.pop(0)
        show(image_axis, image)
        image_axis.set_title("the image", fontsize=9, color=FAINT)
    for axis, (word, attention) in zip(axes, words, strict=True):
        if image is None:
            show_cells(axis, attention)
        else:
            show_lit(axis, image, attention)
        axis.set_title(textwrap.shorten(word, 20), fontsize=9, color=INK, parse_math=False)
    with missing_glyphs(), io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=WORD_DPI)
        return file.getvalue()
