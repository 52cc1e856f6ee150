"""Recipes: all that decides which pixels enter the backbone, as frozen numbers."""

import dataclasses
import difflib
import re
from dataclasses import dataclass
from typing import Any, Literal

from ..featstore import GridShape
from .errors import ExtractUsageError

Resize = Literal["stretch", "shortest"]
Interpolation = Literal["bicubic", "bilinear"]
Layer = Literal["final", "final-no-norm", "penultimate"]
Vector = Literal["embedding", "class_token"]

# The paper's captioning recipe: 448 x 448 bicubic, aspect ratio ignored (CLIP-ViL, section 3.2).
ALIASES = {"caption448": "square:448"}
MAX_SIDE = 4096  # pixels


@dataclass(frozen=True)
class Preprocess:
    """What a backbone's weights were trained on."""

    size: int  # pixels, both sides
    resize: Resize
    interpolation: Interpolation
    mean: tuple[float, float, float]  # of channels scaled to 0...1
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Recipe:
    """Image file to pixels: decode, resize, crop, convert to RGB, scale to 0...1, normalise.

    `stretch` resizes to (height, width) whatever the aspect ratio; `shortest` resizes the
    shorter side and crops the centre. EXIF orientation is ignored, as stock CLIP ignores it.
    """

    name: str
    resize: Resize
    height: int
    width: int
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layer: Layer = "final"
    vector: Vector | None = None  # kept beside the grid
    views: int | None = None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def size(self, width, height):
        return self.height, self.width

    def grid_shape(self, cell: tuple[int, int]) -> GridShape:
        """Return the grid that a backbone with cells of (height, width) pixels gives.

        A remainder smaller than a cell is dropped, as strided convolutions drop it.
        """
        return GridShape(self.height // cell[0], self.width // cell[1])


def check_recipe_name(name: str) -> str:
    """Return the canonical name of a recipe, before any backbone is known.

    >>> check_recipe_name("caption448")
    'square:448'
    """
    canonical = ALIASES.get(name, name)
    if canonical == "model":
        return canonical
    size = re.fullmatch(r"square:(\d{1,9})", canonical)
    if not size:
        known = [*ALIASES, "model", "square:224"]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ExtractUsageError(
            f"--recipe {name}: no such recipe; {hint}use {', '.join(ALIASES)}, model or square:N"
        )
    if not 1 <= int(size[1]) <= MAX_SIDE:
        raise ExtractUsageError(f"--recipe {name}: N must be 1 to {MAX_SIDE} pixels")
    return f"square:{int(size[1])}"


def make_recipe(name, native, cell=None, *, layer="final", vector=None) -> Recipe:
    """Return the recipe called `name` for a backbone trained on `native`.

    Mean and standard deviation are always the backbone's own.
    """
    canonical = check_recipe_name(name)
    if canonical == "model":
        resize, size, interpolation = native.resize, native.size, native.interpolation
    else:
        resize, size, interpolation = "stretch", int(canonical.split(":")[1]), "bicubic"
    return Recipe(
        canonical, resize, size, size, interpolation, native.mean, native.std, layer, vector
    )
