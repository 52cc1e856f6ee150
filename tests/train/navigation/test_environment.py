"""Batches of episodes move and see as one agent in the plain simulator does."""

import math

import numpy as np
import pytest
import torch
from scans import random_scan, simulator
from stores import make_store

from benchmarks.plain_simulator import move_to, walk_views
from clipfeat.base.errors import UsageError
from clipfeat.featstore import FeatureStore
from clipfeat.train.navigation.environment import (
    IGNORED,
    NOWHERE,
    Environment,
    State,
)
from clipfeat.train.navigation.features import read_features, viewpoint_ids
from clipfeat.train.navigation.graphs import make_scan

DIM = 6
# sin and cos of heading relative to the agent's, and of elevation, of some views: of the published
# `get_point_angle_feature`, for agents that look through these views.
VIEW_ANGLES = {
    0: {11: [-0.5, 0.866025, -0.5, 0.866025], 14: [0.866025, 0.5, 0, 1]},
    3: {
        0: [-1, 0, -0.5, 0.866025],
        14: [-0.5, 0.866025, 0, 1],
        35: [-0.866025, -0.5, 0.5, 0.866025],
    },
    12: {0: [0, 1, -0.5, 0.866025], 25: [0.5, 0.866025, 0.5, 0.866025]},
    23: {14: [1, 0, 0, 1], 25: [0.866025, 0.5, 0.5, 0.866025], 35: [0, 1, 0.5, 0.866025]},
}


def two_scans():
    rng = np.random.default_rng(0)
    return {name: random_scan(rng, n, name) for name, n in (("a", 12), ("b", 20))}


def features_of(scans):
    """Features that name their viewpoint, view and channel; exact in float16."""
    n = sum(len(scan.viewpoints) for scan in scans.values())
    numbers = torch.arange(n * 36 * DIM).reshape(n, 36, DIM)
    return (numbers % 2048).half()


@pytest.fixture(scope="module")
def scans():
    return two_scans()


@pytest.fixture(scope="module")
def environment(scans):
    return Environment(scans, features_of(scans))


def random_episodes(environment, count, seed=0):
    """Start anywhere with any heading, and lead to any viewpoint that can be reached."""
    rng = np.random.default_rng(seed)
    names, paths = [], []
    while len(names) < count:
        scan = environment.scans["ab"[rng.integers(2)]]
        start, goal = rng.integers(0, len(scan.viewpoints), 2).tolist()
        if path := scan.path(start, goal):
            names.append(scan.name)
            paths.append([scan.viewpoints[k] for k in path])
    headings = rng.uniform(0, 2 * math.pi, count)
    return names, paths, headings.tolist()


def test_random_walks_equal_those_in_the_simulator(environment):
    """Of 60 agents that take random actions: viewpoint, view and everything that is observed."""
    names, paths, headings = random_episodes(environment, 60)
    state = environment.episodes(names, paths, headings).start
    plain = [simulator(environment.scans[name]) for name in names]
    for agent, name, path, heading in zip(plain, names, paths, headings, strict=True):
        agent.new_episode(environment.scans[name].index[path[0]], heading, 0)
    offsets = {"a": 0, "b": len(environment.scans["a"].viewpoints)}
    rng = np.random.default_rng(1)
    for _ in range(6):
        seen = environment.observe(state)
        counts = environment.counts[state.viewpoints]
        actions = torch.from_numpy(rng.integers(0, 100, 60)) % (counts + 1)
        for k, (agent, name) in enumerate(zip(plain, names, strict=True)):
            number = offsets[name] + agent.viewpoint
            assert (state.viewpoints[k], state.views[k]) == (number, agent.view)
            candidates = candidates_of(agent)
            check_observation(environment, seen, k, agent, number, candidates)
            action = int(actions[k])
            if not state.has_stopped[k] and action < len(candidates):
                move_to(agent, candidates[action])
                assert agent.view == candidates[action].view
        state = environment.step(state, actions)
    assert 0 < state.has_stopped.sum() < 60


def candidates_of(agent):
    """The walk, after which the agent looks again as before."""
    heading, elevation = agent.heading, agent.elevation
    candidates = walk_views(agent)
    agent.new_episode(agent.viewpoint, heading, elevation)
    return candidates


def check_observation(environment, seen, k, agent, number, candidates):
    views = environment.features[number].float()
    n = len(candidates)
    assert seen.views[k].equal(views)
    assert seen.is_action[k].tolist() == [j <= n for j in range(seen.is_action.shape[1])]
    assert seen.candidates[k, :n].equal(views[[each.view for each in candidates]])
    assert not seen.candidates[k, n:].any()
    angles = [directed(c.heading - agent.heading, c.elevation) for c in candidates]
    assert torch.allclose(seen.candidate_angles[k, :n], torch.tensor(angles).reshape(n, 4))
    assert not seen.candidate_angles[k, n:].any()
    assert torch.allclose(
        seen.direction[k], torch.tensor(directed(agent.heading, agent.elevation)), atol=1e-6
    )


def directed(heading, elevation):
    return [math.sin(heading), math.cos(heading), math.sin(elevation), math.cos(elevation)]


def test_angles_of_views(environment):
    views = torch.tensor(list(VIEW_ANGLES))
    viewpoints, stopped = torch.zeros_like(views), torch.zeros_like(views, dtype=torch.bool)
    seen = environment.observe(State(viewpoints, views, stopped))
    for k, expected in enumerate(VIEW_ANGLES.values()):
        for view, angles in expected.items():
            assert seen.view_angles[k, view].tolist() == pytest.approx(angles, abs=1e-6)


def test_the_shortest_teacher_walks_shortest_paths(environment):
    names, paths, headings = random_episodes(environment, 100, seed=3)
    episodes = environment.episodes(names, paths, headings)
    state, metres = episodes.start, environment.distances(episodes.start.viewpoints, episodes.goals)
    for name, path, length in zip(names, paths, metres.tolist(), strict=True):
        scan = environment.scans[name]
        assert length == scan.distances[scan.index[path[0]], scan.index[path[-1]]]
    longest = max(map(len, paths))
    for step in range(longest):
        expected = [
            environment.numbers[name, path[min(step, len(path) - 1)]]
            for name, path in zip(names, paths, strict=True)
        ]
        assert state.viewpoints.tolist() == expected
        assert state.has_stopped.tolist() == [len(path) <= step for path in paths]
        actions = environment.shortest_actions(state, episodes.goals)
        assert ((actions == IGNORED) == state.has_stopped).all()
        by_reference = environment.reference_actions(state, episodes.references)
        assert by_reference.equal(actions)  # these references are the shortest paths
        assert environment.reference_actions(state, episodes.references, step).equal(actions)
        state = environment.step(state, actions.clamp(min=0))
    assert state.has_stopped.all()
    assert state.viewpoints.equal(episodes.goals)
    assert not environment.distances(state.viewpoints, episodes.goals).any()


@pytest.fixture(scope="module")
def ring():
    """A ring of five, A to E, and F alone."""
    turns = np.arange(5) * 2 * math.pi / 5
    places = [*zip(np.sin(turns), np.cos(turns), turns * 0, strict=True), (9, 9, 9)]
    edges = [(k, (k + 1) % 5) for k in range(5)]
    scans = {"ring": make_scan("ring", list("ABCDEF"), np.array(places), edges)}
    return Environment(scans, torch.zeros(6, 36, 1))


def follow(ring, reference, steps, *, by_step):
    """The viewpoints of an agent that follows a reference, until it stops or has no target."""
    episodes = ring.episodes(["ring"], [reference], [0.0])
    state, visited = episodes.start, [reference[0]]
    for step in range(steps):
        action = ring.reference_actions(state, episodes.references, step if by_step else None)
        if action == IGNORED:
            return "".join(visited)
        state = ring.step(state, action)
        visited.append("STOP" if state.has_stopped else "ABCDEF"[int(state.viewpoints)])
    return "".join(visited)


def test_following_a_reference(ring):
    for by_step in (True, False):
        assert follow(ring, "ABCD", 9, by_step=by_step) == "ABCDSTOP"
        assert follow(ring, "A", 9, by_step=by_step) == "ASTOP"
        assert follow(ring, "AC", 9, by_step=by_step) == "A"  # start and goal alone
    # One that comes back is followed by step; by the first occurrence it leads in a circle.
    assert follow(ring, "ABCBAE", 9, by_step=True) == "ABCBAESTOP"
    assert follow(ring, "ABCBAE", 9, by_step=False) == "ABCBCBCBCB"
    assert follow(ring, "ABCDEA", 9, by_step=True) == "ABCDEASTOP"


def test_off_the_reference_there_is_no_target(ring):
    episodes = ring.episodes(["ring"] * 2, ["ABC", "E"], [0.0, 0.0])
    assert episodes.references.tolist() == [[0, 1, 2, NOWHERE], [4, NOWHERE, NOWHERE, NOWHERE]]
    off = State(
        torch.tensor([3, 3]), torch.zeros(2, dtype=torch.long), torch.tensor([False, False])
    )
    assert ring.reference_actions(off, episodes.references).tolist() == [IGNORED, IGNORED]


def test_no_way_leads_to_the_goal(ring):
    episodes = ring.episodes(["ring"] * 2, ["AF", "FF"], [0.0, 0.0])
    actions = ring.shortest_actions(episodes.start, episodes.goals)
    assert actions.tolist() == [IGNORED, 0]  # alone, the first action is STOP
    assert ring.distances(episodes.start.viewpoints, episodes.goals).tolist() == [math.inf, 0]


def test_some_of_the_episodes(environment):
    names, paths, headings = random_episodes(environment, 9)
    some = environment.episodes(names, paths, headings).take(torch.tensor([7, 2]))
    alone = environment.episodes([names[2]], [paths[2]], [headings[2]])
    assert len(some) == 2
    assert all(a[1:].equal(b) for a, b in zip(some.start, alone.start, strict=True))
    assert some.goals[1:].equal(alone.goals)
    width = alone.references.shape[1]
    assert some.references[1:, :width].equal(alone.references)


@pytest.mark.parametrize(
    ("scan", "path", "heading", "code"),
    [
        ("house", ["a0"], 0.0, "E-NAV-SCAN"),
        ("a", ["a0", "b0"], 0.0, "E-NAV-PATH"),
        ("a", [], 0.0, "E-NAV-PATH"),
        ("a", ["a0"], 90.0, "E-NAV-HEADING"),
        ("a", ["a0"], math.nan, "E-NAV-HEADING"),
    ],
)
def test_bad_episodes_are_refused(environment, scan, path, heading, code):
    with pytest.raises(UsageError) as refused:
        environment.episodes(["a", scan], [["a1"], path], [0.0, heading])
    assert refused.value.code == code


def test_features_of_a_store(tmp_path, scans):
    features = features_of(scans)
    ids = viewpoint_ids(scans)
    assert (ids[0], ids[12]) == ("a_a0", "b_b0")
    records = {i: f.numpy()[:, None] for i, f in zip(ids, features, strict=True)}
    records["other"] = np.ones((36, 1, DIM), np.float16)
    store = FeatureStore.open(make_store(tmp_path / "s", dict(sorted(records.items()))))
    got = read_features(store, scans)
    assert got.dtype == torch.float16
    assert got.equal(features)


def test_viewpoints_without_features_are_named(tmp_path, scans):
    records: dict[str, np.ndarray | None] = dict.fromkeys(viewpoint_ids(scans), np.ones((36, 1, 2)))
    del records["b_b3"]
    records["a_a5"] = None
    store = FeatureStore.open(make_store(tmp_path / "s", records))
    with pytest.raises(UsageError) as refused:
        read_features(store, scans)
    assert refused.value.code == "E-NAV-FEATURES"
    text = str(refused.value)
    assert "2 viewpoints of 32 without features" in text
    assert "1 not in the store, 1 that could not be extracted" in text
    assert "'a_a5', 'b_b3'" in text


def test_records_of_single_images_are_refused(tmp_path, scans):
    records = dict.fromkeys(viewpoint_ids(scans), np.ones((6, 6, 2), np.float16))
    store = FeatureStore.open(make_store(tmp_path / "s", records))
    with pytest.raises(UsageError, match="--recipe views") as refused:
        read_features(store, scans)
    assert refused.value.code == "E-NAV-FEATURES"


def test_features_of_other_scans_are_refused(scans):
    with pytest.raises(ValueError, match="32 viewpoints"):
        Environment(scans, torch.zeros(31, 36, 2))
