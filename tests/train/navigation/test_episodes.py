"""Files of R2R and RxR: what is read, and what is left out with its reason."""

import gzip
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from nav_files import path, r2r, rxr, write_graph, write_r2r, write_rxr
from refused import refuses

from clipfeat.base.errors import UsageError
from clipfeat.train.navigation import episodes
from clipfeat.train.navigation.episodes import Episode, check_episodes, read_episodes
from clipfeat.train.navigation.graphs import read_scans


def test_r2r_has_an_episode_for_each_instruction(tmp_path: Path) -> None:
    write_r2r(tmp_path, "val_seen", [r2r(6539), r2r(12, instructions=["Stop."], heading=-1)])
    split = read_episodes(tmp_path, "val_seen")
    assert (split.dataset, split.name, split.has_goals) == ("r2r", "val_seen", True)
    assert [each.instruction_id for each in split.episodes] == [
        "6539_0",
        "6539_1",
        "6539_2",
        "12_0",
    ]
    assert split.episodes[1] == Episode(
        instruction_id="6539_1",
        path_id="6539",
        scan="house",
        path=tuple(path("ABCD")),
        heading=1.5,
        text="Go to the end, and turn left.",
        language="en",
    )
    assert split.left_out.count == 0


def test_goals_of_a_test_split_are_hidden(tmp_path: Path) -> None:
    record = {key: value for key, value in r2r(1, "A").items() if key != "distance"}
    split = read_episodes(write_r2r(tmp_path, "test", [record]))
    assert not split.has_goals
    assert split.episodes[0].path == ("house-A",)


@pytest.mark.parametrize("packed", [False, True])
def test_rxr_has_a_line_for_each_instruction_and_four_languages(
    tmp_path: Path,
    packed: bool,  # noqa: FBT001
) -> None:
    hindi, telugu = "आप कमरे की ओर देख रहे हैं।", "మీరు తలుపు వైపు చూస్తున్నారు."
    lines = [
        rxr(30),
        rxr(31, language="en-US"),
        rxr(32, language="hi-IN", instruction=hindi),
        rxr(33, language="te-IN", instruction=telugu, heading=2 * math.pi),
    ]
    write_rxr(tmp_path, "val_unseen", lines, packed=packed)
    split = read_episodes(tmp_path, "val_unseen")
    assert split.dataset == "rxr"
    assert [each.instruction_id for each in split.episodes] == ["30", "31", "32", "33"]
    assert [each.path_id for each in split.episodes] == ["10", "10", "10", "11"]
    assert [each.text for each in split.episodes[2:]] == [hindi, telugu]
    assert split.languages == ("en-IN", "en-US", "hi-IN", "te-IN")
    assert len(split.in_language("en").episodes) == 2
    assert split.in_language("te-IN").episodes == split.episodes[3:]
    with refuses("E-NAV-LANGUAGE", "'fr'", "hi-IN", kind=UsageError):
        split.in_language("fr")


def test_lines_of_rxr_test_splits_have_no_path_id(tmp_path: Path) -> None:
    line = {key: value for key, value in rxr(9, "A").items() if key != "path_id"}
    file = tmp_path / "rxr_test_standard_public_guide.jsonl.gz"
    file.write_bytes(gzip.compress(json.dumps(line).encode()))
    split = read_episodes(tmp_path, "test_standard")
    assert (split.episodes[0].path_id, split.has_goals) == ("9", False)


def read(folder: Path, records: list[Any]) -> Any:
    return read_episodes(write_r2r(folder, "own", records))


@pytest.mark.parametrize(
    ("record", "reason", "ids", "named"),
    [
        (r2r(2, heading=90), episodes.NOT_RADIANS, ["2_0", "2_1", "2_2"], "2_0, heading 90"),
        (r2r(2, heading=-7), episodes.NOT_RADIANS, ["2_0", "2_1", "2_2"], "heading -7"),
        (r2r(2, heading=math.nan), episodes.NOT_RADIANS, ["2_0", "2_1", "2_2"], "heading nan"),
        (r2r(1), episodes.TWICE, ["1_0", "1_1", "1_2"], "1_0"),
        (r2r(2, instructions=["Go.", " ... "]), episodes.NO_WORD, ["2_1"], "2_1"),
        (r2r(2, heading="north"), episodes.DAMAGED, ["[1]"], "heading must be a number"),
        (r2r(2, heading=True), episodes.DAMAGED, ["[1]"], "heading must be a number; got True"),
        (r2r(2, heading=10**400), episodes.DAMAGED, ["[1]"], "heading must be a number; got 1000"),
        (r2r(2, path=[]), episodes.DAMAGED, ["[1]"], "path is empty"),
        (r2r(2, path=["a", 3]), episodes.DAMAGED, ["[1]"], "path[1] must be the id"),
        (r2r(2, path="abc"), episodes.DAMAGED, ["[1]"], "path must be of type list"),
        (r2r(2, instructions=[3]), episodes.DAMAGED, ["[1]"], "instructions[0] must be a text"),
        (r2r(2, instructions=["\ud800"]), episodes.DAMAGED, ["[1]"], "half a surrogate pair"),
        (r2r(2, scan=None), episodes.DAMAGED, ["[1]"], "scan must be of type str"),
        ({"path_id": 2}, episodes.DAMAGED, ["[1]"], "no key 'scan'"),
        ([], episodes.DAMAGED, ["[1]"], "expected an object"),
    ],
)
def test_a_bad_episode_costs_itself_alone(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    record: Any,
    reason: str,
    ids: list[str],
    named: str,
) -> None:
    split = read(tmp_path, [r2r(1), record, r2r(3)])
    kept = [each.instruction_id for each in split.episodes if each.path_id in "13"]
    assert kept == ["1_0", "1_1", "1_2", "3_0", "3_1", "3_2"]
    found = [each.removeprefix(f"{split.file}: ") for each in split.left_out.ids[reason]]
    assert (list(split.left_out.ids), found) == ([reason], ids)
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1
    assert f"{len(ids)} episode" in err[0]
    assert reason in err[0]
    assert named in err[0]


def test_a_file_of_degrees_is_refused(tmp_path: Path) -> None:
    with refuses("E-NAV-HEADINGS", "6 of 9", "1_0, heading 90", "pi / 180"):
        read(tmp_path, [r2r(1, heading=90), r2r(2, heading=359), r2r(3, heading=3)])


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        ("[]", "E-DATA-EMPTY", "the file is empty"),
        ('[{"scan": 3}]', "E-DATA-EMPTY", "1 episode left out: a damaged record"),
        ('[{"path_id": 1', "E-JSON-READ", "item 0"),
        ('{"a": 1}', "E-JSON-TYPE", "expected a list of paths"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: str, code: str, named: str) -> None:
    file = tmp_path / "own.json"
    file.write_text(content)
    with refuses(code, str(file), named):
        read_episodes(file)


def test_missing_and_ambiguous_files_are_named(tmp_path: Path) -> None:
    with refuses("E-DATA-FILE", "R2R_val.json", "rxr_val_guide.jsonl.gz", kind=UsageError):
        read_episodes(tmp_path, "val")
    with refuses("E-DATA-FOLDER", kind=UsageError):
        read_episodes(tmp_path / "nowhere", "val")
    with refuses("E-OPTION-MISSING", "val_unseen", kind=UsageError):
        read_episodes(tmp_path)
    write_r2r(tmp_path, "val", [r2r(1)])
    for name in ("", "../val", "v" * 300, "val\0"):  # a file's own path takes any name, too
        for source in (tmp_path, tmp_path / "R2R_val.json"):
            with refuses("E-NAV-SPLIT", "does not name a split", kind=UsageError):
                read_episodes(source, name)
    write_rxr(tmp_path, "val", [rxr(1)])
    with refuses("E-DATA-FILE", "R2R_val.json and rxr_val_guide.jsonl", kind=UsageError):
        read_episodes(tmp_path, "val")


@pytest.mark.parametrize(
    ("published", "remarks"),
    [(3, 0), (5, 1), (6, 0), (2, 1), (1, 0)],
    ids=["whole", "more than half", "half: own data", "longer", "much longer: own data"],
)
def test_a_file_that_may_be_cut_off_is_remarked_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    published: int,
    remarks: int,
) -> None:
    monkeypatch.setitem(episodes.PUBLISHED, ("r2r", "train"), published)
    write_r2r(tmp_path, "train", [r2r(1)])
    read_episodes(tmp_path, "train")
    said = f"3 instructions; the published file has {published}\n"
    assert capsys.readouterr().err.count(said) == remarks


def test_a_file_is_compared_with_that_of_its_own_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(episodes.PUBLISHED, ("r2r", "train"), 2)
    monkeypatch.setitem(episodes.PUBLISHED, ("rxr", "train"), 4)
    write_rxr(tmp_path, "train", [rxr(1), rxr(2), rxr(3)])
    read_episodes(tmp_path, "train")
    said = [line for line in capsys.readouterr().err.splitlines() if "published" in line]
    assert len(said) == 1
    assert said[0].endswith("3 instructions; the published file has 4")


def checked(folder: Path, records: list[Any], featureless: Mapping[str, str] | None = None) -> Any:
    for scan in ("house", "shed"):
        write_graph(folder / "graphs", scan)
    split = read_episodes(write_r2r(folder, "own", records))
    return check_episodes(split, read_scans(folder / "graphs"), featureless)


@pytest.mark.parametrize(
    ("record", "reason", "named"),
    [
        (r2r(2, scan="attic"), episodes.NO_GRAPH, "2_0: scan 'attic'"),
        (r2r(2, "ABX"), episodes.NOT_IN_GRAPH, "2_0: 'house-X' of scan house"),
        (r2r(2, "ABDE"), episodes.NO_EDGE, "2_0: house-B to house-D in scan house"),
        (r2r(2, "AY"), episodes.UNREACHABLE, "2_0: house-Y from house-A"),
        (r2r(2, path=path("AB", "shed"), scan="shed"), episodes.NO_FEATURES, "2_0: shed_shed-E"),
    ],
)
def test_an_episode_that_does_not_fit_its_scan_costs_itself_alone(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    record: Any,
    reason: str,
    named: str,
) -> None:
    split = checked(tmp_path, [r2r(1), record], {"shed": "shed_shed-E"})
    assert [each.instruction_id for each in split.episodes] == ["1_0", "1_1", "1_2"]
    assert split.left_out.ids == {reason: ["2_0", "2_1", "2_2"]}
    err = capsys.readouterr().err
    assert f"3 episodes left out: {reason}, such as {named}" in err


def test_reasons_of_reading_and_of_checking_are_kept(tmp_path: Path) -> None:
    split = checked(tmp_path, [r2r(1), r2r(2, scan="attic"), r2r(3, heading=7)])
    assert {reason: len(ids) for reason, ids in split.left_out.ids.items()} == {
        episodes.NOT_RADIANS: 3,
        episodes.NO_GRAPH: 3,
    }
    assert split.left_out.count == 6
    with refuses("E-DATA-EMPTY", "3 episodes left out: a scan without a graph"):
        checked(tmp_path, [r2r(2, scan="attic")])


def test_augmentation_has_only_start_and_goal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A to D is 9 m by way of B, and a path of neighbours is that path."""
    write_graph(tmp_path / "graphs", "house")
    file = tmp_path / "aug_paths.json"
    file.write_text(json.dumps([r2r(1, "AC"), r2r(2, "ED", instructions=[]), r2r(3, "EA")]))
    split = read_episodes(file, paths_only=True)
    assert [(each.instruction_id, each.text) for each in split.episodes] == [
        ("1", ""),
        ("2", ""),
        ("3", ""),
    ]
    split = check_episodes(split, read_scans(tmp_path / "graphs"))
    assert [each.path for each in split.episodes] == [
        tuple(path(names)) for names in ("ABC", "ED", "EBA")
    ]
    assert "2 paths of a start and a goal only" in capsys.readouterr().err
