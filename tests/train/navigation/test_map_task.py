"""The map agent's experts, losses and walks, by brute force; and that it learns and resumes."""

import json
import math
import signal
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from children import Child, wait_for_update
from nav_world import FAST, make_nav_world, nav_settings
from plain_map import PlainMap
from scans import random_scan

from clipfeat.train.devices import accelerator_on
from clipfeat.train.metrics.navigation import collapse, score_walk
from clipfeat.train.models.map_agent import MapAgent
from clipfeat.train.navigation.environment import Environment
from clipfeat.train.navigation.evaluation import read_split
from clipfeat.train.navigation.graphs import make_scan
from clipfeat.train.navigation.known_map import KnownMap
from clipfeat.train.navigation.results import check_walks, read_results
from clipfeat.train.tasks.navigation.data import read_training
from clipfeat.train.tasks.navigation.experts import DistanceExpert, WarpExpert
from clipfeat.train.tasks.navigation.map import MapTask, explore, rollout_loss

MAP = (
    "model={name='map', hidden=32, heads=2, text_layers=1, panorama_layers=1, cross_layers=1, "
    "dropout=0.0, feature_dropout=0.0}"
)


def random_walks(seed, expert, steps=5):
    """Take steps to random unvisited nodes; yield the map, the expert's nodes and plain maps."""
    rng = np.random.default_rng(seed)
    scans = [random_scan(rng, n, name) for n, name in ((15, "a"), (30, "b"))]
    n = sum(len(scan.viewpoints) for scan in scans)
    environment = Environment({scan.name: scan for scan in scans}, torch.zeros(n, 36, 1))
    names, paths = [], []
    while len(names) < 20:
        scan = scans[rng.integers(2)]
        places = rng.integers(0, len(scan.viewpoints), 3).tolist()
        # A reference with a detour, which may come back to where it was.
        path = [p for a, b in pairwise(places) for p in scan.path(a, b)[1:]]
        if path:
            names.append(scan.name)
            paths.append([places[0], *path])
    named = [
        [environment.scans[name].viewpoints[p] for p in path]
        for name, path in zip(names, paths, strict=True)
    ]
    episodes = environment.episodes(names, named, [0.0] * len(names))
    firsts = {"a": 0, "b": 15}
    plain = [PlainMap(environment.scans[name]) for name in names]
    walks = [[path[0]] for path in paths]
    known = KnownMap(environment, episodes.start.viewpoints)
    expert = expert(environment, episodes)
    state = episodes.start
    for count in range(1, steps):
        known.visit(state.viewpoints)
        for each, walk in zip(plain, walks, strict=True):
            each.visit(walk[-1], count)
        yield expert.nodes(known).tolist(), plain, walks, paths
        goals = [
            int(rng.choice([n for n, v in enumerate(each.nodes) if v not in each.visits] or [0]))
            for each in plain
        ]
        passed = known.walks(torch.tensor(goals)[:, None])[:, 0]
        expert.move(passed)
        state = known.after(state, passed)
        for k, name in enumerate(names):
            way, _ = plain[k].path(walks[k][-1], plain[k].nodes[goals[k]])
            walks[k] += way[1:]
            assert walks[k][-1] == state.viewpoints[k] - firsts[name]


def test_the_distance_expert_by_brute_force():
    """Least D(here, node) + D(node, goal) of unvisited nodes; of equal ones the nearest."""
    several = 0
    for nodes, plain, walks, paths in random_walks(0, DistanceExpert):
        for node, each, walk, path in zip(nodes, plain, walks, paths, strict=True):
            metres = each.scan.distances
            costs = {v: metres[walk[-1], v] + metres[v, path[-1]] for v in unvisited(each)}
            if costs:
                least = [v for v, cost in costs.items() if cost < min(costs.values()) + 1e-9]
                assert each.nodes[node] == min(least, key=lambda v: metres[walk[-1], v])
                several += len(least) > 1
    assert several > 5


def test_the_warp_expert_by_brute_force():
    """The unvisited node to which the walk so far, and the known path on, has the best nDTW."""
    compared = 0
    for nodes, plain, walks, paths in random_walks(1, WarpExpert):
        for node, each, walk, path in zip(nodes, plain, walks, paths, strict=True):
            ways = {v: each.path(walk[-1], v) for v in unvisited(each)}
            scores = {
                v: score_walk(each.scan.distances, walk + way[1:], path).ndtw
                for v, (way, _) in ways.items()
            }
            if scores:
                best = [v for v, score in scores.items() if score > max(scores.values()) - 1e-9]
                assert each.nodes[node] == min(best, key=lambda v: ways[v][1])
                compared += 1
    assert compared > 50


def test_the_warp_expert_tells_nodes_apart_where_all_ndtw_are_nearly_0():
    """A walk goes round a ring of 12 rooms the wrong way; 2 m off the tenth there is a dead end."""
    angles = np.arange(12) * np.pi / 6
    ring = 40 * np.column_stack([np.cos(angles), np.sin(angles), 0 * angles])
    positions = np.vstack([ring, ring[9] * 1.05])
    edges = [*((n, (n + 1) % 12) for n in range(12)), (9, 12)]
    scan = make_scan("ring", [str(n) for n in range(13)], positions, edges)
    environment = Environment({"ring": scan}, torch.zeros(13, 36, 1))
    episodes = environment.episodes(["ring"], [["0", "11"]], [0.0])
    known, state = KnownMap(environment, episodes.start.viewpoints), episodes.start
    expert = WarpExpert(environment, episodes)
    for viewpoint in range(1, 10):
        known.visit(state.viewpoints)
        node = (known.viewpoints == viewpoint).int().argmax(1, keepdim=True)
        passed = known.walks(node)[:, 0]
        expert.move(passed)
        state = known.after(state, passed)
    known.visit(state.viewpoints)
    walk = list(range(10))
    scores = [score_walk(scan.distances, [*walk, n], [0, 11]).ndtw for n in (10, 12)]
    assert 0 < scores[1] < scores[0] < 1e-9
    assert known.viewpoints[0, expert.nodes(known)].tolist() == [10]


def unvisited(plain):
    return [v for v in plain.nodes if v not in plain.visits]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_nav_world(tmp_path_factory.mktemp("map_world"))


@pytest.fixture(scope="module")
def task(world):
    return task_of(world)


def task_of(world, *changes):
    settings = nav_settings(MAP, "max_actions=8", *changes)
    accelerator = accelerator_on("cpu", settings)
    data = read_training(
        settings, store=world / "views.clipfeat", data=world / "data", device=accelerator.device
    )
    return MapTask(settings, data, accelerator)


def uniform(task):
    """An agent that finds all choices equally good."""
    settings = task.settings.model

    class Uniform(MapAgent):
        def decide(self, words, nodes, items, panorama):
            is_open = nodes.is_node & (nodes.visited_at == 0)
            scores = torch.zeros(len(is_open), 1 + is_open.shape[1])
            scores[:, 1:][~is_open] = -math.inf
            return scores

    return Uniform(settings, task.world.norm, words=task.world.words.size)


@pytest.mark.parametrize("teacher", ["shortest", "reference"])
def test_the_teachers_loss_by_brute_force(world, teacher):
    """With equal scores a step costs the logarithm of the number of choices.

    The second half of the batch has the same draws, whatever the teacher's weight.
    """
    batch = task_of(world).world.training.batch(np.arange(6))
    losses = []
    for weight in (0.25, 0.0):
        task = task_of(world, f"teacher={teacher}", f"teacher_weight={weight}")
        torch.manual_seed(0)
        losses.append(task.loss(uniform(task), batch).item())
    expected = []
    for episode in task.world.training.episodes[:3]:
        scan = task.world.files.scans[episode.scan]
        plain, cost = PlainMap(scan), 0.0
        for count, viewpoint in enumerate(episode.path, start=1):
            plain.visit(scan.index[viewpoint], count)
            cost += math.log(1 + len(unvisited(plain)))
        expected.append(cost)
    assert losses[0] - losses[1] == pytest.approx(0.25 * sum(expected) / 3, rel=1e-5)


def test_the_expert_corrects_the_first_choice(world):
    """With one action, the second half of a batch costs the logarithm of the choices at its starts."""
    task = task_of(world, "teacher_weight=0.0", "max_actions=1")
    starts = task.world.training.tensors.start.viewpoints[3:6]
    expected = (1 + task.world.environment.counts[starts]).log().mean()
    loss = task.loss(uniform(task), task.world.training.batch(np.arange(6)))
    assert loss.item() == pytest.approx(expected.item())


def test_sampled_walks_end_at_the_goal_alone(world):
    """An agent that would stop at once is led on: it learns at each step, and STOP is not drawn."""
    task = task_of(world, "teacher_weight=0.0", "max_actions=30")
    agent, seen = uniform(task), []
    decide = agent.decide

    def stops(words, nodes, items, panorama):
        scores = decide(words, nodes, items, panorama)
        scores[:, 0] = 50
        seen.append((scores.shape[0], (nodes.visited_at > 0).sum(1).max().item()))
        return scores

    agent.decide = stops
    loss = task.loss(agent, task.world.training.batch(np.arange(2)))
    # Each step but that at the goal costs about 50, that at the goal nothing.
    steps = max(visits for _, visits in seen)
    assert steps > 1
    assert loss.item() == pytest.approx(50 * (steps - 1), rel=1e-3)


def test_a_reference_that_comes_back_is_walked_without_a_target(world):
    """A step to a visited node costs nothing, and the walk goes on behind it."""
    task = task_of(world, "teacher=reference", "teacher_weight=1.0")
    environment, training = task.world.environment, task.world.training
    episode = training.episodes[0]
    a, b, c, *_ = episode.path
    tensors = environment.episodes([episode.scan] * 2, [[a, b, a, b, c]] * 2, [0.0] * 2)
    batch = training.batch(np.array([0, 0]))
    agent, losses = uniform(task), []
    for each in (task, task_of(world, "teacher=reference", "teacher_weight=0.0")):
        torch.manual_seed(0)
        loss = rollout_loss(agent, environment, tensors, batch, each.settings)
        losses.append(loss.item())
    plain, expected = PlainMap(environment.scans[episode.scan]), 0.0
    for count, viewpoint in enumerate(
        (a, b, c), start=1
    ):  # to b; from b, the second time, to c; STOP
        plain.visit(plain.scan.index[viewpoint], count)
        expected += math.log(1 + len(unvisited(plain)))
    assert losses[0] - losses[1] == pytest.approx(expected, rel=1e-5)


def chooser(task, prefer):
    """An agent whose scores of STOP and nodes are `prefer(nodes)`, an (episode, 1 + node) tensor."""
    agent = uniform(task)
    decide = agent.decide

    def scored(words, nodes, items, panorama):
        return decide(words, nodes, items, panorama) + prefer(nodes)

    agent.decide = scored
    return agent.eval()


def test_in_the_end_it_goes_where_stop_was_likeliest(task):
    """It chooses the first node seen, so turns back; STOP was likeliest at the second visit."""
    chances = {1: -9.0, 2: -1.0, 3: -9.0, 4: -9.0}

    def prefer(nodes):
        scores = torch.zeros(len(nodes.is_node), 1 + nodes.is_node.shape[1])
        scores[:, 1:] = -torch.arange(nodes.is_node.shape[1]).float()
        scores[:, 0] = chances[nodes.visited_at.max().item()] - 20
        return scores

    split = task.world.held_out[0]
    rows = np.arange(len(split))
    with torch.inference_mode():
        walks = explore(chooser(task, prefer), split, rows, task.world.environment, max_actions=4)
    turned = 0
    for row, walk in zip(rows, walks, strict=True):
        episode = split.episodes[row]
        scan = task.world.files.scans[episode.scan]
        first = task.world.environment.numbers[episode.scan, scan.viewpoints[0]]
        plain, here = PlainMap(scan), scan.index[episode.path[0]]
        expected, second = [here], here
        for count in range(1, 4):
            plain.visit(here, count)
            way, _ = plain.path(here, next(iter(unvisited(plain))))
            expected += way[1:]
            here = way[-1]
            if count == 1:
                second = here
            turned += len(way) > 2
        plain.visit(here, 4)
        expected += plain.path(here, second)[0][1:]
        assert collapse([v - first for v in walk]) == expected
    assert turned > 3


def test_written_walks_have_edges_only_and_turn_back(task, world, tmp_path):
    """Of an untrained agent, in the file of results, by the check of results."""
    (tmp_path / "follower").mkdir()
    report = task.report(task.model.eval(), tmp_path / "follower", 1)
    for name, scores in report.result["splits"].items():
        path = Path(scores["predictions"])
        split, scans = read_split(world / "data", world / "data" / "connectivity", name)
        checked = check_walks(read_results(path), split, scans, path=path)
        assert len(checked) == len(split.episodes)
        assert any(len(set(each.walk)) < len(each.walk) for each in checked)


@pytest.mark.slow
def test_it_learns_a_few_paths_by_heart(world):
    """Greedy walks on 6 training instructions end at their goals."""
    task, rows = task_of(world, "teacher_weight=1.0", "max_actions=5"), np.arange(6)
    training = task.world.training
    batch = training.batch(rows)
    optimizer = torch.optim.Adam(task.model.parameters(), lr=3e-3)
    torch.manual_seed(0)
    for _ in range(40):
        task.loss(task.model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.inference_mode():
        walks = task.walk(cast(MapAgent, task.model.eval()), training, rows)
    assert [walk[-1] for walk in walks] == training.tensors.goals[rows].tolist()


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(world, tmp_path, typed):
    """With dropout and samples, on the command line."""
    dropout = MAP.replace("dropout=0.0", "dropout=0.2")
    sets = [f"--set={change}" for change in (*FAST, dropout, "updates=20", "checkpoint_every=3")]
    paths = ["--store", str(world / "views.clipfeat"), "--data", str(world / "data")]
    words = ["train", "nav", *paths, *sets, "--device", "cpu", "--out"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    code, _, messages = typed(*words, whole)
    assert code == 0, messages
    child = Child(*words, str(run))
    wait_for_update(run / "follower", 7, child)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    code, _, messages = typed(*words, run)
    assert code == 0, messages
    assert "resuming" in messages
    for name in ("last.safetensors", "best.safetensors", "predictions_val_unseen.json"):
        ours, theirs = (folder / "follower" / name for folder in (run, whole))
        assert ours.read_bytes() == theirs.read_bytes(), name
    losses = [
        [json.loads(line).get("loss") for line in (folder / "follower" / "metrics.jsonl").open()]
        for folder in (run, whole)
    ]
    assert losses[0] == losses[1]
    result = json.loads((run / "follower" / "result.json").read_text())
    code, printed, messages = typed("eval", "nav", run, "--split", "val_unseen", "--json")
    assert code == 0, messages
    assert json.loads(printed)["ndtw"] == result["splits"]["val_unseen"]["ndtw"]
    code, _, messages = typed("eval", "nav", run, "--split", "val_unseen", "--forbid-visited")
    assert code != 0
    assert "E-NAV-VISITED" in messages
