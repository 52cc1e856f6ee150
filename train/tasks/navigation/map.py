"""The map agent's training: teacher forcing, and corrections of its own walks by an expert."""

from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn
from torch.nn.functional import nll_loss, one_hot, pad

from ...devices import MODEL_SIZE_REMEDY, memory_errors, seeded
from ...models.layers import masked_mean
from ...models.map_agent import MapAgent, Nodes, Panorama
from ...models.navigation_settings import MapSettings
from ...models.pretrained import Pretrained
from ...navigation.environment import IGNORED, Environment, Episodes
from ...navigation.known_map import KnownMap, NodeVectors
from ...navigation.views import VIEWS
from ...navigation.words import InstructionVocabulary
from ...normalize import FeatureNorm
from ...task import on_device
from .data import EpisodeBatch, NavigationData, Split
from .experts import make_expert
from .follower import follower_record
from .settings import NavigationSettings
from .start import start_text
from .task import NavigationTask


def make_map_agent(
    settings: NavigationSettings, norm: FeatureNorm, words: InstructionVocabulary
) -> MapAgent:
    """Return a map agent of random weights."""
    return MapAgent(cast(MapSettings, settings.model), norm, words=words.size)


class MapWalk:
    """The agents of a batch on their way, each with its map. At each step: `scores`, then `go`."""

    def __init__(
        self, agent: MapAgent, environment: Environment, episodes: Episodes, batch: EpisodeBatch
    ):
        """Read the instructions."""
        self.agent, self.environment, self.episodes = agent, environment, episodes
        self.rows = torch.arange(len(episodes), device=environment.device)
        self.words = agent.read(batch.tokens)
        self.state = episodes.start
        self.known = KnownMap(environment, self.state.viewpoints)
        self.vectors = NodeVectors(self.known, agent.channels)

    def scores(self) -> Float[Tensor, "live choice"]:
        """Look around, and return the scores of STOP and of the nodes of each map."""
        at = self.state.viewpoints
        seen = self.environment.observe(self.state)
        self.known.visit(at)
        # Without the last action, which is STOP or padding everywhere.
        of_candidate = self.known.actions[:, :-1]
        places = torch.arange(of_candidate.shape[1], device=at.device)
        is_candidate = places < self.environment.counts[at, None]
        views = one_hot(self.environment.candidate_views[at][:, :-1], VIEWS)
        is_used = (views * is_candidate[..., None]).any(1)
        panorama = Panorama(
            torch.cat((seen.candidates[:, :-1], seen.views), 1),
            torch.cat((seen.candidate_angles[:, :-1], seen.view_angles), 1),
            torch.cat((is_candidate, torch.zeros_like(is_used)), 1),
            torch.cat((is_candidate, ~is_used), 1),
        )
        items = self.agent.look(panorama)
        here = masked_mean(items, panorama.is_seen)
        self.vectors.add(here, items[:, : len(places)], is_candidate)
        nodes = Nodes(
            self.vectors.means,
            self.known.visited_at,
            self.known.poses(self.state.views),
            self.known.metres,
            self.known.is_node,
            of_candidate,
        )
        return self.agent.decide(self.words, nodes, items, panorama)

    def go(
        self, goals: Int64[Tensor, " live"], has_stopped: Bool[Tensor, " live"]
    ) -> Int64[Tensor, "live place"]:
        """Walk to a node each, and return the viewpoints on the way, from the present one on."""
        walks = self.known.walks(goals[:, None])[:, 0]
        self.state = self.known.after(self.state, walks)._replace(has_stopped=has_stopped)
        return walks

    def take(self, live: Int64[Tensor, " row"]) -> None:
        """Go on with some of the agents."""
        self.rows, self.episodes = self.rows[live], self.episodes.take(live)
        self.words = self.words.take(live)
        self.state = self.state.take(live)
        self.known.take(live)
        self.vectors.take(live)


class MapTask(NavigationTask):
    """Train the map agent.

    The first half of a batch follows the teacher. The second half goes where its own scores lead by
    chance, and learns at each step where the expert would go (Chen et al. 2022).
    """

    def __init__(
        self,
        settings: NavigationSettings,
        data: NavigationData,
        accelerator: Accelerator,
        start: Pretrained | None = None,
    ):
        """Make the model that training begins with, the same one every time.

        Its text encoder is that of `start`, where there is one.
        """
        with memory_errors(MODEL_SIZE_REMEDY), seeded(settings.seed):
            model = make_map_agent(settings, data.norm, data.words)
        if start is not None:
            start_text(model, start, max_tokens=settings.max_tokens)
        super().__init__(settings, data, accelerator, model)

    def settings_record(self) -> dict[str, Any]:
        """Return the settings without those of the other stages."""
        return follower_record(self.settings)

    def loss(self, model: nn.Module, batch: EpisodeBatch) -> Tensor:
        """Return the loss of a batch, shape ()."""
        episodes = self.world.training.tensors.take(batch.rows)
        return model(
            lambda agent: rollout_loss(
                agent, self.world.environment, episodes, batch, self.settings
            )
        )

    def walk(self, model: MapAgent, split: Split, rows: Int[np.ndarray, " _"]) -> list[list[int]]:
        """Return the walks of an agent that takes the likeliest choice at each step."""
        actions = self.settings.max_actions
        return explore(model, split, rows, self.world.environment, max_actions=actions)


def rollout_loss(
    agent: MapAgent,
    environment: Environment,
    episodes: Episodes,
    batch: EpisodeBatch,
    settings: NavigationSettings,
) -> Tensor:
    """Return teacher_weight * the cross-entropy of the teacher's choices + that of the expert's.

    Each is summed over steps, and divided by the number of its episodes: the first half of the batch
    is the teacher's, the second half the expert's.
    """
    forced = len(episodes) - len(episodes) // 2
    now = MapWalk(agent, environment, episodes, batch)
    expert = make_expert(cast(MapSettings, settings.model).expert, environment, episodes)
    weights = torch.where(
        now.rows < forced,
        settings.teacher_weight / forced,
        1 / max(len(episodes) - forced, 1),
    )
    losses: list[Tensor] = []
    for number in range(settings.max_actions):
        scores, is_forced, stopped = now.scores(), now.rows < forced, now.state.has_stopped
        targets, goals, ends = (
            torch.where(is_forced, taught, sampled)
            for taught, sampled in zip(
                _taught(now, number, settings.teacher),
                _sampled(now, scores, expert.nodes(now.known)),
                strict=True,
            )
        )
        targets = targets.masked_fill(stopped, IGNORED)
        loss = nll_loss(scores.log_softmax(1), targets, ignore_index=IGNORED, reduction="none")
        losses.append((loss * weights[now.rows]).sum())
        has_stopped = stopped | ends
        expert.move(now.go(torch.where(has_stopped, now.known.here, goals), has_stopped))
        live = now.state.live()
        if not len(live):
            break
        if 2 * len(live) <= len(now.rows):
            now.take(live)
            expert.take(live)
    return torch.stack(losses).sum()


def _taught(
    now: MapWalk, number: int, teacher: str
) -> tuple[Int64[Tensor, " live"], Int64[Tensor, " live"], Bool[Tensor, " live"]]:
    """Return the teacher's choices, the nodes to go to, and who stops, at step `number`.

    A path that comes back to a node is walked as it is; that step teaches nothing, since the agent
    chooses among unvisited nodes.
    """
    environment, known, state = now.environment, now.known, now.state
    actions = environment.teacher_actions(teacher, state, now.episodes, number)
    nodes = known.actions.gather(1, actions.clamp(min=0)[:, None])[:, 0]
    stops = actions == environment.counts[state.viewpoints]
    is_new = known.is_unvisited.gather(1, nodes[:, None])[:, 0]
    targets = torch.where(stops, 0, torch.where(is_new, 1 + nodes, IGNORED))
    nothing = actions == IGNORED
    return targets.masked_fill(nothing, IGNORED), nodes, stops | nothing


def _sampled(
    now: MapWalk, scores: Float[Tensor, "live choice"], expert: Int64[Tensor, " live"]
) -> tuple[Int64[Tensor, " live"], Int64[Tensor, " live"], Bool[Tensor, " live"]]:
    """Return the expert's choices, nodes drawn by the scores, and who stops.

    Walks end at the goal alone, where the expert's choice is STOP, or with nothing unvisited; so STOP
    is not drawn.
    """
    at_goal = now.state.viewpoints == now.episodes.goals
    is_open = now.known.is_unvisited.any(1)
    chances = scores.detach().clone()
    chances[:, 0] = torch.where(is_open, -torch.inf, 0.0)
    drawn = torch.multinomial(chances.softmax(1), 1)[:, 0] - 1
    targets = torch.where(is_open, 1 + expert, IGNORED)
    return targets.masked_fill(at_goal, 0), drawn.clamp(min=0), at_goal | ~is_open


def explore(
    model: MapAgent,
    split: Split,
    rows: Int[np.ndarray, " _"],
    environment: Environment,
    *,
    max_actions: int,
) -> list[list[int]]:
    """Return the walks of a map agent that takes the likeliest choice at each step.

    In the end, by STOP, at the last action, or with nothing unvisited, it goes to the visited node
    where STOP was likeliest (as DUET's published code). A walk has all viewpoints that are passed,
    by their numbers in the environment; some are repeated.
    """
    batch = on_device(split.batch(rows), environment.device)
    now = MapWalk(model, environment, split.tensors.take(batch.rows), batch)
    walks = [[viewpoint] for viewpoint in now.state.viewpoints.tolist()]
    stops = torch.zeros(len(rows), 0, device=environment.device)  # chances of STOP, by node
    for number in range(max_actions):
        scores, here, stopped = now.scores(), now.known.here, now.state.has_stopped
        stops = pad(stops, (0, scores.shape[1] - 1 - stops.shape[1]))
        stops = stops.scatter(1, here[:, None], scores.softmax(1)[:, :1])
        choices = scores.argmax(1)
        ends = (choices == 0) | (number + 1 == max_actions)
        goals = torch.where(ends, stops.argmax(1), choices - 1)
        passed = now.go(torch.where(stopped, here, goals), stopped | ends)
        for row, walk in zip(now.rows.tolist(), passed.tolist(), strict=True):
            walks[row] += walk[1:]
        live = now.state.live()
        if not len(live):
            break
        if 2 * len(live) <= len(now.rows):
            now.take(live)
            stops = stops[live]
    return walks
