"""What a speaker reads of paths equals what one agent sees that walks them in the plain simulator."""

import math

import numpy as np
import torch
from scans import random_scan, simulator

from benchmarks.plain_simulator import move_to, walk_views
from clipfeat.train.navigation.environment import Environment
from clipfeat.train.navigation.paths import path_views

DIM = 5


def directed(heading, elevation):
    return [math.sin(heading), math.cos(heading), math.sin(elevation), math.cos(elevation)]


def random_walks(scan, rng, count):
    """Walks of 1 to 7 viewpoints, as numbers, which may turn back."""
    walks = []
    for _ in range(count):
        walk = [int(rng.integers(len(scan.viewpoints)))]
        for _ in range(int(rng.integers(0, 7))):
            walk.append(int(rng.choice(scan.neighbours[walk[-1]])))
        walks.append(walk)
    return walks


def test_path_views_equal_those_of_walks_in_the_simulator():
    rng = np.random.default_rng(0)
    scan = random_scan(rng, 25, "a")
    features = torch.from_numpy(rng.normal(size=(25, 36, DIM)).astype(np.float32))
    environment = Environment({"a": scan}, features)
    walks = random_walks(scan, rng, 40)
    headings = rng.uniform(0, 2 * math.pi, 40).tolist()
    names = [[scan.viewpoints[n] for n in walk] for walk in walks]
    read = path_views(environment, environment.episodes(["a"] * 40, names, headings))
    assert {len(walk) for walk in walks} == set(range(1, 8))
    assert read.chosen.shape == (40, 7, DIM)
    assert read.views.shape == (40, 7, 36, DIM)
    for k, (walk, heading) in enumerate(zip(walks, headings, strict=True)):
        agent = simulator(scan)
        agent.new_episode(walk[0], heading, 0)
        assert read.is_step[k].tolist() == [step < len(walk) for step in range(7)]
        for step, viewpoint in enumerate(walk):
            here, base = features[viewpoint], agent.heading
            assert read.views[k, step].equal(here)
            angles = [directed((v % 12) * math.pi / 6 - base, (v // 12 - 1) * math.pi / 6)
                      for v in range(36)]  # fmt: skip
            assert torch.allclose(read.view_angles[k, step], torch.tensor(angles), atol=1e-6)
            if step == len(walk) - 1:  # STOP
                assert not read.chosen[k, step].any()
                assert not read.chosen_angles[k, step].any()
                break
            elevation = agent.elevation
            candidates = walk_views(agent)
            agent.new_episode(viewpoint, base, elevation)
            chosen = next(each for each in candidates if each.viewpoint == walk[step + 1])
            assert read.chosen[k, step].equal(here[chosen.view])
            expected = torch.tensor(directed(chosen.heading - base, chosen.elevation))
            assert torch.allclose(read.chosen_angles[k, step], expected, atol=1e-6)
            move_to(agent, chosen)
