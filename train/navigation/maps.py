"""The map of a scan from above: its graph, a reference and a walk."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..figures import BLUE, FAINT, GREEN, INK, ORANGE, bare, new_figure
from .graphs import Scan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARGIN = 2.5  # metres around the two paths
SIDE = 4.2  # inches
DPI = 80  # a page has dozens of these
PALE = "#e3e6ea"


def draw_map(scan: Scan, walk: Sequence[int], reference: Sequence[int]) -> bytes:
    """Return a PNG of the part of a scan around a walk and its reference, numbers of viewpoints.

    x goes to the right and y up, as headings are counted: clockwise from up. The floors of a house
    lie over each other.
    """
    figure = new_figure(SIDE, SIDE)
    axis = figure.subplots()
    places = scan.positions[:, :2]
    for a, b in scan.edges:
        axis.plot(*places[[a, b]].T, color=PALE, linewidth=1, zorder=1)
    axis.plot(*places.T, ".", color=PALE, markersize=5, zorder=1)
    axis.plot(*places[list(reference)].T, color=GREEN, linewidth=5, alpha=0.4, zorder=2)
    axis.plot(*places[list(walk)].T, color=BLUE, linewidth=1.6, marker="o", markersize=4, zorder=3)
    _mark(axis, places[reference[-1]], "*", GREEN, "goal", 16)
    _mark(axis, places[walk[0]], "o", INK, "start")
    _mark(axis, places[walk[-1]], "X", ORANGE, "stop")
    shown = places[[*walk, *reference]]
    low, high = shown.min(axis=0), shown.max(axis=0)
    middle, half = (low + high) / 2, float(np.max(high - low)) / 2 + MARGIN
    axis.set_xlim(middle[0] - half, middle[0] + half)
    axis.set_ylim(middle[1] - half, middle[1] + half)
    axis.set_aspect("equal")
    bare(axis)
    axis.set_title(f"{2 * half:.0f} m wide", fontsize=9, color=FAINT)
    axis.legend(loc="best", fontsize=8, frameon=False)
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=DPI)
        return file.getvalue()


def _mark(
    axis: "Axes", place: np.ndarray, marker: str, color: str, label: str, size: int = 10
) -> None:
    axis.plot(
        *place, marker, color=color, markersize=size, markeredgecolor="white", label=label, zorder=4
    )
