"""Rewards and returns of sampled walks, by hand and beside the metrics of single walks."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from nav_files import path, write_graph
from scans import random_scan

from clipfeat.train.metrics.navigation import score_walk
from clipfeat.train.navigation.environment import Environment, State
from clipfeat.train.navigation.graphs import read_scans
from clipfeat.train.tasks.navigation.rewards import Warping, make_reward, returns

ABED_NDTW = 0.606531  # of A, B, E, D beside A, B, C, D: exp(-6 / 12)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("graphs")
    write_graph(folder, "house")
    scans = read_scans(folder)
    return Environment(scans, torch.zeros(len(scans["house"].viewpoints), 36, 1))


def rewards_of(house: Environment, kind: str, walk: str, reference: str = "ABCD") -> list[float]:
    """Return the reward of each move of a walk, and of STOP at its end."""
    episodes = house.episodes(["house"], [path(reference)], [0.0])
    reward = make_reward(kind, house, episodes)
    numbers = [house.numbers["house", name] for name in path(walk)]
    steps = [(number, False) for number in numbers[1:]] + [(numbers[-1], True)]
    return [
        reward.of(
            State(torch.tensor([n]), torch.zeros(1, dtype=torch.int64), torch.tensor([stop]))
        ).item()
        for n, stop in steps
    ]


def test_distance_rewards_by_hand(house: Environment) -> None:
    # Metres to D: A 9 (over B and C or E), B 7, C 4, E 3, D 0.
    assert rewards_of(house, "distance", "ABCD") == [1, 1, 1, 2]
    assert rewards_of(house, "distance", "ABAB") == [1, -1, 1, -2]
    assert rewards_of(house, "distance", "ABE") == [1, 1, -2]  # 3 m is not less than 3 m
    assert rewards_of(house, "distance", "ABEDE") == [1, 1, 1, -1, -2]


def test_ndtw_rewards_by_hand(house: Environment) -> None:
    """nDTW of A, AB, ABC ... beside ABCD are those of the worked table."""
    a, ab, abc = np.exp(-16 / 12), np.exp(-(3 + 7) / 12), 0.716531
    abe = ABED_NDTW  # D to E is 3 m
    found = rewards_of(house, "ndtw", "ABCD")
    assert found == pytest.approx([1 + ab - a, 1 + abc - ab, 1 + 1 - abc, 2 + 2 * 1], abs=1e-5)
    found = rewards_of(house, "ndtw", "ABED")
    expected = [1 + ab - a, 1 + abe - ab, 1 + ABED_NDTW - abe, 2 + 2 * ABED_NDTW]
    assert found == pytest.approx(expected, abs=1e-5)
    # Leaving the goal itself, d = 0, costs 2 more; ABCDC has the nDTW of the table.
    found = rewards_of(house, "ndtw", "ABCDC")
    assert found[3:] == pytest.approx([-1 + 0.716531 - 1 - 2, -2], abs=1e-5)


def test_the_ndtw_of_walks_so_far_is_the_metric_of_each() -> None:
    rng = np.random.default_rng(5)
    scan = random_scan(rng, 30)
    environment = Environment({"random": scan}, torch.zeros(30, 36, 1))
    references, walks = [], []
    for _ in range(40):
        for paths in (references, walks):
            walk = [int(rng.integers(30))]
            for _ in range(int(rng.integers(1, 12))):
                walk.append(int(rng.choice(scan.neighbours[walk[-1]])))
            paths.append(walk)
    starts = [
        scan.path(reference[0], walk[0])[::-1]
        for reference, walk in zip(references, walks, strict=True)
    ]
    references = [
        [*start[:-1], *reference] for start, reference in zip(starts, references, strict=True)
    ]
    names = [[scan.viewpoints[n] for n in reference] for reference in references]
    episodes = environment.episodes(["random"] * 40, names, [0.0] * 40)
    warping = Warping(environment, episodes)
    for step in range(13):
        expected = [
            score_walk(scan.distances, walk[: step + 1], reference).ndtw
            for walk, reference in zip(walks, references, strict=True)
        ]
        np.testing.assert_allclose(warping.ndtw.numpy(), expected, rtol=1e-9)
        moves = torch.tensor([step + 1 < len(walk) for walk in walks])
        viewpoints = torch.tensor([walk[min(step + 1, len(walk) - 1)] for walk in walks])
        warping.move(viewpoints, moves)
    assert all(b in scan.neighbours[a] for walk in walks for a, b in pairwise(walk))


def test_returns_by_hand() -> None:
    rewards = [torch.tensor([1.0, 2.0]).double(), torch.tensor([-1.0, 0.0]).double()]
    found = returns(rewards, torch.tensor([10.0, 0.0]).double(), 0.5)
    assert found.tolist() == [[1 + 0.5 * (-1 + 5), 2], [-1 + 5, 0]]
