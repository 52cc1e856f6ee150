"""Experts: where an agent that walks by chance should go next on its map."""

import copy

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ...navigation.environment import Environment, Episodes
from ...navigation.graphs import TIE_METRES
from ...navigation.known_map import KnownMap
from .rewards import Warping


class DistanceExpert:
    """The unvisited node on the shortest way to the goal: from here to it, and from it to the goal.

    Distances are of the whole graph (Chen et al. 2022). Of equally good nodes, such as
    several on one way, it is the nearest.
    """

    def __init__(self, environment: Environment, episodes: Episodes):
        self.environment, self.goals = environment, episodes.goals

    def take(self, rows: Int64[Tensor, " row"]) -> None:
        """Go on with some of the episodes."""
        self.goals = self.goals[rows]

    def move(self, walks: Int64[Tensor, "episode place"]) -> None:
        """Note walks; they do not matter."""

    def nodes(self, known: KnownMap) -> Int64[Tensor, " episode"]:
        """Return the node for each agent; any where none is unvisited."""
        here = known.viewpoints.gather(1, known.here[:, None])
        there = torch.where(known.is_node, known.viewpoints, here)
        to_node = self.environment.distances(here.expand_as(there), there)
        metres = to_node + self.environment.distances(there, self.goals[:, None].expand_as(there))
        return nearest_of_least(metres, to_node, known)


class WarpExpert:
    """The unvisited node to which the walk follows the reference best, by nDTW; for RxR.

    The walk goes on over known paths. Of equally good nodes it is the nearest. Nodes are compared by
    DTW, which orders them as nDTW does: of long walks that is so near 0 that all would seem equal.
    """

    def __init__(self, environment: Environment, episodes: Episodes):
        self.warping = Warping(environment, episodes)

    def take(self, rows: Int64[Tensor, " row"]) -> None:
        """Go on with some of the episodes."""
        self.warping.take(rows)

    def move(self, walks: Int64[Tensor, "episode place"]) -> None:
        """Note walks, which begin where the agents were."""
        _warp(self.warping, walks)

    def nodes(self, known: KnownMap) -> Int64[Tensor, " episode"]:
        """Return the node for each agent; any where none is unvisited."""
        episodes, nodes = known.viewpoints.shape
        numbers = torch.arange(nodes, device=known.here.device).expand(episodes, -1)
        walks = known.walks(numbers)
        warping = copy.copy(self.warping)
        warping.take(torch.arange(episodes, device=numbers.device).repeat_interleave(nodes))
        _warp(warping, walks.flatten(0, 1))
        to_node = known.metres.gather(1, known.here[:, None, None].expand(-1, 1, nodes))[:, 0]
        return nearest_of_least(warping.metres.view(episodes, nodes), to_node, known)


Expert = DistanceExpert | WarpExpert


def make_expert(kind: str, environment: Environment, episodes: Episodes) -> Expert:
    """Return the expert for some episodes, "distance" or "ndtw"."""
    return (WarpExpert if kind == "ndtw" else DistanceExpert)(environment, episodes)


def nearest_of_least(
    costs: Float64[Tensor, "episode node"], metres: Float64[Tensor, "episode node"], known: KnownMap
) -> Int64[Tensor, " episode"]:
    """Return the unvisited node with the least cost, the nearest one where costs are equal."""
    costs = costs.masked_fill(~known.is_unvisited, torch.inf)
    is_least = costs <= costs.min(1, keepdim=True).values + TIE_METRES
    return metres.masked_fill(~(is_least & known.is_unvisited), torch.inf).argmin(1)


def _warp(warping: Warping, walks: Int64[Tensor, "episode place"]) -> None:
    for before, after in zip(walks.T, walks.T[1:], strict=False):
        warping.move(after, after != before)
