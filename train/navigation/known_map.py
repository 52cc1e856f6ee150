"""What the agents of a batch know of their scans: where they have been, and what they saw from there.

The topological map of DUET (Chen et al. 2022), for all episodes of a batch in a few operations on
tensors. Nodes are viewpoints that an agent has visited or has seen as candidates. A way is known when one
of its ends has been visited, and a path leads through visited nodes only: a walk along it meets
nothing new.
"""

import math

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor
from torch.nn.functional import one_hot, pad

from .environment import NOWHERE, Environment, State
from .views import HEADINGS, STEP

FAR = 30.0  # metres that distances are divided by, as in DUET
MANY_STEPS = 10.0  # what numbers of steps are divided by
POSE = 7  # numbers that say where a node is


class KnownMap:
    """The nodes of all episodes, in the order of first sight; the start is node 0.

    Tables are padded to the most nodes that an episode has, and grow. An agent is at a node of its map.

    - `viewpoints`: (episode, node) int64, numbers of the environment; NOWHERE in padding.
    - `visited_at`: (episode, node) int64, the visit at which the agent was first there, from 1; 0 for
      nodes that are only seen.
    - `metres`: (episode, node, node) float64, lengths of shortest known paths; inf without one.
    - `steps`: (episode, node, node) int64, moves of these paths.
    - `here`: (episode,) int64, the node where the agent is.
    - `actions`: (episode, action) int64, the node of each candidate that the agent sees there; at STOP
      and in padding the node where it is.
    """

    def __init__(self, environment: Environment, starts: Int64[Tensor, " episode"]):
        """Begin with the starts, which are not visited yet."""
        self._environment = environment
        self.viewpoints = starts[:, None]
        self.visited_at = torch.zeros_like(self.viewpoints)
        self.metres = self.viewpoints.new_zeros((len(starts), 1, 1), dtype=torch.float64)
        self.steps = self.viewpoints.new_zeros(len(starts), 1, 1)
        self._hops = self.steps.clone()  # the node after a, on the path from a to b
        self.here = torch.zeros_like(starts)
        self.actions = self.here[:, None]
        self._rows = torch.arange(len(starts), device=starts.device)
        self._visits = 0

    @property
    def is_node(self) -> Bool[Tensor, "episode node"]:
        """Which nodes are not padding."""
        return self.viewpoints != NOWHERE

    @property
    def is_visited(self) -> Bool[Tensor, "episode node"]:
        """Which nodes an agent has been at."""
        return self.visited_at > 0

    @property
    def is_unvisited(self) -> Bool[Tensor, "episode node"]:
        """Which nodes an agent has seen and not been at."""
        return self.is_node & ~self.is_visited

    def visit(self, viewpoints: Int64[Tensor, " episode"]) -> None:
        """Note where agents are, at nodes of their maps, and what they see there.

        Paths are those of Floyd and Warshall's algorithm, whose steps are the visits. To be where one
        has been before changes nothing.
        """
        rows, seen = self._rows, self._environment.candidate_viewpoints[viewpoints]
        self.here = (self.viewpoints == viewpoints[:, None]).int().argmax(1)
        matches = seen[..., None] == self.viewpoints[:, None]  # (episode, action, node)
        is_new = ~matches.any(-1)
        added = self.is_node.sum(1, keepdim=True) + is_new.cumsum(1) - 1
        self.actions = torch.where(is_new, added, matches.int().argmax(-1))
        self._grow(int(self.actions.max()) + 1)
        self.viewpoints = self.viewpoints.scatter(1, self.actions, seen)
        self._visits += 1
        first = self.visited_at[rows, self.here] == 0
        self.visited_at[rows, self.here] += self._visits * first

        lengths = self._environment.distances(viewpoints[:, None].expand_as(seen), seen)
        row, here = rows[:, None], self.here[:, None]
        known = self.metres[row, here, self.actions]
        shorter = lengths < known
        for a, b in ((here, self.actions), (self.actions, here)):
            self.metres[row, a, b] = torch.where(shorter, lengths, known)
            self.steps[row, a, b] = torch.where(shorter, 1, self.steps[row, a, b])
            self._hops[row, a, b] = torch.where(shorter, b, self._hops[row, a, b])
        metres, steps = self.metres[rows, self.here], self.steps[rows, self.here]
        hops = self._hops[rows, :, self.here]  # (episode, node): towards here
        through = metres[:, :, None] + metres[:, None]
        shorter = through < self.metres
        self.metres = torch.where(shorter, through, self.metres)
        self.steps = torch.where(shorter, steps[:, :, None] + steps[:, None], self.steps)
        self._hops = torch.where(shorter, hops[:, :, None], self._hops)

    def _grow(self, nodes: int) -> None:
        more = nodes - self.viewpoints.shape[1]
        if more <= 0:
            return
        self.viewpoints = pad(self.viewpoints, (0, more), value=NOWHERE)
        self.visited_at = pad(self.visited_at, (0, more))
        self.metres = pad(self.metres, (0, more, 0, more), value=math.inf)
        self.steps = pad(self.steps, (0, more, 0, more))
        self._hops = pad(self._hops, (0, more, 0, more))
        numbers = torch.arange(nodes, device=self.here.device)
        self.metres[:, numbers, numbers] = 0
        self._hops[:, numbers, numbers] = numbers

    def take(self, rows: Int64[Tensor, " row"]) -> None:
        """Go on with some of the episodes."""
        self.viewpoints, self.visited_at = self.viewpoints[rows], self.visited_at[rows]
        self.metres, self.steps, self._hops = self.metres[rows], self.steps[rows], self._hops[rows]
        self.here, self.actions = self.here[rows], self.actions[rows]
        self._rows = self._rows[: len(rows)]

    def walks(self, goals: Int64[Tensor, "episode goal"]) -> Int64[Tensor, "episode goal place"]:
        """Return the viewpoints of known paths from where agents are to some nodes each.

        The agent's own comes first. Shorter paths repeat their end; those to padding mean nothing.
        """
        rows = self._rows[:, None]
        path = [self.here[:, None].expand_as(goals)]
        for _ in range(int(self.steps[rows, self.here[:, None], goals].max())):
            path.append(self._hops[rows, path[-1], goals])
        return self.viewpoints[rows[..., None], torch.stack(path, -1)]

    def after(self, state: State, walks: Int64[Tensor, "episode place"]) -> State:
        """Return the state after walks, with the view by which the last viewpoint is seen.

        Who goes to where it is stays as it is.
        """
        for before, after in zip(walks.T, walks.T[1:], strict=False):
            leads = self._environment.candidate_viewpoints[before] == after[:, None]
            views = self._environment.candidate_views[before, leads.int().argmax(1)]
            state = State(
                after, torch.where(before == after, state.views, views), state.has_stopped
            )
        return state

    def poses(self, views: Int64[Tensor, " episode"]) -> Float32[Tensor, "episode node 7"]:
        """Return where nodes are, as agents see it from where they are and through their views.

        Sine and cosine of heading and of elevation, relative to the view; metres of the straight line
        and of the known path, over FAR; moves of the path, over MANY_STEPS. The agent's own node is
        straight ahead, at no distance. Meaningless in padding, but finite.
        """
        places = self._environment.positions[self.viewpoints.clamp(min=0)]
        offsets = places - places[self._rows, self.here][:, None]
        level = offsets[..., :2].norm(dim=-1)
        headings = torch.atan2(offsets[..., 0], offsets[..., 1])
        headings = headings - (views % HEADINGS * STEP)[:, None]
        elevations = torch.atan2(offsets[..., 2], level)
        elevations = elevations - ((views // HEADINGS - 1) * STEP)[:, None]
        is_here = (self.viewpoints == self.viewpoints[self._rows, self.here][:, None])[..., None]
        angles = torch.stack((headings, elevations), -1).masked_fill(is_here, 0)
        sizes = (
            offsets.norm(dim=-1) / FAR,
            (self.metres[self._rows, self.here] / FAR).nan_to_num(posinf=0),
            self.steps[self._rows, self.here] / MANY_STEPS,
        )
        circular = torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)
        return torch.cat((circular, torch.stack(sizes, -1)), -1).float()


class NodeVectors:
    """A vector for each node of a map: what was seen at it, or the mean of what was seen of it.

    Gradients flow through; nothing is changed in place.
    """

    def __init__(self, known: KnownMap, channels: int):
        self._known = known
        self._sums = known.metres.new_zeros((len(known.here), 1, channels), dtype=torch.float32)
        self._counts = self._sums[..., :1]

    def add(
        self,
        here: Float[Tensor, "episode channel"],
        candidates: Float[Tensor, "episode action channel"],
        is_candidate: Bool[Tensor, "episode action"],
    ) -> None:
        """Take in what agents see after a visit: of where they are, and of the candidates there.

        Candidates are the first of the map's actions.
        """
        known = self._known
        nodes = known.viewpoints.shape[1]
        grown = (0, 0, 0, nodes - self._sums.shape[1])
        actions = known.actions[:, : candidates.shape[1]]
        unvisited = known.is_unvisited.gather(1, actions) & is_candidate
        # (episode, node, action): which candidate is which node
        of_node = one_hot(actions, nodes).mT * unvisited[:, None]
        sums = pad(self._sums, grown) + of_node.float() @ candidates.float()
        counts = pad(self._counts, grown) + of_node.sum(-1, keepdim=True)
        is_here = one_hot(known.here, nodes)[..., None] > 0
        self._sums = torch.where(is_here, here[:, None].float(), sums)
        self._counts = counts.masked_fill(is_here, 1)

    def take(self, rows: Int64[Tensor, " row"]) -> None:
        """Go on with some of the episodes, as the map does."""
        self._sums, self._counts = self._sums[rows], self._counts[rows]

    @property
    def means(self) -> Float32[Tensor, "episode node channel"]:
        """The vectors; zeros in padding."""
        return self._sums / self._counts.clamp(min=1)
