"""Houses of coloured rooms: their graph, what is in them, and paths with instructions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import NamedTuple

import numpy as np

from ..train.navigation.graphs import Scan, make_scan

# Of walls, as RGB; floors, ceilings and frames of doors are grey.
WALL_COLORS = {
    "red": (200, 40, 40),
    "green": (50, 150, 60),
    "blue": (45, 85, 210),
    "yellow": (235, 210, 60),
    "purple": (130, 60, 175),
    "orange": (240, 140, 40),
    "pink": (245, 160, 190),
    "brown": (120, 75, 45),
    "cyan": (80, 205, 215),
}
THING_COLORS = {"white": (240, 240, 240), "black": (25, 25, 25)}
SHAPES = ("pillar", "ball")

ROOM = 8.0  # metres, a side
CEILING, EYE = 2.8, 1.5  # metres above the floor
DOOR_HALF_WIDTH, DOOR_HEIGHT = 1.5, 2.3
OFF_MIDDLE = 0.4  # metres, at most, from the middle of a room to its viewpoint, along x and y
OFF_CENTRE = 0.6  # metres, at most, from the middle of a wall to its door
CORNER = 2.6  # metres from the middle of a room to its thing, along x and y: out of the way
RADIUS = {"pillar": 0.35, "ball": 0.6}
FEWEST_SIDE, MOST_SIDE = 3, 6  # rooms along a side
# Rooms on a path: at least 3, since with 2 a walker by chance is right half of the time.
FEWEST_ROOMS = 3
MAX_PATHS = 60  # of a house
TEXTS = 3  # instructions of a path, as in R2R


class Place(NamedTuple):
    """A viewpoint."""

    name: str  # of a room "b2", column and row from the south-west; of a door its rooms, "b2-b3"
    x: float  # metres to the east
    y: float  # metres to the north


class Door(NamedTuple):
    """A hole in the wall between two neighbouring rooms."""

    rooms: tuple[int, int]
    axis: int  # of the wall's normal: 0 for a wall of constant x, 1 of constant y
    wall: float  # metres, the constant
    centre: float  # metres along the wall


class Thing(NamedTuple):
    """What stands in a room: a ball on the floor, or a pillar from the floor to the ceiling."""

    shape: str
    color: str
    x: float
    y: float

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"


class Path(NamedTuple):
    """A way through rooms that is the shortest between its ends, and texts that describe it."""

    viewpoints: tuple[str, ...]  # room, door, room, ..., room
    rooms: tuple[int, ...]
    metres: float
    heading: float  # radians, at the start; it has nothing to do with the way
    texts: tuple[str, ...]


@dataclass(frozen=True)
class House:
    """A square of `side` x `side` rooms; room `side * row + column` has its row from the south.

    Walls between rooms have a door each. `places` are the viewpoints, first those of rooms.
    """

    name: str
    side: int
    colors: tuple[str, ...]  # of each room's walls
    things: tuple[Thing, ...]  # of each room
    doors: tuple[Door, ...]
    places: tuple[Place, ...]
    edges: tuple[tuple[int, int], ...]  # pairs of places

    @cached_property
    def scan(self) -> Scan:
        """The graph with shortest paths."""
        positions = np.array([(place.x, place.y, EYE) for place in self.places])
        return make_scan(self.name, [place.name for place in self.places], positions, self.edges)


def house_generator(seed: int, number: int, purpose: int) -> np.random.Generator:
    """Return the random numbers of one house for one purpose, independent of other houses."""
    return np.random.default_rng((seed, number, purpose))


def make_house(seed: int, number: int, side: int) -> House:
    """Return a house, which depends only on the arguments.

    No two rooms of a colour are fewer than three doors from each other, so that "the blue room" is one
    of an agent's neighbours at most.
    """
    rng = house_generator(seed, number, 0)
    cells = [(row, column) for row in range(side) for column in range(side)]
    rooms = [
        Place(
            _cell_name(row, column),
            *_near((column + 0.5) * ROOM, (row + 0.5) * ROOM, OFF_MIDDLE, rng),
        )
        for row, column in cells
    ]
    doors = [
        _make_door(room, other, axis, side, rng)
        for room, (row, column) in enumerate(cells)
        for axis, other in ((0, room + 1), (1, room + side))
        if (column, row)[axis] + 1 < side
    ]
    things = []
    for row, column in cells:
        shape = str(rng.choice(SHAPES))
        dx, dy = rng.choice([-CORNER, CORNER], 2)
        x, y = _near((column + 0.5) * ROOM + dx, (row + 0.5) * ROOM + dy, 0.3, rng)
        things.append(Thing(shape, str(rng.choice(list(THING_COLORS))), x, y))
    openings = [
        Place(
            f"{rooms[door.rooms[0]].name}-{rooms[door.rooms[1]].name}",
            *((door.wall, door.centre) if door.axis == 0 else (door.centre, door.wall)),
        )
        for door in doors
    ]
    edges = tuple(
        (room, len(rooms) + number) for number, door in enumerate(doors) for room in door.rooms
    )
    return House(
        f"house{number:03}",
        side,
        _choose_colors(cells, rng),
        tuple(things),
        tuple(doors),
        (*rooms, *openings),
        edges,
    )


def _cell_name(row: int, column: int) -> str:
    return f"{'abcdef'[column]}{row + 1}"


def _near(x: float, y: float, most: float, rng: np.random.Generator) -> tuple[float, float]:
    """Return a point at most so many metres off along x and y, rounded to millimetres."""
    dx, dy = rng.uniform(-most, most, 2)
    return round(float(x + dx), 3), round(float(y + dy), 3)


def _make_door(room: int, other: int, axis: int, side: int, rng: np.random.Generator) -> Door:
    row, column = divmod(room, side)
    across, along = (column, row) if axis == 0 else (row, column)
    off = rng.uniform(-OFF_CENTRE, OFF_CENTRE)
    centre = round(float((along + 0.5) * ROOM + off), 3)
    return Door((room, other), axis, (across + 1) * ROOM, centre)


def _choose_colors(cells: Sequence[tuple[int, int]], rng: np.random.Generator) -> tuple[str, ...]:
    """Return a colour for each cell, row by row, that no cell within two steps of it has.

    At most six of the cells before are so near, fewer than there are colours.
    """
    chosen: dict[tuple[int, int], str] = {}
    for row, column in cells:
        taken = {color for (r, c), color in chosen.items() if abs(r - row) + abs(c - column) <= 2}
        chosen[row, column] = str(
            rng.choice([color for color in WALL_COLORS if color not in taken])
        )
    return tuple(chosen.values())


def make_paths(house: House, seed: int, number: int) -> list[Path]:
    """Return the paths of a house, in a random order, at most MAX_PATHS.

    They are the shortest ways between two rooms with 1 to `side` - 1 rooms between them.
    """
    rng = house_generator(seed, number, 1)
    scan, rooms = house.scan, house.side**2
    found = []
    for start, goal in product(range(rooms), repeat=2):
        places = scan.path(start, goal)
        if FEWEST_ROOMS <= (len(places) + 1) // 2 <= house.side + 1:
            found.append(places)
    paths = []
    for n in rng.permutation(len(found))[:MAX_PATHS]:
        places = found[n]
        paths.append(
            Path(
                tuple(scan.viewpoints[place] for place in places),
                tuple(places[::2]),
                float(scan.distances[places[0], places[-1]]),
                round(float(rng.uniform(0, 2 * np.pi)), 3),
                tuple(_texts(house, places[::2], rng)),
            )
        )
    return paths


def _texts(house: House, rooms: Sequence[int], rng: np.random.Generator) -> Iterator[str]:
    """Yield TEXTS instructions, which say what is seen on the way, and never left or right."""
    start, *between, goal = (house.colors[room] for room in rooms)
    thing = house.things[rooms[-1]].name
    crossed = " and the ".join(f"{color} room" for color in between)
    onward = ", ".join(f"then the {color} one" for color in between)
    templates = (
        f"Leave the {start} room, cross the {crossed}, enter the {goal} room and wait.",
        f"From the {start} room go through the {crossed} to the {goal} room. Stop in its middle.",
        f"Walk out of the {start} room: first {onward.removeprefix('then ')}, and stop in the {goal} one.",
        f"You are in the {start} room. Pass through the {crossed}; your goal is the {goal} room with "
        f"the {thing}.",
    )
    for n in rng.permutation(len(templates))[:TEXTS]:
        yield templates[n]
