"""clipfeat nav graph as it is typed, without torch."""

import json
import math
import subprocess
import sys

import pytest
from command_lines import run_here


def panorama(name, position, linked, *, included=True):
    x, y, z = position
    pose = [1, 0, 0, x, 0, 1, 0, y, 0, 0, 1, z, 0, 0, 0, 1]
    return {"image_id": name, "pose": pose, "included": included, "unobstructed": linked}


def write(folder, name, panoramas):
    (folder / f"{name}_connectivity.json").write_text(json.dumps(panoramas))


@pytest.fixture
def folder(tmp_path):
    """`house`: p has q in the north-east, up, and r in the south; s is excluded, t alone."""
    no = [False] * 5
    write(
        tmp_path,
        "house",
        [
            panorama("p", (1, 1, 0), [False, True, True, True, False]),
            panorama("q", (2, 2, 1), [True, False, False, False, False]),
            panorama("r", (1, -1, 0), [True, False, False, False, False]),
            panorama("s", (0, 0, 0), [True, False, False, False, False], included=False),
            panorama("t", (9, 9, 0), no),
        ],
    )
    write(tmp_path, "hut", [panorama("a", (0, 0, 0), [False])])
    return tmp_path


def test_scans_are_described(folder):
    done = run_here("nav", "graph", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "house: 4 viewpoints, 2 edges, 3.7 m, degree 0 to 2, mean 1.00",
        "  1 panorama excluded",
        "  1 viewpoint (t) without an edge",
        "hut: 1 viewpoint, 0 edges, 0.0 m, degree 0 to 0, mean 0.00",
        "  1 viewpoint (a) without an edge",
        "2 scans: 5 viewpoints, 2 edges, 3.7 m",
    ]


def test_candidates_in_order(folder):
    done = run_here("nav", "graph", folder, "--scan", "house", "--json")
    printed = json.loads(done.stdout)
    assert list(printed["candidates"]) == ["p", "q", "r", "t"]
    assert printed["candidates"]["t"] == []
    first, second = printed["candidates"]["p"]
    # 45 degrees: first seen at view 1; nearest to views 1 and 2, and 35 degrees up.
    assert (first["viewpoint"], first["view"]) in {("q", 25), ("q", 26)}
    assert first["heading"] == pytest.approx(math.pi / 4)
    assert first["elevation"] == pytest.approx(math.atan(1 / math.sqrt(2)))
    assert first["distance"] == pytest.approx(math.sqrt(3))
    expected = {"viewpoint": "r", "view": 18, "heading": math.pi, "elevation": 0, "distance": 2}
    assert second == pytest.approx(expected)
    assert printed["scans"]["house"]["odd"] == [
        "1 panorama excluded",
        "1 viewpoint (t) without an edge",
    ]
    every = json.loads(run_here("nav", "graph", folder, "--json").stdout)["candidates"]
    assert every == {**printed["candidates"], "a": []}


def test_viewpoints_of_one_name_in_two_scans(folder):
    write(folder, "shed", [panorama("a", (0, 0, 0), [False])])
    assert run_here("nav", "graph", folder).returncode == 0
    done = run_here("nav", "graph", folder, "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--scan" in done.stderr
    assert "E-NAV-GRAPH" in done.stderr
    done = run_here("nav", "graph", folder, "--json", "--scan", "shed")
    assert json.loads(done.stdout)["candidates"] == {"a": []}


def test_what_cannot_be_read_is_one_line(folder):
    write(folder, "bad", [panorama("a", (0, 0, 0), [])])
    for words, code in (([], "E-NAV-GRAPH"), (["--scan", "none"], "E-NAV-SCAN")):
        done = run_here("nav", "graph", folder, *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
        assert code in done.stderr


def test_names_are_printed_as_escapes(folder):
    write(folder, "odd\x1b", [panorama("x\x1b[2J", (0, 0, 0), [False])])
    for words in ([], ["--json"]):
        assert "\x1b" not in run_here("nav", "graph", folder, *words).stdout


def test_no_torch_is_imported(folder):
    code = (
        "import sys; from clipfeat.cli.nav import nav; "
        f"nav(['graph', {str(folder)!r}, '--json'], standalone_mode=False); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
