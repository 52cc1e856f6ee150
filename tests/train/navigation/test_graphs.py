"""Scans from connectivity files: what they are, what is odd about them, and what is refused."""

import heapq
import itertools
import json
import math

import numpy as np
import pytest
from scans import connectivity, panorama, random_scan, write_scan

from clipfeat.base.errors import UsageError
from clipfeat.train.navigation import graphs
from clipfeat.train.navigation.graphs import make_scan, read_scan, read_scans, scan_names

# A 0,0; B 2,0; C 5,0; D 5,4; E 2,4: a path of three edges, and a square that closes.
SQUARE = [(0, 0, 1), (2, 0, 1), (5, 0, 1), (5, 4, 1), (2, 4, 1)]
EDGES = [(0, 1), (1, 2), (2, 3), (1, 4), (4, 3)]


def dijkstra(scan, start):
    """The lengths of shortest paths from a viewpoint, from the algorithm as textbooks have it."""
    lengths, queue = {}, [(0.0, start)]
    while queue:
        length, a = heapq.heappop(queue)
        if a not in lengths:
            lengths[a] = length
            for b in scan.neighbours[a]:
                heapq.heappush(queue, (length + math.dist(scan.positions[a], scan.positions[b]), b))
    return lengths


def test_a_file(tmp_path):
    scan = read_scan(write_scan(tmp_path, "house", connectivity(SQUARE, EDGES, "ABCDE")))
    assert (scan.name, scan.viewpoints) == ("house", tuple("ABCDE"))
    assert scan.index == dict(zip("ABCDE", range(5), strict=True))
    assert scan.positions.tolist() == [list(p) for p in SQUARE]
    assert scan.neighbours == ((1,), (0, 2, 4), (1, 3), (2, 4), (1, 3))
    assert scan.edges == [(0, 1), (1, 2), (1, 4), (2, 3), (3, 4)]
    assert scan.metres == 2 + 3 + 4 + 4 + 3
    assert scan.distances.tolist() == [
        [0, 2, 5, 9, 6],
        [2, 0, 3, 7, 4],
        [5, 3, 0, 4, 7],
        [9, 7, 4, 0, 3],
        [6, 4, 7, 3, 0],
    ]
    assert scan.odd == ()
    # From B to D both ways have 7 m: over C, whose number is lower. From C to E over B.
    assert scan.path(0, 3) == [0, 1, 2, 3]
    assert scan.path(2, 4) == [2, 1, 4]
    assert scan.path(1, 1) == [1]


def test_excluded_viewpoints_are_left_out_with_their_edges(tmp_path):
    panoramas = connectivity(SQUARE, EDGES, "ABCDE")
    panoramas[2]["included"] = False
    scan = read_scan(write_scan(tmp_path, "house", panoramas))
    assert scan.viewpoints == tuple("ABDE")
    assert scan.edges == [(0, 1), (1, 3), (2, 3)]
    assert scan.path(0, 2) == [0, 1, 3, 2]
    assert scan.odd == ("1 panorama excluded",)


@pytest.mark.parametrize("seed", range(4))
def test_distances_and_paths_of_random_graphs(seed):
    scan = random_scan(np.random.default_rng(seed), 40)
    for a in range(40):
        lengths = dijkstra(scan, a)
        for b in range(40):
            assert scan.distances[a, b] == pytest.approx(lengths.get(b, math.inf), rel=1e-12)
            path = scan.path(a, b)
            assert bool(path) == (b in lengths)
            walked = sum(
                math.dist(scan.positions[x], scan.positions[y]) for x, y in itertools.pairwise(path)
            )
            if path:
                assert (path[0], path[-1]) == (a, b)
                assert walked == pytest.approx(lengths[b], rel=1e-12)
                assert all(y in scan.neighbours[x] for x, y in itertools.pairwise(path))
    assert (scan.distances == scan.distances.T).all()


def test_equally_short_paths_lead_over_the_lower_number():
    """On a grid of metres nearly all paths have equally short others."""
    side = 5
    positions = [(x * 0.1, y * 0.1, 0) for y in range(side) for x in range(side)]
    edges = [(k, k + 1) for k in range(side**2) if (k + 1) % side]
    edges += [(k, k + side) for k in range(side**2 - side)]
    scan = make_scan("grid", [str(k) for k in range(side**2)], np.array(positions), edges)
    assert scan.path(0, side**2 - 1) == [0, 1, 2, 3, 4, 9, 14, 19, 24]
    assert scan.path(side**2 - 1, 0) == [24, 19, 14, 9, 4, 3, 2, 1, 0]


def test_what_is_odd(tmp_path):
    positions = [*SQUARE, (9, 9, 1), (20, 0, 1), (20, 0.005, 1)]
    path = write_scan(tmp_path, "house", connectivity(positions, [*EDGES, (6, 7)]))
    scan = read_scan(path)
    assert scan.odd == (
        "1 viewpoint (v5) without an edge",
        "2 parts without a way from one to another",
        "1 edge shorter than 1 cm: v6 to v7",
    )
    assert scan.distances[0, 5] == math.inf
    assert scan.next_hop[0, 5] == -1
    assert scan.path(0, 6) == []


def changed(number, **changes):
    panoramas = connectivity(SQUARE, EDGES, "ABCDE")
    panoramas[number].update(changes)
    return panoramas


POSE = panorama("A", (0, 0, 1), [])["pose"]
BAD_FILES = {
    "expected a list": {"image_id": "A"},
    "the key pose is missing": [{"image_id": "A", "included": True, "unobstructed": [False]}],
    "image_id 'B' occurs twice": changed(0, image_id="B"),
    "panoramas.0.image_id: expected a name": changed(0, image_id=""),
    "half a surrogate pair": changed(0, image_id="\ud800"),
    "expected a list of 16 numbers": changed(0, pose=POSE[:12]),
    "expected a number": changed(0, pose=["1", *POSE[1:]]),
    "the pose of A": changed(0, pose=np.reshape(POSE, (4, 4)).T.ravel().tolist()),
    "the pose of B": changed(1, pose=[2 * x for x in POSE[:12]] + POSE[12:]),
    "the pose of C": changed(2, pose=[1e308] * 12 + POSE[12:]),
    "the pose of D": changed(3, pose=[*POSE[:3], math.nan, *POSE[4:]]),
    "A has 4 values of unobstructed": changed(0, unobstructed=[False] * 4),
    "from A to C and not back": changed(0, unobstructed=[False, True, True, False, False]),
    "A is its own neighbour": changed(0, unobstructed=[True, True, False, False, False]),
    "the pose of E": changed(4, pose=[*POSE[:3], 2e6, *POSE[4:]]),
    "at the same place or one above the other": changed(0, pose=[*POSE[:3], 2, *POSE[4:]]),
    "no panorama is included": [panorama("A", (0, 0, 0), [False], included=False)],
    "2,049 panoramas": [0] * 2049,
}


@pytest.mark.parametrize("problem", BAD_FILES)
def test_a_bad_file_is_refused(tmp_path, problem):
    path = write_scan(tmp_path, "house", BAD_FILES[problem])
    with pytest.raises(UsageError) as refused:
        read_scan(path)
    assert refused.value.code == "E-NAV-GRAPH"
    assert problem in str(refused.value)
    assert "house" in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"[", b"\xff", b"[" * 100_000, b"1" * 10_000])
def test_what_is_not_json_is_refused(tmp_path, content):
    path = tmp_path / "house_connectivity.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"not a readable JSON|expected a list") as refused:
        read_scan(path)
    assert refused.value.code == "E-NAV-GRAPH"


def test_scans_of_a_folder(tmp_path):
    for name in "cab":
        write_scan(tmp_path, name, connectivity(SQUARE, EDGES))
    assert list(read_scans(tmp_path)) == ["a", "b", "c"]
    (tmp_path / "scans.txt").write_text("c\r\n\nb\n")
    assert scan_names(tmp_path) == ["c", "b"]
    assert list(read_scans(tmp_path)) == ["c", "b"]
    assert list(read_scans(tmp_path, ["a", "a"])) == ["a"]


def test_a_list_of_too_many_scans(tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "MAX_SCANS", 2)
    (tmp_path / "scans.txt").write_text("a\nb\nc\n")
    with pytest.raises(UsageError, match="more than 2 scans") as refused:
        scan_names(tmp_path)
    assert refused.value.code == "E-NAV-SCAN"


@pytest.mark.parametrize("name", ["d", "../a", "", "x\0"])
def test_a_scan_without_a_file_is_named(tmp_path, name):
    write_scan(tmp_path, "a", connectivity(SQUARE, EDGES))
    write_scan(tmp_path / "inner", "a", connectivity(SQUARE, EDGES))
    with pytest.raises(UsageError) as refused:
        read_scans(tmp_path / "inner", ["a", name])
    assert refused.value.code == "E-NAV-SCAN"
    assert repr(name) in str(refused.value)


def test_a_folder_without_scans(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError) as refused:
            read_scans(folder)
        assert refused.value.code == "E-NAV-SCAN"
    wrong = tmp_path / "house.json"
    wrong.write_text(json.dumps(connectivity(SQUARE, EDGES)))
    with pytest.raises(UsageError, match="rename") as refused:
        read_scan(wrong)
    assert refused.value.code == "E-NAV-GRAPH"
