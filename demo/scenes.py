"""Scenes of coloured shapes: what there is to see in each picture, before it is drawn."""

import itertools
from dataclasses import dataclass

import numpy as np

# Names and RGB; far enough apart that JPEG does not confuse them.
COLORS = {
    "red": (214, 39, 40),
    "green": (44, 150, 44),
    "blue": (38, 80, 220),
    "yellow": (245, 220, 40),
    "purple": (140, 50, 180),
    "orange": (255, 135, 15),
    "white": (248, 248, 248),
    "black": (22, 22, 22),
}
SHAPES = ("circle", "square", "triangle", "star")
RADIUS = {"big": 0.15, "small": 0.09}  # of the picture's shorter side
PICTURE_SIZES = ((256, 256), (256, 192), (192, 256))  # (width, height) in pixels
MOST_THINGS = 4
# Things stand in the cells of a 3x3 layout, off its centres by at most this part of a side.
JITTER = 0.03
VAL_EVERY = 5  # every fifth image is held out


@dataclass(frozen=True)
class Thing:
    """One coloured shape."""

    shape: str
    color: str
    size: str  # "big" or "small"
    row: int  # of the 3x3 layout, 0 at the top
    col: int
    x: float  # centre, 0 (left) to 1
    y: float  # centre, 0 (top) to 1

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """One picture. No two things share a color.

    `box` is the (x, y) of a closed gray box, or None: what is inside cannot be known, which is
    what makes a statement about the picture neither true nor false.
    """

    image_id: int
    width: int  # pixels
    height: int
    gray: int  # of the background, 0 to 255
    slope: tuple[float, float]  # of the background's gray along x and y
    things: tuple[Thing, ...]
    box: tuple[float, float] | None

    @property
    def is_val(self) -> bool:
        return self.image_id % VAL_EVERY == 0

    @property
    def split(self) -> str:
        """COCO's name of the split: train2014 or val2014."""
        return "val2014" if self.is_val else "train2014"

    @property
    def file_name(self) -> str:
        return f"COCO_{self.split}_{self.image_id:012}.jpg"

    def has(self, name: str) -> bool:
        """Return whether a thing called `name`, "red circle" say, is to be seen."""
        return any(thing.name == name for thing in self.things)


# Every (color, shape) there is, as "red circle".
NAMES = tuple(f"{color} {shape}" for color, shape in itertools.product(COLORS, SHAPES))


def scene_generator(seed: int, image_id: int, purpose: int) -> np.random.Generator:
    """Return the random numbers of one image for one purpose; no other image changes them."""
    return np.random.default_rng((seed, image_id, purpose))


def make_scene(seed: int, image_id: int) -> Scene:
    """Return the scene of one image id; it depends on the seed and the id alone."""
    rng = scene_generator(seed, image_id, 0)
    count = int(rng.integers(1, MOST_THINGS + 1))
    colors = rng.permutation(list(COLORS))[:count]
    cells = rng.permutation(9)[: count + 1]
    centers = [_center(int(cell), rng) for cell in cells]
    things = tuple(
        Thing(
            shape=str(rng.choice(SHAPES)),
            color=str(color),
            size=str(rng.choice(list(RADIUS))),
            row=int(cell) // 3,
            col=int(cell) % 3,
            x=x,
            y=y,
        )
        for color, cell, (x, y) in zip(colors, cells, centers, strict=False)
    )
    width, height = PICTURE_SIZES[rng.integers(len(PICTURE_SIZES))]
    slope = (float(rng.uniform(-25, 25)), float(rng.uniform(-25, 25)))
    box = centers[-1] if rng.random() < 0.5 else None
    return Scene(image_id, width, height, int(rng.integers(115, 166)), slope, things, box)


def _center(cell: int, rng: np.random.Generator) -> tuple[float, float]:
    x, y = (cell % 3 + 0.5) / 3, (cell // 3 + 0.5) / 3
    dx, dy = rng.uniform(-JITTER, JITTER, 2)
    return float(x + dx), float(y + dy)
