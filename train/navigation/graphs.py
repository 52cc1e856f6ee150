"""The graph of a scan: viewpoints that one can stand at, and the ways between them.

A connectivity file of the Matterport3D simulator, `SCAN_connectivity.json`, is a list with an object
for each panorama: `image_id`, `pose` (a 4 x 4 matrix row by row, camera to world, in metres, z up),
`included`, and `unobstructed`, which says for each panorama of the list whether one can walk there.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import numpy as np
from msgspec import Meta

from ...base.errors import ClipfeatError, UsageError, reason_of
from ...base.files import text_lines
from ...base.jsonio import as_struct, list_items, read_json
from ...base.text import counted, is_unicode

SUFFIX = "_connectivity.json"
MAX_FILE_BYTES = 1 << 26  # the largest of Matterport3D has 605,095
# The largest scan of Matterport3D has 348; distances take memory by the square.
MAX_VIEWPOINTS = 2048
MAX_SCANS = 100_000  # that a list may name
MAX_NAME = 255  # characters of a scan's or viewpoint's name
MAX_METRES = 1e6  # from the origin; NaN is not in it either
MIN_METRES = 1e-6  # between neighbours, seen from above: nearer ones have no heading
SHORT_METRES = 0.01  # an edge below has a direction that a rounding of the pose changes
TIE_METRES = 1e-9  # paths whose lengths differ by less are equally long
NOT_ROTATED = 1e-3  # how far a rotation's products of rows may be from 0 and 1
NAMED = 3  # viewpoints that a message names

Number = Annotated[float, Meta(description="a number")]


class Panorama(msgspec.Struct):
    """One object of a connectivity file; `visible` and `height` are not needed."""

    image_id: Annotated[str, Meta(min_length=1, max_length=MAX_NAME, description="a name")]
    pose: Annotated[
        list[Number], Meta(min_length=16, max_length=16, description="a list of 16 numbers")
    ]
    included: bool
    unobstructed: list[bool]


@dataclass(frozen=True, eq=False)
class Scan:
    """The viewpoints of a scan, those that the simulator may enter, in the order of its file.

    Viewpoints have numbers, their places in `viewpoints`; `index` has the number of each name.

    - `positions`: (viewpoint, 3) float64, metres, z up.
    - `neighbours`: of each viewpoint, the numbers of those that one can walk to, ascending.
    - `distances`: (viewpoint, viewpoint) float64, metres of the shortest path; inf without one.
    - `next_hop`: (viewpoint, viewpoint) int32, the viewpoint after `a` on a shortest path from `a` to
      `b`: `a` itself where a = b, and -1 without a path. Of equally short paths it takes the one over
      the neighbour with the lowest number.
    - `odd`: what is unusual about the scan, for people.
    """

    name: str
    viewpoints: tuple[str, ...]
    index: dict[str, int]
    positions: np.ndarray
    neighbours: tuple[tuple[int, ...], ...]
    distances: np.ndarray
    next_hop: np.ndarray
    odd: tuple[str, ...]

    def path(self, start: int, goal: int) -> list[int]:
        """Return the viewpoints of a shortest path, with both ends; none if there is no path."""
        if self.next_hop[start, goal] < 0:
            return []
        path = [start]
        while path[-1] != goal:
            path.append(int(self.next_hop[path[-1], goal]))
        return path

    @property
    def edges(self) -> list[tuple[int, int]]:
        """Each pair of neighbours once, the lower number first."""
        return [(a, b) for a, row in enumerate(self.neighbours) for b in row if a < b]

    @property
    def metres(self) -> float:
        """The length of all edges."""
        return math.fsum(math.dist(self.positions[a], self.positions[b]) for a, b in self.edges)


def image_id(scan: str, viewpoint: str) -> str:
    """Return the id of a viewpoint in a store, as `clipfeat manifest --views` makes it."""
    return f"{scan}_{viewpoint}"


def make_scan(
    name: str,
    viewpoints: Sequence[str],
    positions: np.ndarray,
    edges: Iterable[Sequence[int]],
    odd: Collection[str] = (),
) -> Scan:
    """Return a scan made of its parts; `edges` are pairs of places in `viewpoints`.

    `positions` are (viewpoint, 3) in metres, and an edge is as long as the straight line. Raises
    UsageError (E-NAV-GRAPH) for neighbours between which there is no heading: at the same place, or one
    above the other.
    """
    positions = np.asarray(positions, np.float64).reshape(len(viewpoints), 3)
    linked = np.zeros((len(viewpoints), len(viewpoints)), bool)
    for a, b in edges:
        linked[a, b] = linked[b, a] = True
    squares = (positions[:, None] - positions) ** 2
    level, straight = np.sqrt(squares[..., :2].sum(-1)), np.sqrt(squares.sum(-1))
    for a, b in np.argwhere(linked & (level < MIN_METRES))[:1].tolist():
        _refuse(
            f"scan {name}: the neighbours {viewpoints[a]} and {viewpoints[b]} are at the same place or "
            "one above the other, so that no heading leads from one to the other; exclude one"
        )
    distances = _shortest(np.where(linked, straight, np.inf))
    return Scan(
        name,
        tuple(viewpoints),
        {viewpoint: number for number, viewpoint in enumerate(viewpoints)},
        positions,
        tuple(tuple(np.flatnonzero(row).tolist()) for row in linked),
        distances,
        _next_hops(linked, straight, distances),
        (*odd, *_what_is_odd(viewpoints, linked, straight, distances)),
    )


def _shortest(lengths: np.ndarray) -> np.ndarray:
    """Return the lengths of all shortest paths by Floyd and Warshall's algorithm.

    They are Dijkstra's up to the rounding of sums, and take one operation on a matrix a viewpoint.
    """
    distances = lengths.copy()
    np.fill_diagonal(distances, 0)
    through = np.empty_like(distances)
    for k in range(len(distances)):
        np.add(distances[:, k, None], distances[k], out=through)
        np.minimum(distances, through, out=distances)
    return distances


def _next_hops(linked: np.ndarray, straight: np.ndarray, distances: np.ndarray) -> np.ndarray:
    hops = np.full(distances.shape, -1, np.int32)
    for a, row in enumerate(linked):
        neighbours = np.flatnonzero(row)
        if len(neighbours):
            lengths = straight[a, neighbours, None] + distances[neighbours]  # (neighbour, goal)
            first = (lengths <= lengths.min(axis=0) + TIE_METRES).argmax(axis=0)
            hops[a] = np.where(np.isfinite(distances[a]), neighbours[first], -1)
        hops[a, a] = a
    return hops


def _what_is_odd(
    viewpoints: Sequence[str], linked: np.ndarray, straight: np.ndarray, distances: np.ndarray
) -> list[str]:
    odd = []
    alone = np.flatnonzero(~linked.any(axis=1))
    if len(alone):
        odd.append(f"{_named(viewpoints, alone.tolist())} without an edge")
    parts = len({int(row.argmax()) for row in np.isfinite(distances)}) - len(alone)
    if parts > 1:
        odd.append(f"{parts} parts without a way from one to another")
    short = np.argwhere(np.triu(linked & (straight < SHORT_METRES)))
    if len(short):
        a, b = short[0].tolist()
        odd.append(
            f"{counted(len(short), 'edge')} shorter than {SHORT_METRES * 100:g} cm: "
            f"{viewpoints[a]} to {viewpoints[b]}{', ...' if len(short) > 1 else ''}"
        )
    return odd


def _named(viewpoints: Sequence[str], numbers: Sequence[int]) -> str:
    names = ", ".join(viewpoints[number] for number in numbers[:NAMED])
    more = ", ..." if len(numbers) > NAMED else ""
    return f"{counted(len(numbers), 'viewpoint')} ({names}{more})"


def read_scan(path: Path) -> Scan:
    """Return the scan of a connectivity file, which has the scan's name: `SCAN_connectivity.json`.

    Excluded panoramas are left out, with the edges that lead to them. Raises UsageError (E-NAV-GRAPH)
    for a file that is not a connectivity file, whose poses are not finite rotations with a
    position, whose names occur twice, whose edges lead one way only, or that has more than
    MAX_VIEWPOINTS panoramas.
    """
    if not path.name.endswith(SUFFIX):
        _refuse(f"{path}: a connectivity file is named SCAN{SUFFIX}; rename it")
    try:
        value = read_json(path, MAX_FILE_BYTES)
        items = [item for _, item in list_items(value, path, of="panoramas")]
        if len(items) > MAX_VIEWPOINTS:
            raise ValueError(f"{len(items):,} panoramas; at most {MAX_VIEWPOINTS:,} are supported")
        panoramas = as_struct(items, list[Panorama], "panoramas")
        _check_names(panoramas)
        poses = _poses(panoramas)
        links = _links(panoramas)
    except (ClipfeatError, ValueError) as error:
        text = str(error).removeprefix(f"{path}: ")
        _refuse(f"{path}: {text}; copy the file again, or correct it")
    kept = [number for number, each in enumerate(panoramas) if each.included]
    odd = []
    if len(kept) < len(panoramas):
        odd.append(f"{counted(len(panoramas) - len(kept), 'panorama')} excluded")
    return make_scan(
        path.name.removesuffix(SUFFIX),
        [panoramas[number].image_id for number in kept],
        poses[kept, :3, 3],
        np.argwhere(links[np.ix_(kept, kept)]).tolist(),
        odd,
    )


def _check_names(panoramas: Sequence[Panorama]) -> None:
    names: set[str] = set()
    for each in panoramas:
        if each.image_id in names:
            raise ValueError(f"the image_id {each.image_id!r} occurs twice")
        if not is_unicode(each.image_id):
            raise ValueError(f"the image_id {each.image_id!r} contains half a surrogate pair")
        names.add(each.image_id)
    if not any(each.included for each in panoramas):
        raise ValueError("no panorama is included, so that one can stand nowhere")


def _poses(panoramas: Sequence[Panorama]) -> np.ndarray:
    """Return (panorama, 4, 4) float64; raises ValueError for one that is not a pose."""
    poses = np.array([each.pose for each in panoramas], np.float64).reshape(-1, 4, 4)
    rotations = poses[:, :3, :3]
    with np.errstate(all="ignore"):  # what overflows is not a rotation either
        products = rotations @ rotations.swapaxes(1, 2)
        is_pose = (
            (np.abs(poses) <= MAX_METRES).all(axis=(1, 2))
            & (np.abs(products - np.eye(3)) < NOT_ROTATED).all(axis=(1, 2))
            & (poses[:, 3] == (0, 0, 0, 1)).all(axis=1)
        )
    for number in np.flatnonzero(~is_pose)[:1]:
        raise ValueError(
            f"the pose of {panoramas[number].image_id} is not a rotation and a position, row by row "
            f"with 0 0 0 1 last: {panoramas[number].pose!r:.80}"
        )
    return poses


def _links(panoramas: Sequence[Panorama]) -> np.ndarray:
    """Return (panorama, panorama) bool; raises ValueError unless it is square and symmetric."""
    for each in panoramas:
        if len(each.unobstructed) != len(panoramas):
            raise ValueError(
                f"{each.image_id} has {len(each.unobstructed):,} values of unobstructed; "
                f"expected one for each of {counted(len(panoramas), 'panorama')}"
            )
    links = np.array([each.unobstructed for each in panoramas], bool)
    for a, b in np.argwhere(links & ~links.T)[:1]:
        raise ValueError(
            f"one can walk from {panoramas[a].image_id} to {panoramas[b].image_id} and not back"
        )
    if links.diagonal().any():
        number = int(links.diagonal().argmax())
        raise ValueError(f"{panoramas[number].image_id} is its own neighbour")
    return links


def scan_names(folder: Path) -> list[str]:
    """Return the names in the folder's `scans.txt`; without it, those of all connectivity files.

    Raises UsageError (E-NAV-SCAN) for a folder with neither, and for a list that cannot be read.
    """
    listed = folder / "scans.txt"
    try:
        if listed.exists():
            lines = (text.strip() for _, text in text_lines(listed, MAX_NAME * 4))
            names = list(islice(filter(None, lines), MAX_SCANS + 1))
            if len(names) > MAX_SCANS:
                raise ValueError(f"it names more than {MAX_SCANS:,} scans")
        else:
            names = sorted(_connectivity_files(folder))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{listed}: cannot be read ({reason_of(error)})", code="E-NAV-SCAN"
        ) from None
    if not names:
        raise UsageError(
            f"{folder} has no connectivity files; expected SCAN{SUFFIX}, as the folder connectivity of "
            "the Matterport3D simulator has them",
            code="E-NAV-SCAN",
        )
    return names


def read_scans(folder: Path, names: Iterable[str] | None = None) -> dict[str, Scan]:
    """Return the scans of a folder by name: those of `names`, or all (see `scan_names`).

    Raises UsageError (E-NAV-SCAN) that says which have no file, and as `read_scan` does.
    """
    wanted = list(dict.fromkeys(scan_names(folder) if names is None else names))
    there = _connectivity_files(folder)
    missing = [name for name in wanted if name not in there]
    if missing:
        named = ", ".join(f"{name!r:.60}" for name in missing[:NAMED])
        raise UsageError(
            f"{folder}: no connectivity file of {counted(len(missing), 'scan')} ({named}"
            f"{', ...' if len(missing) > NAMED else ''}); a scan needs the file SCAN{SUFFIX}",
            code="E-NAV-SCAN",
        )
    return {name: read_scan(there[name]) for name in wanted}


def _connectivity_files(folder: Path) -> dict[str, Path]:
    """Return the connectivity files of a folder by scan."""
    try:
        paths = [path for path in folder.iterdir() if path.name.endswith(SUFFIX)]
    except OSError as error:
        raise UsageError(f"{folder}: {reason_of(error)}", code="E-NAV-SCAN") from None
    return {path.name.removesuffix(SUFFIX): path for path in paths}


def _refuse(text: str) -> NoReturn:
    raise UsageError(text, code="E-NAV-GRAPH")
