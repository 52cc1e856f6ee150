"""Rollouts beside a plain loop over episodes and steps, for a follower that is a table."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scans import random_scan
from torch import Tensor, nn

from clipfeat.train.models.follower import Follower, FollowerState, Memory, Step
from clipfeat.train.navigation.environment import Environment, Episodes
from clipfeat.train.navigation.episodes import EpisodeSplit, LeftOut
from clipfeat.train.settings import load_settings
from clipfeat.train.tasks.navigation.data import EpisodeBatch, Split
from clipfeat.train.tasks.navigation.rollout import follow, rollout_loss
from clipfeat.train.tasks.navigation.settings import NavigationSettings

VIEWPOINTS, EPISODES, LONGEST = 25, 13, 9
FORCED = 7  # of 13: the first half, with the one that is left


class Table(Follower):
    """A follower that knows where it is, and how many steps it has taken: features are one-hot.

    The steps are counted in the attentional state, so that the table sees when a batch shrinks.
    """

    def __init__(self, actions: int) -> None:
        nn.Module.__init__(self)
        torch.manual_seed(4)
        self.logits = nn.Parameter(torch.randn(VIEWPOINTS, actions).double())
        self.values = nn.Parameter(torch.randn(VIEWPOINTS, LONGEST + 1).double())
        self.choices: Tensor = torch.zeros(0)

    def encode(self, tokens: Tensor, lengths: Tensor) -> tuple[Memory, FollowerState]:
        zeros = torch.zeros(len(tokens), 1)
        return Memory(zeros[:, None], zeros > 0), FollowerState(zeros, zeros)

    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, memory: Memory, state: FollowerState, views: Tensor, *seen: Tensor, kept: Any = None
    ) -> Step:
        at, steps, is_action = views[:, 0].argmax(1), state.tilde[:, 0].long(), seen[3]
        actions = is_action.sum(1)
        self.choices = (at * 7 + steps * 3) % actions  # of sampled walks: any, but always the same
        logits = self.logits[at].masked_fill(~is_action, -math.inf)
        return Step(logits, self.values[at, steps], FollowerState(state.tilde + 1, state.cell))


class World(NamedTuple):
    environment: Environment
    episodes: Episodes
    references: list[list[int]]
    table: Table


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    scan = random_scan(np.random.default_rng(1), VIEWPOINTS)
    features = torch.eye(VIEWPOINTS)[:, None].expand(-1, 36, -1).contiguous()
    environment = Environment({"random": scan}, features)
    rng = np.random.default_rng(2)
    references = []
    while len(references) < EPISODES:
        path = scan.path(*rng.integers(VIEWPOINTS, size=2).tolist())
        detour = scan.neighbours[path[-1]][0]
        if 2 < len(path) < LONGEST and detour not in path:
            references.append([*path, detour])
    names = [[scan.viewpoints[n] for n in path] for path in references]
    episodes = environment.episodes(["random"] * EPISODES, names, [0.0] * EPISODES)
    table = Table(environment.candidate_views.shape[1])

    def choose(probabilities: Tensor, count: int) -> Tensor:
        assert torch.allclose(probabilities.sum(1), torch.ones(len(probabilities)))
        return table.choices[:, None]

    monkeypatch.setattr(torch, "multinomial", choose)
    return World(environment, episodes, references, table)


def settings(*changes: str) -> NavigationSettings:
    return load_settings(
        NavigationSettings, config=None, assignments=[f"max_actions={LONGEST}", *changes]
    )


def log_softmax(logits: list[float]) -> list[float]:
    total = math.log(sum(map(math.exp, logits)))
    return [logit - total for logit in logits]


class PlainStep(NamedTuple):
    """A step of a sampled walk."""

    at: int
    number: int
    score: float  # log p of the action
    entropy: float
    value: float
    good: float  # the return


def plain_walks(world: World, chosen: NavigationSettings) -> tuple[float, list[PlainStep]]:
    """Return the summed cross-entropy of the teacher, and the steps of sampled walks.

    Episode by episode and step by step, with the scan's own graph.
    """
    environment, table = world.environment, world.table
    scan = environment.scans["random"]
    candidates = [
        environment.candidate_viewpoints[n, : environment.counts[n]].tolist()
        for n in range(VIEWPOINTS)
    ]
    taught, sampled = 0.0, []
    for row, reference in enumerate(world.references):
        at, goal, last = reference[0], reference[-1], 0.0
        log: list[tuple[PlainStep, float]] = []
        for number in range(LONGEST):
            ways = [*candidates[at], at]
            scores = log_softmax(table.logits[at, : len(ways)].tolist())
            if row >= FORCED:
                action = (at * 7 + number * 3) % len(ways)
            elif chosen.teacher == "shortest":
                action = ways.index(int(scan.next_hop[at, goal]))
            else:
                action = ways.index(reference[min(number + 1, len(reference) - 1)])
            if row < FORCED:
                taught -= scores[action]
            entropy = -sum(math.exp(score) * score for score in scores)
            value = table.values[at, number].item()
            step = PlainStep(at, number, scores[action], entropy, value, 0.0)
            before, at = scan.distances[at, goal], ways[action]
            after = scan.distances[at, goal]
            stops = action == len(ways) - 1
            log.append((step, (2.0 if after < 3 else -2.0) if stops else np.sign(before - after)))
            if stops:
                break
        else:
            last = table.values[at, LONGEST].item()
        good = last
        for step, reward in reversed(log if row >= FORCED else []):
            good = reward + chosen.discount * good
            sampled.append(step._replace(good=good))
    return taught, sampled


def loss_of(world: World, chosen: NavigationSettings) -> Tensor:
    batch = EpisodeBatch(
        torch.arange(EPISODES), torch.ones(EPISODES, 3).long(), torch.full((EPISODES,), 3)
    )
    return rollout_loss(
        world.table,
        world.environment,
        world.episodes,
        batch,
        chosen,
        teacher_weight=chosen.teacher_weight,
    )


@pytest.mark.parametrize("teacher", ["shortest", "reference"])
def test_the_loss_is_that_of_a_plain_loop(world: World, teacher: str) -> None:
    chosen = settings(f"teacher={teacher}", "teacher_weight=0.4", "entropy=0.05", "discount=0.8")
    taught, sampled = plain_walks(world, chosen)
    lengths = [step.number for step in sampled]
    assert max(lengths) == LONGEST - 1  # some walk does not end
    assert len(sampled) < (EPISODES - FORCED) * LONGEST  # and some do
    learned = sum(
        -step.score * (step.good - step.value)
        + (step.good - step.value) ** 2 / 2
        - 0.05 * step.entropy
        for step in sampled
    )
    expected = 0.4 * taught / FORCED + learned / len(sampled)
    assert loss_of(world, chosen).item() == pytest.approx(expected, rel=1e-5)


def test_the_teachers_differ_on_references_that_are_no_shortest_paths(world: World) -> None:
    scan = world.environment.scans["random"]
    assert any(scan.path(path[0], path[-1]) != path for path in world.references)
    first, second = (
        loss_of(world, settings(f"teacher={each}")).item() for each in ("shortest", "reference")
    )
    assert first != second


def test_values_learn_from_their_squares_alone(world: World) -> None:
    """Neither the policy's advantage nor the value behind an unfinished walk has a gradient."""
    chosen = settings("teacher_weight=0")
    loss_of(world, chosen).backward()
    _, sampled = plain_walks(world, chosen)
    expected = torch.zeros_like(world.table.values)
    for step in sampled:
        expected[step.at, step.number] -= (step.good - step.value) / len(sampled)
    torch.testing.assert_close(world.table.values.grad, expected, rtol=1e-4, atol=1e-6)


def split_of(world: World) -> Split:
    tokens = np.ones((EPISODES, 3), np.int64)
    return Split(EpisodeSplit("r2r", "val", (), LeftOut(), Path()), tokens, world.episodes)


def greedy(world: World, *, forbids: bool) -> list[list[int]]:
    """Return the walks of the likeliest actions, one after the other."""
    environment, walks = world.environment, []
    for reference in world.references:
        walk = [reference[0]]
        for _ in range(LONGEST):
            at = walk[-1]
            ways = environment.candidate_viewpoints[at, : environment.counts[at]].tolist()
            scores = world.table.logits[at, : len(ways) + 1].tolist()
            if forbids:
                scores = [
                    -math.inf if way in walk else score
                    for way, score in zip([*ways, -1], scores, strict=True)
                ]
            action = int(np.argmax(scores))
            if action == len(ways):
                break
            walk.append(ways[action])
        walks.append(walk)
    return walks


@pytest.mark.parametrize("forbids", [False, True])
def test_greedy_walks_are_those_of_a_plain_loop(world: World, *, forbids: bool) -> None:
    rows = np.arange(EPISODES)
    with torch.no_grad():
        found = follow(
            world.table,
            split_of(world),
            rows,
            world.environment,
            max_actions=LONGEST,
            forbid_visited=forbids,
        )
    expected = greedy(world, forbids=forbids)
    for walk, plain in zip(found, expected, strict=True):
        assert walk[: len(plain)] == plain
        assert set(walk[len(plain) :]) <= {plain[-1]}  # the end is repeated
    returning = any(len(set(walk)) < len(walk) for walk in expected)
    assert returning is not forbids
