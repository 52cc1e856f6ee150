"""What sampled walks are rewarded for, and the returns of rewards."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from ...metrics.navigation import NEAR
from ...navigation.environment import NOWHERE, Environment, Episodes, State

MOVE, STOP = 1.0, 2.0  # rewards of a move that comes nearer, and of stopping at the goal
PASSED = 1.0  # metres: who leaves a goal that is nearer loses points, with the reward "ndtw"


class DistanceReward:
    """EnvDrop's reward: +1 for a move that comes nearer to the goal and -1 for one away from it.

    STOP has +2 less than 3 m from the goal, else -2. A move that changes nothing has 0.
    """

    def __init__(self, environment: Environment, episodes: Episodes):
        self.environment, self.goals = environment, episodes.goals
        self.metres = environment.distances(episodes.start.viewpoints, episodes.goals)

    def take(self, rows: Int64[Tensor, " row"]) -> None:
        """Go on with some of the episodes."""
        self.goals, self.metres = self.goals[rows], self.metres[rows]

    def of(self, state: State) -> Float64[Tensor, " episode"]:
        """Return the rewards of the step to `state`, of agents that had not stopped before."""
        before, self.metres = (
            self.metres,
            self.environment.distances(state.viewpoints, self.goals),
        )
        moved = MOVE * (before - self.metres).sign()
        stopped = torch.where(self.metres < NEAR, STOP, -STOP).to(moved.dtype)
        return torch.where(state.has_stopped, stopped, moved)


class WarpReward(DistanceReward):
    """The reward of Recurrent VLN-BERT and HAMT, which adds how well the walk follows its reference.

    A move has the change of nDTW on top, and loses 2 (1 - d) where it leads away from a goal that is d
    <= 1 metres off. STOP has 2 + 2 nDTW less than 3 m from the goal, else -2.
    """

    def __init__(self, environment: Environment, episodes: Episodes):
        super().__init__(environment, episodes)
        self.warping = Warping(environment, episodes)

    def take(self, rows: Int64[Tensor, " row"]) -> None:
        """Go on with some of the episodes."""
        super().take(rows)
        self.warping.take(rows)

    def of(self, state: State) -> Float64[Tensor, " episode"]:
        """Return the rewards of the step to `state`, of agents that had not stopped before."""
        before, ndtw = self.metres, self.warping.ndtw
        reward = super().of(state)
        self.warping.move(state.viewpoints, ~state.has_stopped)
        passed = (before <= PASSED) & (self.metres > before)
        moved = reward + self.warping.ndtw - ndtw - torch.where(passed, 2 * (1 - before), 0.0)
        stopped = torch.where(reward > 0, reward + STOP * ndtw, reward)
        return torch.where(state.has_stopped, stopped, moved)


class Warping:
    """The nDTW of walks so far (train/metrics/navigation.py), of many at once.

    `row` is the last row of the table of dynamic time warping: for each place of the reference, the
    cost of warping the walk so far to the reference up to that place.
    """

    row: Float64[Tensor, "episode place"]

    def __init__(self, environment: Environment, episodes: Episodes):
        self.environment, self.references = environment, episodes.references
        self.lengths = (episodes.references != NOWHERE).sum(1)
        costs = self._costs(episodes.start.viewpoints)
        self.row = costs.cumsum(1)

    @property
    def metres(self) -> Float64[Tensor, " episode"]:
        """The cost of warping each walk so far to its reference: DTW."""
        return self.row.gather(1, self.lengths[:, None] - 1)[:, 0]

    @property
    def ndtw(self) -> Float64[Tensor, " episode"]:
        """The nDTW of each walk so far, from 0 to 1."""
        return (-self.metres / (NEAR * self.lengths)).exp()

    def take(self, rows: Int64[Tensor, " row"]) -> None:
        """Go on with some of the walks."""
        self.references, self.lengths = self.references[rows], self.lengths[rows]
        self.row = self.row[rows]

    def move(self, viewpoints: Int64[Tensor, " episode"], moves: Bool[Tensor, " episode"]) -> None:
        """Add a viewpoint to the walks that move.

        With c the costs of the new viewpoint and m_j the smaller one of row_j and row_{j-1}, the new
        row is r_j = c_j + min(m_j, r_{j-1}). So r_j is the least of m_i + c_i + ... + c_j over i <= j,
        which with C = cumsum(c) is C_j + min_{i <= j} (m_i - C_{i-1}): no loop over places.
        """
        costs = self._costs(viewpoints)
        total = costs.cumsum(1)
        shifted = torch.nn.functional.pad(self.row[:, :-1], (1, 0), value=math.inf)
        least = torch.minimum(self.row, shifted)
        row = total + (least - (total - costs)).cummin(1).values
        self.row = torch.where(moves[:, None], row, self.row)

    def _costs(self, viewpoints: Int64[Tensor, " episode"]) -> Float64[Tensor, "episode place"]:
        """Return metres to each place of the reference; 0 behind its end."""
        is_place = self.references != NOWHERE
        places = torch.where(is_place, self.references, viewpoints[:, None])
        return self.environment.distances(viewpoints[:, None].expand_as(places), places)


def make_reward(kind: str, environment: Environment, episodes: Episodes) -> DistanceReward:
    """Return what rewards the walks of some episodes, "distance" or "ndtw"."""
    return (WarpReward if kind == "ndtw" else DistanceReward)(environment, episodes)


def returns(
    rewards: Sequence[Float64[Tensor, " episode"]],
    last: Float64[Tensor, " episode"],
    discount: float,
) -> Float64[Tensor, "step episode"]:
    """Return R_t = r_t + discount * R_{t+1} of each step, where `last` follows the last step.

    Rewards are 0 after the end of a walk, and so is `last` of a walk that has stopped.
    """
    found: list[Tensor] = []
    for reward in reversed(rewards):
        last = reward + discount * last
        found.append(last)
    return torch.stack(found[::-1])
