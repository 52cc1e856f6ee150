"""Known maps of batches equal those that plain Python keeps of one agent after the other."""

import itertools
import math

import numpy as np
import pytest
import torch
from plain_map import PlainMap
from scans import random_scan, simulator

from benchmarks.plain_simulator import walk_views
from clipfeat.train.navigation.environment import NOWHERE, Environment, State
from clipfeat.train.navigation.graphs import make_scan
from clipfeat.train.navigation.known_map import KnownMap, NodeVectors

# A(0,0) B(2,0) C(5,0) D(5,4) E(2,4), edges AB 2 m, BC 3, CD 4, BE 4, ED 3.
PLACES = np.array([(0.0, 0, 0), (2, 0, 0), (5, 0, 0), (5, 4, 0), (2, 4, 0)])
EDGES = [(0, 1), (1, 2), (2, 3), (1, 4), (4, 3)]
A, B, C, D, E = range(5)


def environment_of(*scans):
    n = sum(len(scan.viewpoints) for scan in scans)
    return Environment({scan.name: scan for scan in scans}, torch.zeros(n, 36, 1))


@pytest.fixture
def house():
    return environment_of(make_scan("house", "ABCDE", PLACES, EDGES))


def state_at(viewpoints, views=12):
    viewpoints = torch.as_tensor(viewpoints)
    return State(viewpoints, torch.full_like(viewpoints, views), viewpoints < 0)


def visited(environment, *walk):
    known = KnownMap(environment, torch.tensor(walk[:1]))
    for viewpoint in walk:
        known.visit(torch.tensor([viewpoint]))
    return known


def test_maps_of_random_walks_equal_those_kept_one_by_one():
    """Of 30 agents in two scans that go to any known node: all tables, walks and views."""
    rng = np.random.default_rng(0)
    scans = [random_scan(rng, n, name) for n, name in ((12, "a"), (40, "b"))]
    environment = environment_of(*scans)
    firsts = np.array([0, 12])
    which = rng.integers(0, 2, 30)
    at = np.array([rng.integers(len(scans[k].viewpoints)) for k in which])
    plain = [PlainMap(scans[k]) for k in which]
    state = state_at(firsts[which] + at)
    known = KnownMap(environment, state.viewpoints)
    for count in range(1, 9):
        known.visit(state.viewpoints)
        goals = []
        for k, each in enumerate(plain):
            first = int(firsts[which[k]])
            viewpoint = int(state.viewpoints[k]) - first
            each.visit(viewpoint, count)
            n = len(each.nodes)
            assert (known.viewpoints[k, :n] - first).tolist() == each.nodes
            assert known.viewpoints[k, n:].eq(NOWHERE).all()
            assert known.is_node[k].sum() == n
            assert known.visited_at[k, :n].tolist() == [each.visits.get(v, 0) for v in each.nodes]
            assert not known.visited_at[k, n:].any()
            assert each.nodes[known.here[k]] == viewpoint
            for (i, a), (j, b) in itertools.product(enumerate(each.nodes), repeat=2):
                path, length = each.path(a, b)
                assert known.metres[k, i, j] == pytest.approx(length)
                assert known.steps[k, i, j] == len(path) - 1
            assert known.metres[k, :n, n:].isinf().all()
            goals.append(int(rng.integers(n)))
        walks = known.walks(torch.tensor(goals)[:, None])[:, 0]
        moved = known.after(state, walks)
        for k, each in enumerate(plain):
            start, goal = int(known.here[k]), goals[k]
            path, _ = each.path(each.nodes[start], each.nodes[goal])
            walked = (walks[k] - firsts[which[k]]).tolist()
            assert walked == path + path[-1:] * (len(walked) - len(path))
            assert moved.viewpoints[k] - firsts[which[k]] == path[-1]
            assert moved.views[k] == (view_of(each.scan, path) if path[1:] else state.views[k])
        state = moved
    assert known.is_unvisited.any()


def view_of(scan, path):
    """The view by which the last step of a path is seen."""
    agent = simulator(scan)
    agent.new_episode(path[-2], 0, 0)
    return next(each.view for each in walk_views(agent) if each.viewpoint == path[-1])


def test_a_way_is_known_from_the_first_of_its_ends(house):
    """From C, D is seen; that E and D are neighbours is not known before one of them is visited."""
    known = visited(house, A, B, C)
    node = {v: known.viewpoints[0].tolist().index(v) for v in (A, B, C, D, E)}
    assert known.metres[0, node[E], node[D]] == 11  # E B 4, B C 3, C D 4
    assert known.steps[0, node[E], node[D]] == 3
    assert known.metres[0, node[A], node[D]] == 9
    assert known.is_unvisited[0, [node[D], node[E]]].all()
    known.visit(torch.tensor([D]))
    assert known.metres[0, node[E], node[D]] == 3
    assert known.metres[0, node[A], node[E]] == 6


def test_paths_lead_through_visited_nodes(house):
    """From A's side the way to D is by C, which has been visited, and not by E, which has not."""
    known = visited(house, A, B, C)
    known.visit(torch.tensor([B]))
    node = {v: known.viewpoints[0].tolist().index(v) for v in (A, B, C, D, E)}
    walks = known.walks(torch.tensor([[node[D], node[A], node[B]]]))
    assert walks[0].tolist() == [[B, C, D], [B, A, A], [B, B, B]]
    known = visited(house, A, B, E, B, C)
    node = {v: known.viewpoints[0].tolist().index(v) for v in (A, B, C, D, E)}
    assert known.metres[0, node[E], node[C]] == 7  # by B; D would be as far, and is not visited


def test_a_second_visit_changes_nothing(house):
    once = visited(house, A, B)
    twice = visited(house, A, B, B)
    assert twice.viewpoints.equal(once.viewpoints)
    assert twice.visited_at.equal(once.visited_at)
    assert twice.metres.equal(once.metres)
    assert visited(house, A, B, A).visited_at.tolist() == [[1, 2, 0, 0]]


def test_poses_by_hand(house):
    """At B, looking east (view 15): C is 3 m ahead, E 4 m to the left, A 2 m behind."""
    known = visited(house, A, B)
    places = {v: n for n, v in enumerate(known.viewpoints[0].tolist())}
    poses = known.poses(torch.tensor([15]))[0]
    assert poses.shape == (4, 7)
    expected = {
        A: [0, -1, 0, 1, 2 / 30, 2 / 30, 0.1],
        B: [0, 1, 0, 1, 0, 0, 0],
        C: [0, 1, 0, 1, 3 / 30, 3 / 30, 0.1],
        E: [-1, 0, 0, 1, 4 / 30, 4 / 30, 0.1],
    }
    for viewpoint, numbers in expected.items():
        assert poses[places[viewpoint]].tolist() == pytest.approx(numbers, abs=1e-6)
    # From C, through the upper row (view 27, 30 degrees up): A is 5 m behind and 30 degrees below.
    known.visit(torch.tensor([C]))
    pose = known.poses(torch.tensor([27]))[0, places[A]].tolist()
    assert pose == pytest.approx([0, -1, -0.5, math.sqrt(0.75), 5 / 30, 5 / 30, 0.2], abs=1e-6)
    pose = known.poses(torch.tensor([27]))[0, places[E]].tolist()  # straight 5 m, walked 7
    assert pose[4:] == pytest.approx([5 / 30, 7 / 30, 0.2])


def test_the_vectors_of_nodes_are_means_of_what_saw_them(house):
    """D is seen from C and then from E: its vector is the mean of both, until it is visited."""
    known = KnownMap(house, torch.tensor([C]))
    vectors = NodeVectors(known, 1)
    seen = torch.zeros(1, 4, 1, requires_grad=True)
    for viewpoint, here, of in ((C, 10.0, 1.0), (B, 20.0, 2.0), (E, 30.0, 4.0)):
        known.visit(torch.tensor([viewpoint]))
        is_candidate = torch.arange(4)[None] < house.counts[viewpoint]
        vectors.add(torch.tensor([[here]]), seen + of, is_candidate)
    of_node = dict(zip(known.viewpoints[0].tolist(), vectors.means[0, :, 0].tolist(), strict=True))
    assert of_node == {C: 10, B: 20, E: 30, D: 2.5, A: 2}  # D: (1 + 4) / 2
    vectors.means[0, known.viewpoints[0].tolist().index(D)].backward()
    assert seen.grad is not None
    assert seen.grad.sum() == 1
    known.visit(torch.tensor([D]))
    vectors.add(torch.tensor([[40.0]]), seen + 8, torch.arange(4)[None] < house.counts[D])
    of_node = dict(zip(known.viewpoints[0].tolist(), vectors.means[0, :, 0].tolist(), strict=True))
    assert of_node == {C: 10, B: 20, E: 30, D: 40, A: 2}
