"""The Matterport3D simulator without pictures, and the walks of published agents, in plain Python.

One viewpoint and one view at a time, as its documentation describes it: what the benchmark of navigation
compares with, and the truth that its tests hold the arrays to.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

STEP = math.radians(30)
HALF_WIDTH = math.radians(60) * 640 / 480 / 2


class Location(NamedTuple):
    """A viewpoint that the simulator offers, with its direction relative to the camera's."""

    viewpoint: int
    heading: float
    elevation: float
    distance: float


@dataclass
class Candidate:
    """What the walk has found out about a neighbour."""

    viewpoint: int
    view: int
    location: int
    heading: float
    elevation: float
    distance: float
    off_centre: float


class PlainSimulator:
    """One agent in one scan, whose viewing angles are multiples of 30 degrees."""

    def __init__(
        self, positions: Sequence[Sequence[float]], neighbours: Mapping[int, Sequence[int]]
    ):
        self._positions = [tuple(map(float, position)) for position in positions]
        self._neighbours = neighbours
        self.viewpoint, self._turn, self._row = 0, 0, 1

    def new_episode(self, viewpoint: int, heading: float, elevation: float) -> None:
        """Start at a viewpoint, with angles in radians."""
        self.viewpoint = viewpoint
        self._snap(heading, elevation)

    def make_action(self, location: int, heading: float, elevation: float) -> None:
        """Move to one of the navigable locations, then turn by 30 degrees each where not 0."""
        self.viewpoint = self.navigable()[location].viewpoint
        self._snap(
            self.heading + STEP * _sign(heading),
            self.elevation + STEP * _sign(elevation),
        )

    @property
    def heading(self) -> float:
        """Radians clockwise from +y."""
        return self._turn * STEP

    @property
    def elevation(self) -> float:
        """Radians, up is positive."""
        return (self._row - 1) * STEP

    @property
    def view(self) -> int:
        """The number of the view, 0 to 35."""
        return self._row * 12 + self._turn

    def navigable(self) -> list[Location]:
        """Return where one can move: here, and the neighbours in the camera's width by angle."""
        here = self._positions[self.viewpoint]
        found = []
        for neighbour in self._neighbours[self.viewpoint]:
            x, y, z = (a - b for a, b in zip(self._positions[neighbour], here, strict=True))
            off = math.atan2(x, y) - self.heading
            while off <= -math.pi:
                off += 2 * math.pi
            while off > math.pi:
                off -= 2 * math.pi
            if abs(off) <= HALF_WIDTH:
                up = math.atan2(z, math.hypot(x, y)) - self.elevation
                found.append(Location(neighbour, off, up, math.sqrt(x * x + y * y + z * z)))
        found.sort(key=lambda each: math.sqrt(each.heading**2 + each.elevation**2))
        return [Location(self.viewpoint, 0, 0, 0), *found]

    def _snap(self, heading: float, elevation: float) -> None:
        while heading < 0:
            heading += 2 * math.pi
        while heading >= 2 * math.pi:
            heading -= 2 * math.pi
        self._turn = math.floor(heading / STEP + 0.5) % 12
        self._row = 1 + (elevation > STEP / 2) - (elevation < -STEP / 2)


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


def walk_views(simulator: PlainSimulator) -> list[Candidate]:
    """Return the candidates here as R2R-EnvDrop finds them: by turning through all 36 views."""
    found: dict[int, Candidate] = {}
    for view in range(36):
        if view == 0:
            simulator.new_episode(simulator.viewpoint, 0, -STEP)
        else:
            simulator.make_action(0, 1, 1 if view % 12 == 0 else 0)
        assert simulator.view == view
        for number, each in enumerate(simulator.navigable()[1:], start=1):
            off_centre = math.sqrt(each.heading**2 + each.elevation**2)
            seen = found.get(each.viewpoint)
            if seen is None or off_centre < seen.off_centre:
                heading = (simulator.heading + each.heading) % (2 * math.pi)
                elevation = simulator.elevation + each.elevation
                found[each.viewpoint] = Candidate(
                    each.viewpoint, view, number, heading, elevation, each.distance, off_centre
                )
    return list(found.values())


def move_to(simulator: PlainSimulator, candidate: Candidate) -> int:
    """Tilt to the row of a candidate's view, turn right until it is reached, and move.

    Returns the number of frames that published agents record on the way.
    """
    frames = 1
    while simulator.view // 12 != candidate.view // 12:
        simulator.make_action(0, 0, 1 if simulator.view // 12 < candidate.view // 12 else -1)
        frames += 1
    while simulator.view != candidate.view:
        simulator.make_action(0, 1, 0)
        frames += 1
    simulator.make_action(candidate.location, 0, 0)
    assert simulator.viewpoint == candidate.viewpoint
    return frames
