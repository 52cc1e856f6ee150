"""The navigation environment: many episodes at once, on graphs and stored views, without pictures.

An agent stands at a viewpoint and looks through one of its 36 views. Its actions are the viewpoint's
candidates (`candidates.py`) and then STOP. Moving to a candidate leaves it looking through the view that
is nearest to the direction of the move. All episodes of a batch move in a few operations on tensors,
which lie on one device; nothing waits for it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64, Num
from torch import Tensor

from ...base.errors import UsageError
from .candidates import Candidates, find_candidates
from .graphs import Scan
from .views import (
    CIRCLE,
    HEADINGS,
    STEP,
    VIEW_ELEVATIONS,
    VIEW_HEADINGS,
    VIEWS,
    angle4,
    snapped,
)

IGNORED = -100  # no action is right here; the index that torch's cross_entropy leaves out
NOWHERE = -1  # behind the last viewpoint of a reference
ROUNDING = 0.001  # radians: R2R's headings have three decimals


class State(NamedTuple):
    """Where the agents of a batch are."""

    viewpoints: Int64[Tensor, " episode"]  # the numbers of `Environment`
    views: Int64[Tensor, " episode"]
    has_stopped: Bool[Tensor, " episode"]

    def take(self, rows: Int64[Tensor, " row"]) -> "State":
        """Return where some of them are."""
        return State(*(part[rows] for part in self))

    def live(self) -> Int64[Tensor, " row"]:
        """Return the rows of those that have not stopped; on a GPU, this waits for it."""
        return (~self.has_stopped).nonzero()[:, 0]


class Observation(NamedTuple):
    """What the agents of a batch see; angles are as in `views.angle4`, headings relative to the agent's.

    An action is a place in `candidates`: the candidates in order, STOP, and padding.
    """

    views: Float32[Tensor, "episode view dim"]
    view_angles: Float32[Tensor, "episode view 4"]
    candidates: Float32[Tensor, "episode action dim"]  # of the candidate's view; zeros for STOP
    candidate_angles: Float32[Tensor, "episode action 4"]  # zeros for STOP
    is_action: Bool[Tensor, "episode action"]  # a candidate or STOP, not padding
    direction: Float32[Tensor, "episode 4"]  # the agent's own heading, absolute, and elevation


@dataclass(frozen=True)
class Episodes:
    """Where episodes start and lead, as tensors; `reference` ends with NOWHERE at least once."""

    start: State
    goals: Int64[Tensor, " episode"]
    references: Int64[Tensor, "episode place"]

    def __len__(self) -> int:
        return len(self.goals)

    def take(self, rows: Int64[Tensor, " row"]) -> "Episodes":
        """Return some of the episodes, such as those of a batch."""
        return Episodes(self.start.take(rows), self.goals[rows], self.references[rows])


class Environment:
    """Scans in which episodes take place, with the features of all viewpoints.

    Viewpoints are numbered through all scans, in the order of `features.viewpoint_ids`. Everything but
    `features` is on `device`, by default where the features are; features that do not fit on a GPU may
    stay on the host, at the price of a copy a step.

    - `numbers`: {(scan, viewpoint): its number}.
    - `counts`: (viewpoint,) int64, candidates, and so the action STOP.
    - `candidate_viewpoints`, `candidate_views`: (viewpoint, action) int64; at STOP and padding the
      viewpoint itself, and view 0.
    - `positions`: (viewpoint, 3) float64, metres, z up.
    """

    def __init__(
        self,
        scans: Mapping[str, Scan],
        features: Num[Tensor, "viewpoint view dim"],
        device: torch.device | str | None = None,
    ):
        self.device = torch.device(features.device if device is None else device)
        self.features = features
        self.scans = dict(scans)
        names = [(scan.name, name) for scan in scans.values() for name in scan.viewpoints]
        if features.shape[:2] != (len(names), VIEWS):
            raise ValueError(f"features of {len(names)} viewpoints; got {tuple(features.shape)}")
        self.numbers = {name: number for number, name in enumerate(names)}
        tables = _Tables.of(scans.values())
        self.counts = self._tensor(tables.counts)
        self.candidate_viewpoints = self._tensor(tables.viewpoints)
        self.candidate_views = self._tensor(tables.views)
        self.positions = self._tensor(np.concatenate([s.positions for s in scans.values()]))
        self._headings = self._tensor(tables.headings)
        self._elevations = self._tensor(tables.elevations)
        self._rows = self._tensor(tables.rows)
        self._places = self._tensor(tables.places)
        self._distances = self._tensor(tables.distances)
        self._towards = self._tensor(tables.towards)
        bases = VIEW_HEADINGS[:HEADINGS, None]
        relative = angle4(VIEW_HEADINGS - bases, VIEW_ELEVATIONS)  # (heading, view, 4)
        self._view_angles = self._tensor(relative.astype(np.float32))
        self._directions = self._tensor(angle4(VIEW_HEADINGS, VIEW_ELEVATIONS).astype(np.float32))
        self._actions = torch.arange(self.candidate_views.shape[1], device=self.device)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def episodes(
        self, scans: Sequence[str], paths: Sequence[Sequence[str]], headings: Sequence[float]
    ) -> Episodes:
        """Return episodes that start at the beginning of a path and lead to its end.

        `paths` have viewpoints by name, of one scan each; `headings` are in radians, and snapped.
        Raises UsageError for a scan that is not here (E-NAV-SCAN), for a path without viewpoints or
        with one that the scan does not have (E-NAV-PATH), and for a heading that is not within a full
        turn (E-NAV-HEADING).
        """
        numbered = [self._numbered(*each) for each in zip(scans, paths, strict=True)]
        longest = max(map(len, numbered), default=0)
        references = np.full((len(numbered), longest + 1), NOWHERE, np.int64)
        for row, path in zip(references, numbered, strict=True):
            row[: len(path)] = path
        views = snapped(_checked(headings))
        start = State(
            self._tensor(references[:, 0].copy()),
            self._tensor(views),
            torch.zeros(len(numbered), dtype=torch.bool, device=self.device),
        )
        goals = np.array([path[-1] for path in numbered], np.int64)
        return Episodes(start, self._tensor(goals), self._tensor(references))

    def _numbered(self, scan: str, path: Sequence[str]) -> list[int]:
        if scan not in self.scans:
            raise UsageError(
                f"scan {scan!r:.60} has no graph here; add its connectivity file", code="E-NAV-SCAN"
            )
        unknown = [name for name in path if (scan, name) not in self.numbers]
        if unknown or not path:
            problem = f"has no viewpoint {unknown[0]!r:.60}" if unknown else "has an empty path"
            raise UsageError(
                f"scan {scan} {problem}; are the paths and the connectivity files of one data set?",
                code="E-NAV-PATH",
            )
        return [self.numbers[scan, name] for name in path]

    def observe(self, state: State) -> Observation:
        """Return what agents see from where they are; those that have stopped see the same."""
        at = state.viewpoints
        heading = state.views % HEADINGS
        # index_select copies whole rows: on a CPU it is 30 times as fast as features[at].
        views = self.features.index_select(0, at.to(self.features.device)).to(self.device).float()
        is_candidate = self._actions < self.counts[at, None]
        rows = torch.arange(len(at), device=self.device)[:, None] * VIEWS + self.candidate_views[at]
        candidates = views.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, rows.shape)
        relative = self._headings[at] - (heading.double() * STEP)[:, None]
        elevations = self._elevations[at]
        angles = torch.stack(
            [relative.sin(), relative.cos(), elevations.sin(), elevations.cos()], -1
        ).float()
        return Observation(
            views,
            self._view_angles[heading],
            candidates.mul_(is_candidate[..., None]),
            angles * is_candidate[..., None],
            self._actions <= self.counts[at, None],
            self._directions[state.views],
        )

    def step(self, state: State, actions: Int64[Tensor, " episode"]) -> State:
        """Return the state after an action each: a move to a candidate, or STOP.

        Padding, which an agent must not choose, counts as STOP. Who has stopped stays.
        """
        at = state.viewpoints
        has_stopped = state.has_stopped | (actions >= self.counts[at])
        moved_to = self.candidate_viewpoints[at, actions]
        view = self.candidate_views[at, actions]
        return State(
            torch.where(has_stopped, at, moved_to),
            torch.where(has_stopped, state.views, view),
            has_stopped,
        )

    def distances(
        self, starts: Int64[Tensor, "*pair"], goals: Int64[Tensor, "*pair"]
    ) -> Float64[Tensor, "*pair"]:
        """Return metres of shortest paths between viewpoints of one scan each; inf without a path."""
        return self._distances[self._rows[starts] + self._places[goals]]

    def shortest_actions(
        self, state: State, goals: Int64[Tensor, " episode"]
    ) -> Int64[Tensor, " episode"]:
        """Return the actions along shortest paths, STOP at the goal.

        IGNORED for those that have stopped, and where no path leads to the goal.
        """
        actions = self._towards[self._rows[state.viewpoints] + self._places[goals]].long()
        return actions.masked_fill(state.has_stopped, IGNORED)

    def reference_actions(
        self, state: State, references: Int64[Tensor, "episode place"], step: int | None = None
    ) -> Int64[Tensor, " episode"]:
        """Return the actions that follow references, STOP at their ends.

        With `step`, for agents that have followed the reference from its start (teacher forcing): the
        move to its viewpoint number step + 1. Without, for agents that move freely: the move to the
        viewpoint after the first occurrence of the agent's own. There, a reference that visits a
        viewpoint twice leads in a circle, and never to its end. IGNORED for those that have stopped,
        that are off the reference, and where the next viewpoint is no neighbour, as in augmented
        paths of start and goal alone.
        """
        at = state.viewpoints
        is_here = references == at[:, None]
        if step is None:
            place = is_here.int().argmax(1)
            is_on = is_here.any(1)
        else:
            place = torch.full_like(at, min(step, references.shape[1] - 2))
            is_on = torch.ones_like(state.has_stopped)
        following = references.gather(1, place[:, None] + 1)
        target = torch.where(following == NOWHERE, at[:, None], following)
        matches = self.candidate_viewpoints[at] == target  # STOP, then padding, stands for staying
        actions = matches.int().argmax(1)
        has_action = is_on & matches.any(1) & ~state.has_stopped
        return actions.masked_fill(~has_action, IGNORED)

    def teacher_actions(
        self, teacher: str, state: State, episodes: Episodes, step: int
    ) -> Int64[Tensor, " episode"]:
        """Return the actions of a teacher, "shortest" or "reference", at a step of teacher forcing."""
        if teacher == "reference":
            return self.reference_actions(state, episodes.references, step)
        return self.shortest_actions(state, episodes.goals)


def _checked(headings: Sequence[float]) -> np.ndarray:
    """Return headings as an array; raises UsageError (E-NAV-HEADING) for another unit than radians."""
    array = np.asarray(headings, np.float64)
    bad = ~(np.abs(array) <= CIRCLE + ROUNDING)
    if bad.any():
        raise UsageError(
            f"{bad.sum():,} of {len(array):,} headings are not within a full turn, such as "
            f"{array[bad][0]:g}; give radians, -2 pi to 2 pi",
            code="E-NAV-HEADING",
        )
    return array


@dataclass(frozen=True)
class _Tables:
    """The scans' candidates, padded, and their pairs of viewpoints, one scan after the other.

    The pair (a, b) of one scan is at `rows[a] + places[b]` in `distances` and in `towards`, which has
    the action at `a` that leads to `b`.
    """

    counts: np.ndarray
    viewpoints: np.ndarray
    views: np.ndarray
    headings: np.ndarray
    elevations: np.ndarray
    rows: np.ndarray
    places: np.ndarray
    distances: np.ndarray
    towards: np.ndarray

    @classmethod
    def of(cls, scans: Iterable[Scan]) -> "_Tables":
        scans = list(scans)
        found = [find_candidates(scan) for scan in scans]
        sizes = [len(scan.viewpoints) for scan in scans]
        firsts = np.cumsum([0, *sizes])  # the number of each scan's first viewpoint
        counts = np.concatenate([each.counts for each in found])
        actions = int(counts.max(initial=0)) + 1
        viewpoints = np.repeat(np.arange(firsts[-1])[:, None], actions, axis=1)
        views = np.zeros((firsts[-1], actions), np.int64)
        headings, elevations = np.zeros((2, firsts[-1], actions))
        for first, each in zip(firsts, found, strict=False):
            row, column = _cells(each)
            viewpoints[first + row, column] = first + each.viewpoints
            views[first + row, column] = each.views
            headings[first + row, column] = each.headings
            elevations[first + row, column] = each.elevations
        starts = np.cumsum([0, *(size * size for size in sizes)])
        return cls(
            counts,
            viewpoints,
            views,
            headings,
            elevations,
            np.concatenate(
                [start + np.arange(n) * n for start, n in zip(starts, sizes, strict=False)]
            ),
            np.concatenate([np.arange(n) for n in sizes]),
            np.concatenate([scan.distances.ravel() for scan in scans]),
            np.concatenate([_towards(*each).ravel() for each in zip(scans, found, strict=True)]),
        )


def _cells(candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
    """Return the viewpoint of each candidate, and its place among those of the viewpoint."""
    row = np.repeat(np.arange(len(candidates.counts)), candidates.counts)
    return row, np.arange(len(row)) - candidates.starts[row]


def _towards(scan: Scan, candidates: Candidates) -> np.ndarray:
    """Return the action at each viewpoint that leads to each other one: (viewpoint, viewpoint) int16.

    STOP where both are the same, and IGNORED without a path.
    """
    n = len(scan.viewpoints)
    action_to = np.full((n, n + 1), IGNORED, np.int16)  # the last column: next_hop of -1
    row, column = _cells(candidates)
    action_to[row, candidates.viewpoints] = column
    action_to[np.arange(n), np.arange(n)] = candidates.counts
    return np.take_along_axis(action_to, scan.next_hop.astype(np.int64), axis=1)
