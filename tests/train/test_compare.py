"""`clipfeat compare` on run folders made by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refused import refuses

from clipfeat.base.errors import UsageError
from clipfeat.train.compare import compare, format_table, to_json

SETTINGS = {"lr": 0.01, "blind": False, "model": {"name": "updn", "hidden": 32}}


def make_run(folder: Path, given: Any, /, **changes: Any) -> Path:
    """Write a run's settings and its scores of three questions about each image."""
    ids = list(range(len(given)))
    card = {
        "task": "vqa",
        "settings": SETTINGS,
        "store_digest": "a" * 64,
        "features": {},
        "data_files": {},
    }
    record = {"split": "val", "ids": ids, "images": [i // 3 for i in ids], "scores": list(given)}
    folder.mkdir(parents=True)
    for known in (card, record):
        known.update({key: value for key, value in changes.items() if key in known})
    card |= {"store": "s", "data": "d"}
    (folder / "settings.json").write_text(json.dumps(card))
    (folder / "scores.json").write_text(json.dumps(record))
    return folder


def test_a_sure_difference_and_one_that_is_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = rng.choice([0.0, 100.0], 600)
    seeing = make_run(tmp_path / "a", base)
    better = make_run(tmp_path / "b", np.where(rng.random(600) < 0.2, 100, base))
    blind = {**SETTINGS, "blind": True, "model": {"name": "mcan", "heads": 8}}
    same = make_run(tmp_path / "c", rng.permuted(base), settings=blind)
    one, two, three = compare([seeing, better, same])
    assert (one.difference, one.interval, one.is_sure) == (None, None, False)
    assert one.score == pytest.approx(base.mean())
    assert two.difference == pytest.approx(two.score - one.score)
    assert two.is_sure
    assert not three.is_sure
    assert one.settings == {"blind": False, "model.name": "updn", "model.hidden": 32}
    assert three.settings == {"blind": True, "model.name": "mcan", "model.heads": 8}

    lines = format_table((one, two, three)).splitlines()
    assert lines[0].split("  ")[-1] == "settings that differ"
    assert [("*" in line) for line in lines[1:4]] == [False, True, False]
    assert lines[3].endswith("blind=True, model.name=mcan, model.heads=8")
    found = json.loads(json.dumps(to_json((one, two, three))))
    assert [run["excludes_0"] for run in found] == [False, True, False]
    assert found[0].keys() == {
        *("run", "settings", "score", "difference", "interval", "excludes_0")
    }


def test_the_order_of_examples_does_not_matter(tmp_path: Path) -> None:
    scores = [0.0, 100, 30, 60, 0, 0]
    one = make_run(tmp_path / "a", scores)
    turned = make_run(
        tmp_path / "b", scores[::-1], ids=[5, 4, 3, 2, 1, 0], images=[1, 1, 1, 0, 0, 0]
    )
    assert compare([one, turned])[1].interval == (0, 0)


def test_stores_may_name_an_image_differently(tmp_path: Path) -> None:
    scores = [0.0, 100, 30, 60, 0, 0]
    one = make_run(tmp_path / "a", scores)
    other = make_run(tmp_path / "b", scores, images=["COCO_0"] * 3 + ["COCO_1"] * 3)
    assert compare([one, other])[1].interval == (0, 0)
    for images in ([0, 0, 0, 0, 1, 1], ["x"] * 6):
        with refuses("E-COMPARE-EXAMPLES", "such as"):
            compare([one, make_run(tmp_path / str(images[0]), scores, images=images)])


def test_other_features_and_data_are_named(tmp_path: Path) -> None:
    one = make_run(tmp_path / "a", [1.0, 2], data_files={"q.json": "c" * 64})
    two = make_run(tmp_path / "b", [1.0, 2], store_digest="b" * 64, data_files={"q.json": "d" * 64})
    assert compare([one, two])[1].settings == {"store": "b" * 12, "q.json": "d" * 12}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"task": "caption"}, "task, 'vqa' and 'caption'"),
        ({"split": "test"}, "split, 'val' and 'test'"),
        ({"ids": [0, 1, 7]}, "such as 2"),
        ({"images": [0, 0, 9]}, "such as 2"),
        ({"ids": [0], "images": [0], "scores": [1.0]}, "number of examples, 3 and 1"),
    ],
)
def test_runs_on_other_examples_are_refused(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    one = make_run(tmp_path / "a", [1.0, 2, 3])
    other = make_run(tmp_path / "b", [1.0, 2, 3], **changes)
    with refuses("E-COMPARE-EXAMPLES", f"{one} and {other}", named, kind=UsageError):
        compare([one, other])


@pytest.mark.parametrize(
    "changes",
    [
        {"ids": [1, 1, 2]},
        {"images": [0]},
        {"scores": [1.0, None, 2]},
        {"scores": [1.0, float("nan"), 2]},
        {"scores": [1.0, 10**400, 2]},
        {"scores": [1.0, 1e308, 2]},
        {"ids": [], "images": [], "scores": []},
        {"ids": [[1], 2, 3]},
    ],
)
def test_a_broken_file_of_scores_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    one = make_run(tmp_path / "a", [1.0, 2, 3], **changes)
    with refuses("E-COMPARE-SCORES", "a/scores.json: "):
        compare([one, make_run(tmp_path / "b", [1.0, 2, 3])])


def test_digests_that_are_not_texts_are_named(tmp_path: Path) -> None:
    one = make_run(tmp_path / "a", [1.0, 2, 3], data_files={"q.json": 1})
    with refuses("E-RUN-DIGESTS", "a/settings.json: data_files"):
        compare([one, make_run(tmp_path / "b", [1.0, 2, 3])])


def test_one_run_or_an_unfinished_one_is_refused(tmp_path: Path) -> None:
    one, two = (make_run(tmp_path / name, [1.0, 2, 3]) for name in "ab")
    for runs in ([], [one], [one, one], [one, two, tmp_path / "b" / ".." / "a"]):
        named = ", ".join(map(str, runs)) or "none"
        with refuses("E-COMPARE-RUNS", named, kind=UsageError):
            compare(runs)
    (two / "scores.json").unlink()
    with refuses("E-COMPARE-SCORES", str(two), "scores.json", kind=UsageError):
        compare([one, two])
