"""Walks of a follower in an environment: sampled and forced ones to learn from, and greedy ones."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor
from torch.nn.functional import nll_loss

from ...models.follower import Follower, FollowerState, Memory, Step
from ...navigation.environment import IGNORED, Environment, Episodes, State
from ...task import on_device
from .data import EpisodeBatch, Split
from .rewards import make_reward, returns
from .settings import NavigationSettings


class Walking(NamedTuple):
    """The agents of a batch on their way; when half of it has stopped, these leave it."""

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

    def take(self, live: Int64[Tensor, " row"]) -> "Walking":
        """Return some of them."""
        return Walking(
            self.rows[live],
            self.episodes.take(live),
            self.state.take(live),
            self.memory.take(live),
            self.thought.take(live),
        )


class Taken(NamedTuple):
    """One step of a rollout, of the episodes that take part in it."""

    rows: Int64[Tensor, " live"]  # their places in the batch
    log_probability: Float[Tensor, " live"]  # of the action
    entropy: Float[Tensor, " live"]
    value: Float[Tensor, " live"]
    cross_entropy: Float[Tensor, " live"]  # of the teacher's action; 0 without one
    reward: Float64[Tensor, " live"]
    counts: Bool[Tensor, " live"]  # had not stopped before


def rollout_loss(
    follower: Follower,
    environment: Environment,
    episodes: Episodes,
    batch: EpisodeBatch,
    settings: NavigationSettings,
    *,
    teacher_weight: float,
    kept: Float[Tensor, " dim"] | None = None,
) -> Float[Tensor, ""]:
    """Return teacher_weight * cross-entropy + the loss of advantage actor-critic.

    Of B episodes the first B - B // 2 follow the teacher, the others the follower's samples. The
    cross-entropy of the teacher's actions is summed over steps and divided by the number of forced
    episodes. The other loss sums -log p(action) A + A^2 / 2 - entropy weight * entropy over the
    steps of sampled walks, and is divided by their number; A = R - V, without a gradient in the first
    term (Tan et al. 2019, section 3.4.1 and the published code). `kept` is as in `Follower.step`.
    """
    forced = len(episodes) - len(episodes) // 2
    steps, last = roll_out(
        follower, environment, episodes, batch, settings, forced=forced, kept=kept
    )
    taught = torch.cat([step.cross_entropy for step in steps]).sum() / forced
    rewards = [spread(step.reward, step.rows, len(episodes)) for step in steps]
    discounted = returns(rewards, last, settings.discount)
    of_step = torch.cat([row[step.rows] for row, step in zip(discounted, steps, strict=True)])
    counts = torch.cat([step.counts & (step.rows >= forced) for step in steps])
    advantage = of_step.float() - torch.cat([step.value for step in steps])
    each = (
        -torch.cat([step.log_probability for step in steps]) * advantage.detach()
        + advantage**2 / 2
        - settings.entropy * torch.cat([step.entropy for step in steps])
    )
    learned = torch.where(counts, each, 0.0).sum() / counts.sum().clamp(min=1)
    return teacher_weight * taught + learned


def roll_out(
    follower: Follower,
    environment: Environment,
    episodes: Episodes,
    batch: EpisodeBatch,
    settings: NavigationSettings,
    *,
    forced: int,
    kept: Float[Tensor, " dim"] | None = None,
) -> tuple[list[Taken], Float64[Tensor, " episode"]]:
    """Walk; return the steps, and the values of where walks are that have not ended, else 0.

    The first `forced` episodes follow the teacher, the others draw actions by torch's random numbers.
    """
    now = Walking.start(follower, episodes, batch)
    reward = make_reward(settings.reward, environment, episodes)
    steps: list[Taken] = []
    for number in range(settings.max_actions):
        made = now.step(follower, environment, kept)
        log_probabilities = made.logits.float().log_softmax(1)
        targets = environment.teacher_actions(settings.teacher, now.state, now.episodes, number)
        targets = targets.masked_fill(now.rows >= forced, IGNORED)
        sampled = torch.multinomial(log_probabilities.detach().exp(), 1)[:, 0]
        actions = torch.where(now.rows < forced, targets.clamp(min=0), sampled)
        state = environment.step(now.state, actions)
        # Of what is not an action, p is 0 and log p -inf.
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
        live = now.state.live()
        if not len(live):
            break
        if 2 * len(live) <= len(now.rows):
            now = now.take(live)
            reward.take(live)
    last = torch.zeros(len(batch.rows), dtype=torch.float64, device=environment.device)
    if len(now.state.live()):
        with torch.no_grad():
            value = now.step(follower, environment, kept).value.double()
        last[now.rows] = value.masked_fill(now.state.has_stopped, 0.0)
    return steps, last


def follow(
    model: Follower,
    split: Split,
    rows: Int[np.ndarray, " _"],
    environment: Environment,
    *,
    max_actions: int,
    forbid_visited: bool = False,
) -> list[list[int]]:
    """Return the walks of a follower that takes the likeliest action at each step.

    A walk is viewpoints by their numbers in the environment; the last one is repeated. With
    `forbid_visited` no step leads to a viewpoint that the walk has been at, as in published
    submissions.
    """
    batch = on_device(split.batch(rows), environment.device)
    now = Walking.start(model, split.tensors.take(batch.rows), batch)
    at = now.state.viewpoints.clone()
    walks = [at.clone()]
    for _ in range(max_actions):
        made = now.step(model, environment, None)
        logits = made.logits
        if forbid_visited:
            visited = torch.stack(walks, 1)[now.rows]
            logits = logits.masked_fill(_leads_back(environment, now.state, visited), -torch.inf)
        state = environment.step(now.state, logits.argmax(1))
        now = now._replace(state=state, thought=made.state)
        at[now.rows] = state.viewpoints
        walks.append(at.clone())
        live = now.state.live()
        if not len(live):
            break
        if 2 * len(live) <= len(now.rows):
            now = now.take(live)
    return torch.stack(walks, 1).tolist()


def _leads_back(
    environment: Environment, state: State, visited: Int64[Tensor, "live place"]
) -> Bool[Tensor, "live action"]:
    """Return which actions are moves to a viewpoint that has been visited."""
    at = state.viewpoints
    targets = environment.candidate_viewpoints[at]
    is_move = torch.arange(targets.shape[1], device=at.device) < environment.counts[at, None]
    return is_move & (targets[:, :, None] == visited[:, None]).any(2)


def spread(
    values: Float64[Tensor, " live"], rows: Int64[Tensor, " live"], size: int
) -> Float64[Tensor, " episode"]:
    """Return values at their places in a batch, 0 elsewhere."""
    return values.new_zeros(size).index_copy(0, rows, values)
