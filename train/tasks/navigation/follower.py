"""EnvDrop's follower: teacher forcing and advantage actor-critic, in one pass over a batch."""

import dataclasses
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor, nn
from torch.nn.functional import nll_loss

from ...devices import MODEL_SIZE_REMEDY, memory_errors, seeded
from ...models.follower import Follower, FollowerState, Memory, Step
from ...models.navigation_settings import EnvDropSettings
from ...navigation.environment import IGNORED, Environment, Episodes, State
from ...navigation.words import InstructionWords
from ...normalize import FeatureNorm
from ...task import on_device
from .data import EpisodeBatch, NavigationData, Split
from .rewards import make_reward, returns
from .settings import NavigationSettings
from .task import NavigationTask


def make_follower(
    settings: NavigationSettings, norm: FeatureNorm, words: InstructionWords
) -> Follower:
    """Return a follower of random weights."""
    return Follower(cast(EnvDropSettings, settings.model), norm, words=words.size)


def follower_record(settings: NavigationSettings) -> dict[str, Any]:
    """Return the settings that make a first stage the run it is: not those of the others."""
    record = dataclasses.asdict(settings)
    del record["speaker"], record["back_translation"]
    return record


class Taken(NamedTuple):
    """One step of a rollout, of the episodes that take part in it."""

    rows: Int64[Tensor, " live"]  # their places in the batch
    log_probability: Float[Tensor, " live"]  # of the action
    entropy: Float[Tensor, " live"]
    value: Float[Tensor, " live"]
    loss: Float[Tensor, " live"]  # cross-entropy of the teacher's action; 0 without one
    reward: Float64[Tensor, " live"]
    counts: Bool[Tensor, " live"]  # had not stopped before


class FollowerTask(NavigationTask):
    """Train EnvDrop's follower.

    The first half of a batch follows the teacher, the second half its own samples. As published,
    where teacher forcing takes one batch and sampling the next one.
    """

    def __init__(
        self, settings: NavigationSettings, data: NavigationData, accelerator: Accelerator
    ):
        """Make the model that training begins with, the same one every time."""
        with memory_errors(MODEL_SIZE_REMEDY), seeded(settings.seed):
            model = make_follower(settings, data.norm, data.words)
        super().__init__(settings, data, accelerator, model)

    def settings_record(self) -> dict[str, Any]:
        """Return the settings without those of the other stages."""
        return follower_record(self.settings)

    def loss(self, model: nn.Module, batch: EpisodeBatch) -> Tensor:
        """Return the loss of a batch, shape ()."""
        episodes = self.world.training.tensors.take(batch.rows)
        weight = self.settings.teacher_weight
        return model(
            lambda follower: self.rollout_loss(follower, episodes, batch, teacher_weight=weight)
        )

    def rollout_loss(
        self,
        follower: Follower,
        episodes: Episodes,
        batch: EpisodeBatch,
        *,
        teacher_weight: float,
        kept: Float[Tensor, " dim"] | None = None,
    ) -> Tensor:
        """Return teacher_weight * cross-entropy + the loss of advantage actor-critic, shape ().

        The former is summed over steps and divided by the number of episodes that follow the teacher.
        The latter sums -log p(action) (R - V) + (R - V)^2 / 2 - entropy weight * entropy over the
        steps of sampled walks, and divides by their number; R - V has no gradient in the first term.
        `kept` is as in `Follower.step`.
        """
        forced = len(episodes) - len(episodes) // 2
        steps, last = self._rollout(follower, episodes, batch, forced=forced, kept=kept)
        taught = torch.cat([step.loss for step in steps]).sum() / forced
        size = len(episodes)
        reward = [spread(step.reward, step.rows, size) for step in steps]
        goods = returns(reward, last, self.settings.discount)
        samples = torch.cat([step.counts & (step.rows >= forced) for step in steps])
        good = torch.cat([row[step.rows] for row, step in zip(goods, steps, strict=True)])
        value = torch.cat([step.value for step in steps]).float()
        log_probability = torch.cat([step.log_probability for step in steps])
        entropy = torch.cat([step.entropy for step in steps])
        advantage = good.float() - value
        each = (
            -log_probability * advantage.detach()
            + advantage**2 / 2
            - self.settings.entropy * entropy
        )
        learned = torch.where(samples, each, 0.0).sum() / samples.sum().clamp(min=1)
        return teacher_weight * taught + learned

    def _rollout(
        self,
        follower: Follower,
        episodes: Episodes,
        batch: EpisodeBatch,
        *,
        forced: int,
        kept: Float[Tensor, " dim"] | None,
    ) -> tuple[list[Taken], Float64[Tensor, " episode"]]:
        """Walk; return the steps, and the values of where walks are that have not ended.

        The first `forced` episodes follow the teacher.
        """
        environment, settings = self.world.environment, self.settings
        now = Walking.start(follower, episodes, batch)
        reward = make_reward(settings.reward, environment, episodes)
        steps: list[Taken] = []
        for number in range(settings.max_actions):
            made = now.step(follower, environment, kept)
            log_probabilities = made.logits.float().log_softmax(1)
            targets = self._teacher(now, number).masked_fill(now.rows >= forced, IGNORED)
            sampled = torch.multinomial(log_probabilities.detach().exp(), 1)[:, 0]
            actions = torch.where(now.rows < forced, targets.clamp(min=0), sampled)
            state = environment.step(now.state, actions)
            # Of what is no action, p is 0 and log p -inf.
            entropy = log_probabilities.exp() * log_probabilities.clamp(min=-1e9)
            steps.append(
                Taken(
                    now.rows,
                    log_probabilities.gather(1, actions[:, None])[:, 0],
                    -entropy.sum(1),
                    made.value.float(),
                    nll_loss(log_probabilities, targets, ignore_index=IGNORED, reduction="none"),
                    reward.of(state).masked_fill(now.state.has_stopped, 0.0),
                    ~now.state.has_stopped,
                )
            )
            now = now._replace(state=state, thought=made.state)
            live = now.live()
            if not len(live):
                break
            if 2 * len(live) <= len(now.rows):
                now = now.take(live)
                reward.take(live)
        last = torch.zeros(len(batch.rows), dtype=torch.float64, device=environment.device)
        if len(now.live()):
            with torch.no_grad():
                value = now.step(follower, environment, kept).value.double()
            last[now.rows] = value.masked_fill(now.state.has_stopped, 0.0)
        return steps, last

    def _teacher(self, now: "Walking", number: int) -> Int64[Tensor, " episode"]:
        """Return the teacher's actions at step `number`."""
        if self.settings.teacher == "reference":
            references = now.episodes.references
            return self.world.environment.reference_actions(now.state, references, number)
        return self.world.environment.shortest_actions(now.state, now.episodes.goals)

    def walk(self, model: Follower, split: Split, rows: Int[np.ndarray, " _"]) -> list[list[int]]:
        """Return the walks of a follower that takes the likeliest action at each step."""
        environment, longest = self.world.environment, self.settings.max_actions
        return follow(model, split, rows, environment, max_actions=longest)


class Walking(NamedTuple):
    """The agents of a batch on their way; those that have stopped leave it when they are half of it."""

    rows: Int64[Tensor, " live"]  # their places in the batch
    episodes: Episodes
    state: State
    memory: Memory
    thought: FollowerState

    @classmethod
    def start(cls, follower: Follower, episodes: Episodes, batch: EpisodeBatch) -> "Walking":
        """Return agents that have read their instructions."""
        memory, thought = follower.encode(batch.tokens, batch.lengths)
        rows = torch.arange(len(episodes), device=batch.tokens.device)
        return cls(rows, episodes, episodes.start, memory, thought)

    def step(
        self, follower: Follower, environment: Environment, kept: Float[Tensor, " dim"] | None
    ) -> Step:
        """Return what the follower makes of what they see."""
        return follower.step(self.memory, self.thought, *environment.observe(self.state), kept=kept)

    def live(self) -> Int64[Tensor, " row"]:
        """Return the places, here, of those that have not stopped; on a GPU, this waits for it."""
        return (~self.state.has_stopped).nonzero()[:, 0]

    def take(self, live: Int64[Tensor, " row"]) -> "Walking":
        """Return some of them."""
        return Walking(
            self.rows[live],
            self.episodes.take(live),
            State(*(part[live] for part in self.state)),
            self.memory.take(live),
            self.thought.take(live),
        )


def follow(
    model: Follower,
    split: Split,
    rows: Int[np.ndarray, " _"],
    environment: Environment,
    *,
    max_actions: int,
) -> list[list[int]]:
    """Return the walks of a follower that takes the likeliest action at each step.

    A walk is viewpoints by their numbers in the environment; the last one is repeated.
    """
    batch = on_device(split.batch(rows), environment.device)
    now = Walking.start(model, split.tensors.take(batch.rows), batch)
    at = now.state.viewpoints.clone()
    walks = [at.clone()]
    for _ in range(max_actions):
        made = now.step(model, environment, None)
        state = environment.step(now.state, made.logits.argmax(1))
        now = now._replace(state=state, thought=made.state)
        at[now.rows] = state.viewpoints
        walks.append(at.clone())
        live = now.live()
        if not len(live):
            break
        if 2 * len(live) <= len(now.rows):
            now = now.take(live)
    return torch.stack(walks, 1).tolist()


def spread(
    values: Float64[Tensor, " live"], rows: Int64[Tensor, " live"], size: int
) -> Float64[Tensor, " episode"]:
    """Return values at their places in a batch, 0 elsewhere."""
    return values.new_zeros(size).index_copy(0, rows, values)
