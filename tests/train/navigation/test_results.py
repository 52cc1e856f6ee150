"""Files of walks: the formats of the field, the checks, and what is submitted."""

import json
from pathlib import Path
from typing import Any

import pytest
from nav_files import path, r2r, rxr, write_graph, write_r2r, write_rxr
from refused import refuses

from clipfeat.base.errors import UsageError
from clipfeat.train.navigation.evaluation import read_split
from clipfeat.train.navigation.results import check_walks, read_results, write_submission

POSES = [[viewpoint, 0.5, 0.0] for viewpoint in path("AABC")]


def write(folder: Path, content: Any, name: str = "results.json") -> Path:
    file = folder / name
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


@pytest.mark.parametrize(
    "trajectory",
    [
        POSES,
        path("AABC"),
        [[viewpoint] for viewpoint in path("AABC")],
        [["house-A"], ["house-A", "house-B"], ["house-C"]],
        [["house-A"], [], path("ABC")],
        [["house-A", None, None], *POSES[1:]],
        [path("AAB"), ["house-C"]],
    ],
    ids=["poses", "ids", "one id each", "lists", "an empty list", "no angles", "three ids"],
)
def test_trajectories_of_the_field(tmp_path: Path, trajectory: Any) -> None:
    results = write(tmp_path, [{"instr_id": "1_0", "trajectory": trajectory}])
    assert read_results(results) == {"1_0": tuple(path("AABC"))}


def test_lines_of_rxr(tmp_path: Path) -> None:
    lines = [{"instruction_id": 7, "path": path("AB")}, {"instr_id": 8, "trajectory": path("A")}]
    results = write(tmp_path, "\n".join(map(json.dumps, lines)) + "\n", "results.jsonl")
    assert read_results(results) == {"7": ("house-A", "house-B"), "8": ("house-A",)}


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        ([], "E-NAV-RESULTS", "holds no walks"),
        ({"1_0": []}, "E-JSON-TYPE", "expected a list of walks"),
        ([{"instr_id": "1_0"}], "E-NAV-RESULTS", "[0]: expected an object with instr_id"),
        ([["1_0", []]], "E-NAV-RESULTS", "[0]: expected an object"),
        ([{"instr_id": "1_0", "trajectory": []}], "E-NAV-RESULTS", "1 to 100,000 viewpoints"),
        ([{"instr_id": "1_0", "trajectory": "A"}], "E-NAV-RESULTS", "must be a list"),
        ([{"instr_id": "1_0", "trajectory": [3]}], "E-NAV-RESULTS", "trajectory[0] must be a"),
        ([{"instr_id": "1_0", "trajectory": [["A", 1]]}], "E-NAV-RESULTS", "trajectory[0]"),
        ([{"instr_id": [1], "trajectory": ["A"]}], "E-JSON-TYPE", "instr_id must be"),
        ([{"instr_id": "1_0", "trajectory": ["A"]}] * 2, "E-DATA-TWICE", "[1]: instr_id '1_0'"),
        ("[{", "E-JSON-READ", "item 0"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: Any, code: str, named: str) -> None:
    results = write(tmp_path, content)
    with refuses(code, str(results), named):
        read_results(results)


@pytest.fixture
def world(tmp_path: Path) -> Any:
    """Return a split of two paths and four instructions, and its scans."""
    write_graph(tmp_path / "graphs", "house")
    write_graph(tmp_path / "graphs", "barn")
    barn = r2r(2, scan="barn", path=path("ED", "barn"), instructions=["Go."])
    write_r2r(tmp_path, "val_seen", [r2r(1), barn])
    return read_split(tmp_path, tmp_path / "graphs", "val_seen")


GOOD = {f"1_{number}": path("AABC") for number in range(3)} | {"2_0": path("EDC", "barn")}


def check(world: Any, walks: dict[str, list[str]], **options: Any) -> Any:
    split, scans = world
    return check_walks(walks, split, scans, path=Path("r.json"), **options)


def test_walks_are_numbers_without_repeats(world: Any) -> None:
    checked = check(world, GOOD)
    assert [each.episode.instruction_id for each in checked] == ["1_0", "1_1", "1_2", "2_0"]
    # The order of the file without X, which is excluded: A B C D E Y.
    assert [each.walk for each in checked] == [(0, 1, 2)] * 3 + [(4, 3, 2)]
    assert [each.reference for each in checked] == [(0, 1, 2, 3)] * 3 + [(4, 3)]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"1_1": path("ABD")}, "1 of 4 walks jump: 1_1 step 2, from house-B to house-D"),
        (
            {"1_1": path("AC"), "1_2": path("ABAE")},
            "2 of 4 walks jump: 1_1 step 1, from house-A to house-C, 1_2 step 3, from house-A",
        ),
        ({"1_0": path("BC")}, "do not begin at their start: 1_0 at house-B, not house-A"),
        ({"2_0": path("E")}, "do not begin at their start: 2_0 at house-E, not barn-E"),
        ({"1_0": path("ABX")}, "a viewpoint that their scan's graph does not have: 1_0 step 2"),
        ({"1_0": path("AX")}, "house-X in scan house"),
    ],
)
def test_walks_that_the_graph_does_not_allow_are_refused(
    world: Any, changes: dict[str, list[str]], named: str
) -> None:
    with refuses("E-NAV-WALK", "r.json", named, "every viewpoint that is passed"):
        check(world, GOOD | changes)


def test_every_id_has_a_walk_unless_a_subset_is_scored(world: Any) -> None:
    some = {name: GOOD[name] for name in ("1_0", "2_0")}
    with refuses("E-NAV-RESULTS-IDS", "2 of 4 ids of split val_seen", "1_1, 1_2", "--subset"):
        check(world, some)
    assert len(check(world, some, subset=True)) == 2
    with refuses("E-NAV-RESULTS-IDS", "1 of 5 ids of the results", "such as 9_0"):
        check(world, {**GOOD, "9_0": path("A")}, subset=True)


def test_a_submission_is_flat_and_has_no_repeats(world: Any, tmp_path: Path) -> None:
    split, scans = world
    write_submission(tmp_path / "out.json", check(world, GOOD), split, scans)
    records = json.loads((tmp_path / "out.json").read_text())
    assert [record["instr_id"] for record in records] == ["1_0", "1_1", "1_2", "2_0"]
    assert records[3]["trajectory"] == [[name, 0, 0] for name in path("EDC", "barn")]
    assert read_results(tmp_path / "out.json")["1_0"] == tuple(path("ABC"))


def test_a_submission_to_rxr_has_lines_with_numbers(tmp_path: Path) -> None:
    write_graph(tmp_path / "graphs", "house")
    data = write_rxr(tmp_path, "val_seen", [rxr(5), rxr(6, instruction="Turn.")])
    world = read_split(data, tmp_path / "graphs", None)
    checked = check(world, {"5": path("AAB"), "6": path("ABE")})
    write_submission(tmp_path / "out.jsonl", checked, *world)
    assert list(map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())) == [
        {"instruction_id": 5, "path": path("AB")},
        {"instruction_id": 6, "path": path("ABE")},
    ]
    data = write_rxr(tmp_path, "val_seen", [rxr(5) | {"instruction_id": "a"}])
    world = read_split(data, tmp_path / "graphs", None)
    with refuses("E-NAV-SUBMISSION", "got 'a'", kind=UsageError):
        write_submission(tmp_path / "no.jsonl", check(world, {"a": path("A")}), *world)
    assert not (tmp_path / "no.jsonl").exists()


def test_what_is_left_out_is_neither_scored_nor_submitted(tmp_path: Path) -> None:
    write_graph(tmp_path / "graphs", "house")
    write_r2r(tmp_path, "val_seen", [r2r(1), r2r(2, scan="attic", instructions=["Go."])])
    world = read_split(tmp_path, tmp_path / "graphs", "val_seen")
    checked = check(world, GOOD)
    assert [each.episode.instruction_id for each in checked] == ["1_0", "1_1", "1_2"]
    with refuses("E-NAV-SUBMISSION", "a scan without a graph, such as 2_0", kind=UsageError):
        write_submission(tmp_path / "no.json", checked, *world)
    with refuses("E-NAV-RESULTS-IDS", "no walk is left"):
        check(world, {"2_0": path("A")}, subset=True)
