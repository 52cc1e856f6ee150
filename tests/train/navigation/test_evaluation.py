"""Scores of a split, walkers by chance, and `clipfeat eval nav` as typed."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from nav_files import path, r2r, rxr, write_graph, write_r2r, write_rxr

from clipfeat.train.navigation.evaluation import evaluate_walks, read_split
from clipfeat.train.navigation.maps import draw_map
from clipfeat.train.navigation.results import check_walks
from clipfeat.train.navigation.walkers import never_turn_back, stay, wander

Typed = Callable[..., tuple[int, str, str]]

WALKS = {"1_0": "ABCD", "1_1": "ABED", "1_2": "ABC", "2_0": "ABE"}


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Return a folder with two scans, a split of two paths, and a file of results."""
    write_graph(tmp_path / "graphs", "house")
    write_graph(tmp_path / "graphs", "barn")
    barn = r2r(2, scan="barn", path=path("ABE", "barn"), instructions=["Go <b>there</b>."])
    write_r2r(tmp_path, "val_seen", [r2r(1), barn])
    records = [
        {"instr_id": name, "trajectory": path(walk, "barn" if name == "2_0" else "house")}
        for name, walk in WALKS.items()
    ]
    (tmp_path / "results.json").write_text(json.dumps(records))
    return tmp_path


def arguments(world: Path, *more: object) -> list[object]:
    return [
        "eval", "nav", "--results", world / "results.json", "--data", world,
        "--graphs", world / "graphs", *more,
    ]  # fmt: skip


def test_scores_of_a_split(typed: Typed, world: Path) -> None:
    code, out, err = typed(*arguments(world, "--split", "val_seen", "--json"))
    assert (code, err) == (0, "")
    result = json.loads(out)
    # The worked cases of test_walk_scores.py, and a perfect walk of 6 m.
    assert (result["n"], result["paths"], result["left_out"]) == (4, 2, {})
    assert (result["sr"], result["osr"], result["spl"]) == (75, 75, 75)
    assert (result["ne"], result["tl"]) == (1, (9 + 9 + 5 + 6) / 4)
    assert result["ndtw"] == round(25 * (1 + 0.606531 + 0.716531 + 1), 2)
    assert result["sdtw"] == round(25 * (1 + 0.606531 + 1), 2)
    house, barn = result["by_scan"]["house"], result["by_scan"]["barn"]
    assert (house["n"], house["sr"], barn["n"], barn["sr"]) == (3, 66.67, 1, 100)
    assert {name: means["n"] for name, means in result["by_length"].items()} == {"5 to 10 m": 4}
    assert list(result["by_language"]) == ["en"]
    # Two paths are drawn with all of their instructions: both, or one of them twice.
    assert result["interval"]["sr"] == [66.67, 100]
    assert result["chance"]["stay"]["ne"] == (9 * 3 + 6) / 4
    assert result["chance"]["stay"]["sr"] == 0
    # From A a walker goes to B. In the house, one that does not turn back is at D after three steps; at
    # random it goes on to C or E by 2/3, and from there to D by 1/2. In the barn it is at E after two
    # steps by 1/2, at random by 1/3. Of 1,000 walks, the deviation of the mean is at most 1.5.
    assert result["chance"]["never turns back"]["sr"] == pytest.approx(87.5, abs=6)
    assert result["chance"]["random"]["sr"] == pytest.approx(100 / 3, abs=6)


def test_scores_for_people(typed: Typed, world: Path) -> None:
    code, out, _ = typed(*arguments(world, "--split", "val_seen"))
    assert code == 0
    assert "results.json: 4 walks, all on edges of their graphs\n" in out
    assert " 75.00  SR, success" in out
    assert "(66.67 to 100.00)" in out
    assert "chance: never turns back" in out


def test_lengths_and_languages_are_groups(tmp_path: Path) -> None:
    write_graph(tmp_path / "graphs", "house")
    lines = [rxr(3), rxr(4, "AB", language="te-IN"), rxr(5, "ABEDCB" * 2 + "A", language="hi-IN")]
    split, scans = read_split(write_rxr(tmp_path, "own", lines), tmp_path / "graphs", None)
    walks = {each.instruction_id: each.path for each in split.episodes}
    result = evaluate_walks(check_walks(walks, split, scans, path=tmp_path), scans)
    # 9 m; 2 m; ABEDCB is 2 + 4 + 3 + 4 + 3, then BA 2, and the same again: 36 m.
    assert list(result["by_length"]) == ["0 to 5 m", "5 to 10 m", "30 m and more"]
    assert list(result["by_language"]) == ["en-IN", "hi-IN", "te-IN"]
    assert result["by_language"]["hi-IN"]["tl"] == 36
    assert result["ndtw"] == 100


def test_a_subset_and_what_is_missing(typed: Typed, world: Path) -> None:
    records = json.loads((world / "results.json").read_text())
    (world / "results.json").write_text(json.dumps(records[:3]))
    code, _, err = typed(*arguments(world, "--split", "val_seen"))
    assert (code, err.count("\n")) == (1, 1)
    assert "1 of 4 ids of split val_seen have no walk, such as 2_0" in err
    code, out, _ = typed(*arguments(world, "--split", "val_seen", "--subset", "--json"))
    assert (code, json.loads(out)["n"]) == (0, 3)
    code, _, err = typed(*arguments(world, "--split", "val_seen", "--subset", "--submission", "o"))
    assert (code, "E-OPTION-EXCLUDES" in err) == (2, True)


def test_a_jump_is_one_line(typed: Typed, world: Path) -> None:
    records = [{"instr_id": "1_0", "trajectory": path("AD")}]
    (world / "results.json").write_text(json.dumps(records))
    submission = world / "out.json"
    more = ("--split", "val_seen", "--subset", "--page", world / "page.html")
    code, out, err = typed(*arguments(world, *more))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "1 of 1 walks jump: 1_0 step 1, from house-A to house-D" in err
    assert not (world / "page.html").exists()
    assert not submission.exists()


def test_a_test_split_is_checked_and_not_scored(typed: Typed, world: Path) -> None:
    (world / "test").mkdir()
    write_r2r(world / "test", "test", [r2r(1, "A"), r2r(2, "A", instructions=["Go."])])
    records = [{"instr_id": name, "trajectory": path(walk)} for name, walk in WALKS.items()]
    (world / "results.json").write_text(json.dumps(records))
    submission = world / "submit.json"
    more = ("--data", world / "test", "--split", "test", "--submission", submission)
    code, out, _ = typed(*arguments(world, *more))
    assert code == 0
    assert "goals of" in out
    assert "SR" not in out
    assert [record["instr_id"] for record in json.loads(submission.read_text())] == list(WALKS)
    code, out, _ = typed(*arguments(world, *more[:4], "--json"))
    assert json.loads(out) == {"split": "test", "n": 4, "left_out": {}}
    code, _, err = typed(*arguments(world, *more[:4], "--page", world / "page.html"))
    assert (code, "E-NAV-PAGE" in err) == (2, True)


@pytest.mark.parametrize(
    ("more", "code", "named"),
    [
        (("--graphs", "nowhere"), "E-NAV-SCAN", "nowhere"),
        (("--split", "train"), "E-DATA-FILE", "R2R_train.json"),
        (("--results", "none.json"), "E-JSON-READ", "none.json"),
        (("--submission", "no/folder.json"), "E-PATH-FOLDER", "--submission"),
        (("--images", "."), "E-OPTION-MISSING", "--page"),
        (("--page", "o", "--submission", "o"), "E-PATH-TWICE", "--submission and --page"),
    ],
)
def test_mistakes_are_one_line(
    typed: Typed, world: Path, more: tuple[str, str], code: str, named: str
) -> None:
    status, out, err = typed(*arguments(world, "--split", "val_seen", *more))
    assert (status != 0, out, err.count("\n")) == (True, "", 1)
    assert code in err
    assert named in err


def test_a_page_of_episodes(typed: Typed, world: Path) -> None:
    page = world / "page.html"
    code, out, _ = typed(*arguments(world, "--split", "val_seen", "--page", page))
    assert (code, f"written: {page}" in out) == (0, True)
    text = page.read_text()
    assert text.count("<article>") == text.count("data:image/png;base64,") == 4
    assert "Go &lt;b&gt;there&lt;/b&gt;." in text
    assert text.index("1_0, scan house") < text.index("1_2, scan house") < text.index("1_1, scan")


def test_a_map_of_a_walk_that_stays(world: Path) -> None:
    _, scans = read_split(world, world / "graphs", "val_seen")
    assert draw_map(scans["house"], [0], [0]).startswith(b"\x89PNG")


def test_walkers_take_edges_and_as_many_steps_as_they_are_told(world: Path) -> None:
    _, scans = read_split(world, world / "graphs", "val_seen")
    scan, rng = scans["house"], np.random.default_rng(0)
    assert stay(scan, 2, 5, rng) == [2]
    for walker in (wander, never_turn_back):
        for _ in range(50):
            walk = walker(scan, 0, 6, rng)
            assert (len(walk), walk[0]) == (7, 0)
            assert all(b in scan.neighbours[a] for a, b in pairwise(walk))
            if walker is never_turn_back:  # A is the only dead end
                turned = [b for a, b, c in zip(walk, walk[1:], walk[2:], strict=False) if a == c]
                assert set(turned) <= {0}
    same = [wander(scan, 0, 20, np.random.default_rng(7)) for _ in range(2)]
    assert same[0] == same[1]
    assert wander(scan, 0, 20, np.random.default_rng(8)) != same[0]
