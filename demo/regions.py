"""What a detector of objects would find in the scenes, in the format of bottom-up attention.

There is no detector: the scenes say what they show. Boxes are those of the things, a little off;
some things are missed, some are taken for another, and some boxes hold nothing. Features are random
codes of what is in the box, with noise.
"""

import base64
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from .scenes import COLORS, RADIUS, SHAPES, Scene, extent, scene_generator

DIM = 256
NAMES = (*COLORS, *SHAPES, *RADIUS, "crate", "background")  # what features tell, one code for each
# Standard deviations of a code's numbers. A linear reader of the training scenes' regions tells the
# colours of the others in 94 % of cases, and the shapes in 96 %.
NOISE = 4.0
OFFSET = 0.12  # standard deviation of a box's sides, in parts of its size
MISSED, MISTAKEN = 0.05, 0.04  # shares of things
FALSE_BOXES = 3  # most boxes of an image with nothing in them; at least one


class Region(NamedTuple):
    """What was found in one box."""

    box: tuple[float, float, float, float]  # left, top, right, bottom in pixels
    features: np.ndarray  # (DIM,) float32


def find_regions(scene: Scene, seed: int) -> list[Region]:
    """Return the regions of a scene in random order, at least one."""
    rng = scene_generator(seed, scene.image_id, 4)
    codes = np.random.default_rng((seed, DIM)).standard_normal((len(NAMES), DIM))
    unit = min(scene.width, scene.height)
    found: list[Region] = []

    def add(place: tuple[float, float], half: float, names: Iterable[str]) -> None:
        """Add a box around a place, in shares of the sides, with the codes of what it shows."""
        center = np.array(place) * (scene.width, scene.height)
        sides = np.concatenate((center - half * unit, center + half * unit))
        sides += rng.normal(0, OFFSET * half * unit, 4)
        left, top, right, bottom = sides.clip(0, (scene.width, scene.height) * 2).tolist()
        code = codes[[NAMES.index(name) for name in names]].sum(axis=0)
        features = code + NOISE * rng.standard_normal(DIM)
        found.append(Region((left, top, right, bottom), features.astype(np.float32)))

    for thing in scene.things:
        color, shape = thing.color, thing.shape
        if rng.random() < MISTAKEN:
            color, shape = str(rng.choice(list(COLORS))), str(rng.choice(SHAPES))
        if rng.random() >= MISSED:
            add((thing.x, thing.y), extent(thing), (color, shape, thing.size))
    if scene.box:
        add(scene.box, RADIUS["big"], ("crate",))
    for _ in range(int(rng.integers(1, FALSE_BOXES + 1))):
        x, y, half = rng.uniform((0.15, 0.15, 0.05), (0.85, 0.85, 0.2)).tolist()
        add((x, y), half, ("background",))
    return [found[number] for number in rng.permutation(len(found)).tolist()]


def bottom_up_lines(scenes: Iterable[Scene], seed: int) -> Iterator[str]:
    """Yield a line for each scene, as bottom-up attention's `generate_tsv.py` writes them.

    Its columns are image_id, image_w, image_h, num_boxes, boxes and features, with tabs between;
    the last two are base64 of little-endian float32, row by row.
    """
    for scene in scenes:
        regions = find_regions(scene, seed)
        boxes = np.array([region.box for region in regions], "<f4")
        features = np.array([region.features for region in regions], "<f4")
        arrays = (base64.b64encode(array.tobytes()).decode() for array in (boxes, features))
        numbers = (scene.image_id, scene.width, scene.height, len(regions))
        yield "\t".join((*map(str, numbers), *arrays)) + "\n"
