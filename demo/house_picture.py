"""A picture of a generated house: its plan with a path, and what is seen at the path's start.

    python -m clipfeat.demo.house_picture OUT.png

draws docs/houses.png.
"""

import argparse
import io
import textwrap
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..base.files import write_atomically
from ..base.text import tell
from ..train.figures import FAINT, INK, bare, new_figure
from ..train.navigation.views import HEADINGS
from .house_views import draw_views
from .houses import (
    DOOR_HALF_WIDTH,
    RADIUS,
    ROOM,
    THING_COLORS,
    WALL_COLORS,
    House,
    Path,
    house_generator,
    make_house,
    make_paths,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALE = 0.45  # share of white in the plan's floors
DPI = 90
COLORS = 128  # of the PNG, which noise would make large


def draw_house(seed: int, number: int) -> bytes:
    """Return a PNG of house `number`: its plan with the longest path, and the views at its start."""
    house = make_house(seed, number, 3)
    path = max(make_paths(house, seed, number), key=lambda each: len(each.viewpoints))
    start = next(place for place in house.places if place.name == path.viewpoints[0])
    views = draw_views(house, start, house_generator(seed, number, 2))
    figure = new_figure(11.0, 4.1)
    plan, strip = figure.subplots(1, 2, width_ratios=(3.6, 7.4))
    _draw_plan(plan, house, path)
    framed = np.pad(views, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    rows = [np.concatenate(framed[k : k + HEADINGS // 2], axis=1) for k in (12, 18)]
    strip.imshow(np.concatenate(rows))
    bare(strip)
    strip.set_title(f"views 12 to 23 of {start.name}: level, clockwise from north", color=FAINT)
    strip.set_xlabel(textwrap.fill(path.texts[0], 80), color=INK, fontsize=12, labelpad=10)
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=DPI)
        image = Image.open(file).convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
    with io.BytesIO() as file:
        image.save(file, format="png", optimize=True)
        return file.getvalue()


def _draw_plan(axis: "Axes", house: House, path: Path) -> None:
    """Draw rooms in their colours, things, the graph, and a path with its start and goal."""
    from matplotlib.patches import Circle, Rectangle

    for room, color in enumerate(house.colors):
        row, column = divmod(room, house.side)
        rgb = np.array(WALL_COLORS[color]) / 255
        corner = (column * ROOM, row * ROOM)
        floor = tuple(PALE + (1 - PALE) * rgb)
        axis.add_patch(Rectangle(corner, ROOM, ROOM, facecolor=floor, edgecolor=INK, linewidth=2))
    for door in house.doors:
        ends = np.array([[door.wall, door.wall], [door.centre - DOOR_HALF_WIDTH] * 2])
        ends[1, 1] += 2 * DOOR_HALF_WIDTH
        axis.plot(*(ends if door.axis == 0 else ends[::-1]), color="white", linewidth=3)
    for thing in house.things:
        color = tuple(np.array(THING_COLORS[thing.color]) / 255)
        axis.add_patch(
            Circle((thing.x, thing.y), RADIUS[thing.shape], facecolor=color, edgecolor=INK)
        )
    places = {place.name: (place.x, place.y) for place in house.places}
    for a, b in house.edges:
        axis.plot(
            *np.transpose([house.places[a][1:], house.places[b][1:]]), color=FAINT, linewidth=0.8
        )
    axis.plot(*np.transpose(list(places.values())), ".", color=INK, markersize=5)
    walked = np.array([places[name] for name in path.viewpoints])
    axis.plot(*walked.T, color="white", linewidth=6, solid_capstyle="round")
    axis.plot(*walked.T, color=INK, linewidth=3, solid_capstyle="round")
    axis.plot(*walked[0], "o", color="white", markeredgecolor=INK, markersize=12)
    axis.plot(*walked[-1], "*", color="white", markeredgecolor=INK, markersize=19)
    axis.set_aspect("equal")
    bare(axis)
    axis.set_title(f"{house.name}: from circle to star", color=FAINT)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m clipfeat.demo.house_picture", description=__doc__
    )
    parser.add_argument("out", type=FilePath)
    out = parser.parse_args().out
    write_atomically(out, draw_house(0, 1))
    tell(f"{out}: {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
