"""Paths for a speaker to describe equal those that a search of all simple paths finds."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scans import random_scan

from clipfeat.train.navigation.augmentation import shortest_path_episodes
from clipfeat.train.navigation.graphs import make_scan


def simple_paths(scan, path):
    """All paths from the start of `path` that pass no viewpoint twice, of at most 9 viewpoints."""
    yield path
    if len(path) < 9:
        for following in scan.neighbours[path[-1]]:
            if following not in path:
                yield from simple_paths(scan, [*path, following])


def length(scan, path):
    return math.fsum(math.dist(scan.positions[a], scan.positions[b]) for a, b in pairwise(path))


def fitting_paths(scan):
    """{(start, goal): the shortest path}, of 5 m or more and 4 to 7 viewpoints."""
    shortest = {}
    for start in range(len(scan.viewpoints)):
        for path in simple_paths(scan, [start]):
            ends = path[0], path[-1]
            if ends not in shortest or length(scan, path) < length(scan, shortest[ends]):
                shortest[ends] = path
    return {
        ends: tuple(scan.viewpoints[row] for row in path)
        for ends, path in shortest.items()
        if 4 <= len(path) <= 7 and length(scan, path) >= 5
    }


@pytest.fixture(scope="module")
def scans():
    """A chain of 11 viewpoints with steps of 1.5 m and two short cuts, one of 8, and one apart."""
    rng = np.random.default_rng(2)
    places = [(1.5 * k, rng.uniform(0, 1), 0) for k in range(11)] + [(99, 99, 0)]
    edges = [(k, k + 1) for k in range(10)] + [(0, 2), (5, 8)]
    chain = make_scan("chain", [f"c{k}" for k in range(12)], np.array(places), edges)
    return {"chain": chain, "small": random_scan(rng, 8, "small")}


def test_all_paths_are_those_of_a_search(scans):
    expected = {
        (name, path) for name, scan in scans.items() for path in fitting_paths(scan).values()
    }
    episodes = shortest_path_episodes(scans, count=10**6, seed=0)
    assert {(each.scan, each.path) for each in episodes} == expected
    assert len(episodes) == len(expected) > 40
    nodes = {len(each.path) for each in episodes}
    assert nodes == {4, 5, 6, 7}, "longer ones of the chain are left out"
    assert len({each.instruction_id for each in episodes}) == len(episodes)


def test_a_seed_draws_paths_evenly_and_again_the_same(scans):
    whole = shortest_path_episodes(scans, count=10**6, seed=0)
    drawn = shortest_path_episodes(scans, count=20, seed=5)
    assert drawn == shortest_path_episodes(scans, count=20, seed=5)
    paths = [each.path for each in drawn]
    assert len(set(paths)) == 20
    assert set(paths) < {each.path for each in whole}
    assert paths != [each.path for each in shortest_path_episodes(scans, count=20, seed=6)]
    headings = np.array([each.heading for each in whole])
    assert 0 <= headings.min() < 1
    assert 5 < headings.max() <= 2 * math.pi
    # Each of n paths is among 20 of n with the same chance: 200 draws, 4 deviations.
    times = dict.fromkeys((each.path for each in whole), 0)
    for seed in range(200):
        for each in shortest_path_episodes(scans, count=20, seed=seed):
            times[each.path] += 1
    share = 20 / len(whole)
    deviation = math.sqrt(200 * share * (1 - share))
    assert max(abs(each - 200 * share) for each in times.values()) < 4 * deviation


def test_scans_without_such_paths_give_none():
    near = make_scan("near", ["a", "b"], np.array([(0, 0, 0), (1, 0, 0)]), [(0, 1)])
    assert shortest_path_episodes({"near": near}, count=9, seed=0) == []
    assert shortest_path_episodes({}, count=9, seed=0) == []
