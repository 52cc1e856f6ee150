"""A backbone's own preprocessing, as open_clip describes it, and its steps."""

from dataclasses import dataclass
from typing import Literal

from ...featstore.steps import RGB, Cover, Crop, Fit, Pad, Shortest, Step, Stretch
from .recipe_checks import Triple

Resize = Literal["shortest", "squash", "longest"]
Interpolation = Literal["bicubic", "bilinear"]


@dataclass(frozen=True)
class Preprocess:
    """What a backbone's weights were trained on, in open_clip's terms.

    `shortest` resizes the shorter side and crops the centre, `squash` ignores the aspect ratio,
    `longest` resizes the longer side and pads with black.
    """

    size: int | tuple[int, int]  # pixels: of both sides, or (height, width)
    resize: Resize
    interpolation: Interpolation
    mean: Triple  # of channels scaled to 0...1
    std: Triple

    @property
    def height_width(self) -> tuple[int, int]:
        return (self.size, self.size) if isinstance(self.size, int) else self.size


def native_steps(
    native: Preprocess, cell: tuple[int, int]
) -> tuple[tuple[Step, ...], Interpolation]:
    """Return the steps of a backbone's own preprocessing, as open_clip's transform takes them."""
    height, width = native.height_width
    if native.resize == "squash":
        return (Stretch(height, width), RGB()), native.interpolation
    if native.resize == "longest":
        pad = Pad(height, width, turn=False, odd="last", cell=cell)
        return (Fit(height, width), pad, RGB()), native.interpolation
    if height == width:
        return (Shortest(height), Crop(height, width), RGB()), native.interpolation
    # open_clip does not pass the interpolation on here, so that it is always bicubic.
    return (Cover(height, width), Crop(height, width), RGB()), "bicubic"
