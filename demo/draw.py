"""A scene as a picture."""

import math

import numpy as np
from PIL import Image, ImageDraw

from .scenes import COLORS, RADIUS, Scene, Thing, scene_generator

SCALE = 3  # drawn this much larger, then reduced: that smooths the edges
NOISE = 7.0  # standard deviation in levels; without it a JPEG of flat color is no test
BOX_GRAY, BOX_EDGE = (88, 88, 92), (50, 50, 54)


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
    """Return a polygon with a corner at the top; with `inner` < 1 its sides are drawn in."""
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
