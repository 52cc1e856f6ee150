"""Candidates: what an agent can move to from a viewpoint, as the published agents list them.

They turn through the views of a viewpoint, from view 0 to 35, and note each neighbour that the simulator
lists as navigable in a view: one whose heading is at most 40 degrees off the view's. A neighbour's
place in the list is that of its first sight, where those of one view are sorted by their angle from its
centre. The view kept is the one nearest to the direction, the first of equally near ones
(`make_candidate` of R2R-EnvDrop). Here the walk is a few operations on arrays.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .graphs import Scan
from .views import STEP, VIEW_ELEVATIONS, VIEW_HEADINGS, wrapped

# Half of what the simulator takes for the camera's width: 60 degrees of height, 640 x 480 pixels. It is
# linear in the angle, and no picture's true width. The elevation does not matter.
HALF_WIDTH = 2 * STEP * 640 / 480 / 2


class Candidates(NamedTuple):
    """The candidates of all viewpoints of a scan, one after the other in order.

    Those of viewpoint `a` are the rows from `starts[a]` to `starts[a + 1]`.

    - `starts`: (viewpoint + 1,) int64.
    - `viewpoints`: (candidate,) int64, the number of the neighbour.
    - `views`: (candidate,) int64, the view that is nearest to its direction.
    - `headings`: (candidate,) float64, radians clockwise from north, in [0, 2 pi).
    - `elevations`: (candidate,) float64, radians, up is positive.
    - `distances`: (candidate,) float64, metres.
    """

    starts: np.ndarray
    viewpoints: np.ndarray
    views: np.ndarray
    headings: np.ndarray
    elevations: np.ndarray
    distances: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """(viewpoint,) the number of candidates."""
        return np.diff(self.starts)


def find_candidates(scan: Scan) -> Candidates:
    """Return the candidates of a scan's viewpoints.

    With (dx, dy, dz) from a viewpoint to its neighbour, heading = atan2(dx, dy) and elevation =
    atan2(dz, hypot(dx, dy)). The angle from a view's centre is the root of the sum of the squares of
    the differences of heading and elevation. All in float64: the order of real candidates is
    decided by as little as 7e-7 radians, which float32 does not keep.
    """
    counts = np.array([len(row) for row in scan.neighbours], np.int64)
    here = np.repeat(np.arange(len(counts)), counts)
    there = np.array([b for row in scan.neighbours for b in row], np.int64)
    offsets = scan.positions[there] - scan.positions[here]
    headings, elevations = _directions(offsets)
    off_heading = wrapped(headings[:, None] - VIEW_HEADINGS)  # (candidate, view)
    off_centre = np.sqrt(off_heading**2 + (elevations[:, None] - VIEW_ELEVATIONS) ** 2)
    is_seen = np.abs(off_heading) <= HALF_WIDTH
    first = is_seen.argmax(axis=1)
    order = np.lexsort(
        (there, np.take_along_axis(off_centre, first[:, None], 1)[:, 0], first, here)
    )
    nearest = np.where(is_seen, off_centre, np.inf).argmin(axis=1)  # the first of equal ones
    return Candidates(
        np.concatenate([[0], np.cumsum(counts)]),
        there[order],
        nearest[order],
        headings[order],
        elevations[order],
        np.sqrt((offsets**2).sum(axis=1))[order],
    )


def _directions(offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the headings, in [0, 2 pi), and elevations of (..., 3) offsets, in radians."""
    x, y, z = np.moveaxis(offsets, -1, 0)
    headings = np.arctan2(x, y)
    return np.where(headings < 0, headings + 2 * np.pi, headings), np.arctan2(z, np.hypot(x, y))


def named_candidates(scan: Scan, candidates: Candidates) -> dict[str, list[dict[str, object]]]:
    """Return the candidates of each viewpoint by name, in order; angles in radians from north."""
    rows: Sequence[dict[str, object]] = [
        {
            "viewpoint": scan.viewpoints[there],
            "view": view,
            "heading": heading,
            "elevation": elevation,
            "distance": distance,
        }
        for there, view, heading, elevation, distance in zip(
            *(column.tolist() for column in candidates[1:]), strict=True
        )
    ]
    starts = candidates.starts.tolist()
    return {
        name: list(rows[first:last])
        for name, first, last in zip(scan.viewpoints, starts, starts[1:], strict=False)
    }
