"""Scenes of coloured shapes: what a picture shows, and how it is drawn."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

# Names and RGB values, so different that JPEG does not confuse them.
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
MAX_THINGS = 4
# Things are in the cells of a 3x3 layout, off their centres by at most this part of a side.
JITTER = 0.03
VAL_EVERY = 5  # every fifth image is held out
SCALE = 3  # pictures are drawn this much larger and then reduced, which smooths the edges
NOISE = 7.0  # standard deviation in levels; a JPEG of flat color would be unrealistic
BOX_GRAY, BOX_EDGE = (88, 88, 92), (50, 50, 54)


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
    """One picture. No two things have the same color.

    `box` is the (x, y) of a closed gray box, or None. Since nobody knows what is inside, a
    statement about the picture may be neither true nor false.
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
        """Return whether a thing called `name`, such as "red circle", is visible."""
        return any(thing.name == name for thing in self.things)


# All colors and shapes, as "red circle".
NAMES = tuple(f"{color} {shape}" for color, shape in itertools.product(COLORS, SHAPES))


def scene_generator(seed: int, image_id: int, purpose: int) -> np.random.Generator:
    """Return the random numbers of one image for one purpose, independent of other images."""
    return np.random.default_rng((seed, image_id, purpose))


def make_scene(seed: int, image_id: int) -> Scene:
    """Return the scene of one image id, which depends only on the seed and the id."""
    rng = scene_generator(seed, image_id, 0)
    count = int(rng.integers(1, MAX_THINGS + 1))
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


def extent(thing: Thing) -> float:
    """Return half the side of the square that holds a thing, as a share of the shorter side."""
    return (
        RADIUS[thing.size]
        * {"circle": 1.0, "square": 0.9, "triangle": 1.1, "star": 1.1}[thing.shape]
    )


def draw(scene: Scene, seed: int) -> Image.Image:
    """Return the picture of a scene, (height, width) pixels RGB, with sensor-like noise."""
    image = Image.fromarray(_background(scene))
    image = image.resize((scene.width * SCALE, scene.height * SCALE))
    canvas = ImageDraw.Draw(image)
    unit = min(image.size)
    for thing in scene.things:
        _draw_thing(canvas, thing, image.size, RADIUS[thing.size] * unit)
    if scene.box:
        _draw_box(canvas, scene.box, image.size, RADIUS["big"] * unit)
    pixels = np.asarray(image.resize((scene.width, scene.height), Image.Resampling.BOX))
    noise = scene_generator(seed, scene.image_id, 1).normal(0, NOISE, pixels.shape)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


def _background(scene: Scene) -> np.ndarray:
    """Return a gray gradient (height, width, 3)."""
    x = np.linspace(-1, 1, scene.width)[None, :, None] * scene.slope[0]
    y = np.linspace(-1, 1, scene.height)[:, None, None] * scene.slope[1]
    return np.broadcast_to(scene.gray + x + y, (scene.height, scene.width, 3)).astype(np.uint8)


def _draw_thing(
    canvas: ImageDraw.ImageDraw, thing: Thing, size: tuple[int, int], radius: float
) -> None:
    x, y = thing.x * size[0], thing.y * size[1]
    color = COLORS[thing.color]
    if thing.shape == "circle":
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    elif thing.shape == "square":
        side = radius * 0.9
        canvas.rectangle((x - side, y - side, x + side, y + side), fill=color)
    else:
        points = {"triangle": (3, 1.0), "star": (5, 0.4)}[thing.shape]
        canvas.polygon(_corners(x, y, radius * 1.1, *points), fill=color)


def _corners(
    x: float, y: float, radius: float, points: int, inner: float
) -> list[tuple[float, float]]:
    """Return a polygon with a corner at the top; with `inner` < 1 it is a star."""
    radii = [radius] if inner == 1.0 else [radius, radius * inner]
    corners = []
    for k in range(points * len(radii)):
        angle = -math.pi / 2 + 2 * math.pi * k / (points * len(radii))
        r = radii[k % len(radii)]
        corners.append((x + r * math.cos(angle), y + r * math.sin(angle)))
    return corners


def _draw_box(
    canvas: ImageDraw.ImageDraw, center: tuple[float, float], size: tuple[int, int], radius: float
) -> None:
    """Draw a closed crate: a gray square with crossed boards."""
    x, y = center[0] * size[0], center[1] * size[1]
    left, top, right, bottom = x - radius, y - radius, x + radius, y + radius
    board = max(1, int(radius / 6))
    canvas.rectangle((left, top, right, bottom), fill=BOX_GRAY, outline=BOX_EDGE, width=board)
    canvas.line((left, top, right, bottom), fill=BOX_EDGE, width=board)
    canvas.line((left, bottom, right, top), fill=BOX_EDGE, width=board)
