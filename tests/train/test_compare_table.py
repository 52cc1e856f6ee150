"""`clipfeat compare --table` on run folders made by hand, with scores worked out on paper."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refused import refuses

from clipfeat.base.errors import UsageError
from clipfeat.train.compare import compare
from clipfeat.train.compare_table import drawn_seeds, make_table, to_json
from clipfeat.train.table_text import format_table

RN50 = {"library": "open_clip", "model": "RN50", "pretrained": "openai"}
RN50X4 = RN50 | {"model": "RN50x4"}
SQUARE = {"name": "square:448", "steps": [1]}


def make_run(
    folder: Path,
    given: Any,
    *,
    backbone: dict[str, Any] = RN50,
    recipe: dict[str, Any] = SQUARE,
    task: str = "vqa",
    store: str = "",
    files: dict[str, str] | None = None,
    **settings: Any,
) -> Path:
    """Write a run's settings and its scores of two examples about each image."""
    settings = {
        "dataset": f"{task}2",
        "seed": 0,
        "blind": False,
        "model": {"name": "mcan"},
    } | settings
    card = {
        "task": task,
        "settings": settings,
        "store_digest": store or backbone["model"].rjust(64, "0"),
        "features": {"backbone": backbone, "recipe": recipe, "dim": 8},
        "data_files": files or {},
        "store": "s",
        "data": "d",
    }
    ids = list(range(len(given)))
    record = {"split": "val", "ids": ids, "images": [i // 2 for i in ids], "scores": list(given)}
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps(card))
    (folder / "scores.json").write_text(json.dumps(record))
    return folder


def test_cells_are_means_over_seeds_with_differences_and_intervals(tmp_path: Path) -> None:
    """Every image has the same score: images decide nothing, and the seeds all of the interval.

    One of two seeds is drawn for each side: the difference is 18, 20, 28 or 30, each in a quarter
    of the resamples, so that 2.5% and 97.5% lie at the ends.
    """
    runs = [
        make_run(tmp_path / "a0", [40.0] * 6),
        make_run(tmp_path / "a1", [42.0] * 6, seed=1),
        make_run(tmp_path / "b0", [60.0] * 6, backbone=RN50X4),
        make_run(tmp_path / "b1", [70.0] * 6, backbone=RN50X4, seed=1),
    ]
    table = make_table(runs)
    assert (table.encoders, table.baseline) == (("RN50", "RN50x4"), "RN50")
    (task,) = table.tasks
    assert task == ("vqa", "vqa2", "mcan", "val")
    first, second = (table.cells[name, task] for name in table.encoders)
    assert (first.score, first.scores, first.difference, first.interval) == (
        41,
        (40, 42),
        None,
        None,
    )
    assert (second.score, second.scores, second.difference) == (65, (60, 70), 24)
    assert second.interval == pytest.approx((18, 30))
    assert (second.over, second.is_sure) == (("images", "seeds"), True)
    assert second.runs == {0: runs[2], 1: runs[3]}
    back = make_table(runs, "RN50x4").cells["RN50", task]
    assert (back.difference, back.interval) == (-24, pytest.approx((-30, -18)))


def test_with_one_seed_the_interval_is_that_of_compare(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    one, two = rng.choice([0.0, 100], (2, 80))
    runs = [make_run(tmp_path / "a", one), make_run(tmp_path / "b", two, backbone=RN50X4)]
    table, pair = make_table(runs), compare(runs)[1]
    cell = table.cells["RN50x4", table.tasks[0]]
    assert cell.interval == pytest.approx(pair.interval)
    assert (cell.difference, cell.over) == (pytest.approx(pair.difference), ("images",))


def test_the_variance_over_seeds_is_that_of_their_mean() -> None:
    """Of n scores, the mean's variance is s^2 / n, with n - 1 in the denominator of s^2."""
    scores = np.array([50.0, 53, 59])
    means = drawn_seeds(np.tile(scores, (200_000, 1)), np.random.default_rng(0))
    assert means.var() == pytest.approx(scores.var(ddof=1) / 3, rel=0.01)
    assert means.mean() == pytest.approx(54, abs=0.02)


def test_rows_are_encoders_and_blind_runs_and_columns_are_tasks(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "seeing", [50.0, 50]),
        make_run(tmp_path / "blind", [40.0, 40], blind=True),
        make_run(tmp_path / "ve", [70.0, 70], task="ve", recipe=SQUARE | {"name": "vqa600"}),
        make_run(tmp_path / "pythia", [45.0, 45], model={"name": "pythia"}),
        make_run(tmp_path / "xe", [90.0, 90], task="caption"),
        make_run(tmp_path / "scst", [99.0, 99], task="caption", scst={"lr": 5e-6}),
    ]
    table = make_table(runs)
    assert table.encoders == ("RN50", "blind")
    assert [(task.dataset, task.model) for task in table.tasks] == [
        *(("vqa2", "mcan"), ("ve2", "mcan"), ("vqa2", "pythia")),
        *(("caption2", "mcan"), ("caption2", "mcan, scst")),
    ]
    assert table.cells["blind", table.tasks[0]].difference == -10
    assert ("blind", table.tasks[1]) not in table.cells


def test_names_tell_encoders_of_one_model_apart(tmp_path: Path) -> None:
    none = RN50 | {"pretrained": "none", "seed": 0}
    other = none | {"seed": 1}
    runs = [
        make_run(tmp_path / f"{n}", [1.0], backbone=backbone)
        for n, backbone in enumerate((RN50, none, other))
    ]
    imported = {"model": "imported", "format": "vinvl-tsv", "sha256": "c" * 64}
    runs = [make_run(tmp_path / "vinvl", [1.0], backbone=imported), *runs]
    names = (
        "vinvl-tsv",
        "RN50 pretrained=openai",
        "RN50 pretrained=none seed=0",
        "RN50 pretrained=none seed=1",
    )
    assert make_table(runs).encoders == names
    # Recipes make rows only where one task has a backbone in several.
    wide = SQUARE | {"name": "vqa600", "steps": [2]}
    runs = [
        make_run(tmp_path / "a", [1.0]),
        make_run(tmp_path / "b", [1.0], recipe=wide, store="b" * 64),
        make_run(tmp_path / "c", [1.0], recipe=wide, store="c" * 64, task="ve"),
    ]
    assert make_table(runs).encoders == ("RN50 name=square:448", "RN50 name=vqa600")
    blind = make_run(tmp_path / "d", [1.0], recipe=wide, blind=True)
    also = make_run(tmp_path / "e", [1.0], blind=True)
    assert make_table([*runs, blind, also]).encoders[2:] == (
        "blind, RN50 name=vqa600",
        "blind, RN50 name=square:448",
    )


def test_runs_of_a_cell_differ_in_the_seed_alone(tmp_path: Path) -> None:
    one = make_run(tmp_path / "a", [1.0], lr=1e-3)
    other = make_run(tmp_path / "b", [1.0], lr=2e-3, seed=1)
    with refuses("E-COMPARE-CELL", str(one), str(other), "RN50", "differ in lr;", kind=UsageError):
        make_table([one, other])
    again = make_run(tmp_path / "c", [1.0], lr=1e-3)
    with refuses("E-COMPARE-CELL", "have the seeds [0, 0]", kind=UsageError):
        make_table([one, again])
    # A second seed of a fine-tuning or of a second stage starts from a run of its own.
    starts = [
        make_run(
            tmp_path / f"start{n}",
            [1.0],
            seed=n,
            init=f"pre{n}",
            files={"best.safetensors": f"{n}"},
        )
        for n in range(2)
    ]
    assert len(make_table(starts).cells) == 1


def test_other_settings_of_a_column_are_named(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", [1.0], lr=1e-3),
        make_run(tmp_path / "b", [1.0], lr=2e-3, seed=3, backbone=RN50X4),
    ]
    table = make_table(runs)
    assert table.differing == {table.tasks[0]: ("lr",)}
    assert "vqa2 val mcan: the encoders' runs also differ in lr." in format_table(table)


def test_other_examples_and_an_unknown_baseline_are_refused(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", [1.0, 2]),
        make_run(tmp_path / "b", [1.0, 2], backbone=RN50X4),
        make_run(tmp_path / "c", [1.0, 2, 3], backbone=RN50 | {"model": "ViT-B-32"}),
    ]
    with refuses("E-COMPARE-EXAMPLES", str(runs[2]), kind=UsageError):
        make_table(runs)
    with refuses("E-COMPARE-BASELINE", "RN50, RN50x4", "got RN101", kind=UsageError):
        make_table(runs[:2], "RN101")


@pytest.fixture
def odd_runs(tmp_path: Path) -> list[Path]:
    """An encoder whose name has letters that Markdown and LaTeX would act on; a column each."""
    odd = RN50 | {"model": "vit_b|32 {100%}\x1b"}
    return [
        make_run(tmp_path / "a", [50.0, 50, 60, 60]),
        make_run(tmp_path / "b", [40.0, 40, 50, 50], backbone=odd),
        make_run(tmp_path / "c", [10.0, 30], task="ve"),
    ]


def test_text(odd_runs: list[Path]) -> None:
    assert format_table(make_table(odd_runs)).splitlines() == [
        "                     vqa2 val                       ve2 val",
        "                     mcan                           mcan",
        "",
        "RN50                 55.00                          20.00",
        "",
        r"vit_b|32 {100%}\x1b  45.00 *                        -",
        "                     -10.00 (-10.00 to -10.00) [1]",
        "",
        "Percent, or 100 x CIDEr-D of captions: the mean over seeds. Under it the difference to RN50, "
        "with its 95% bootstrap interval (2,000 resamples) over images and seeds.",
        "[1] over images alone: one of the two has one seed.",
        "* the interval excludes 0.",
    ]


def test_markdown(odd_runs: list[Path]) -> None:
    lines = format_table(make_table(odd_runs), "markdown").splitlines()
    assert lines[:4] == [
        "|  | vqa2 val<br>mcan | ve2 val<br>mcan |",
        "| --- | --- | --- |",
        "| RN50 | 55.00 | 20.00 |",
        r"| vit\_b\|32 {100%}\\x1b | 45.00 \*<br>-10.00 (-10.00 to -10.00) \[1\] | - |",
    ]


def test_latex(odd_runs: list[Path]) -> None:
    text = format_table(make_table(odd_runs), "latex")
    assert text.startswith(
        "\\begin{tabular}{lll}\n\\hline\n"
        " & \\shortstack[l]{vqa2 val \\\\ mcan} & \\shortstack[l]{ve2 val \\\\ mcan} \\\\ \\hline\n"
        "RN50 & 55.00 & 20.00 \\\\ \\hline\n"
        "vit\\_b|32 \\{100\\%\\}\\textbackslash{}x1b & "
        "\\shortstack[l]{45.00 * \\\\ $-$10.00 ($-$10.00 to $-$10.00) [1]} & - \\\\ \\hline\n"
        "\\end{tabular}\n"
    )
    # What LaTeX stops at: braces and environments that do not match, bare special letters, and a
    # bracket or a star after \\, which would be its argument.
    bare = re.sub(r"\\[&%$#_{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert not re.findall(r"[%#_^~]", bare.replace("^", ""))
    assert not re.findall(r"\\\\\s*[\[*]", text)
    rows = [line for line in text.splitlines() if line.endswith(r"\hline") and "&" in line]
    assert {re.sub(r"\\&", "", row).count("&") for row in rows} == {2}


def test_json_and_the_command(
    odd_runs: list[Path], typed: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = typed("compare", *odd_runs, "--table", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found == json.loads(json.dumps(to_json(make_table(odd_runs))))
    assert found["tasks"][1] == {
        **{"task": "ve", "dataset": "ve2", "model": "mcan", "split": "val"},
        "also_differ_in": [],
    }
    assert found["cells"][1] == {
        "encoder": r"vit_b|32 {100%}\x1b",
        "task": 0,
        "score": 45,
        "seeds": [{"seed": 0, "run": str(odd_runs[1]), "score": 45}],
        **{"difference": -10, "interval": [-10, -10], "interval_over": ["images"]},
        "excludes_0": True,
    }
    code, out, err = typed("compare", *odd_runs, "--table", "markdown", "--baseline", "RN50")
    assert (code, err) == (0, "")
    assert out.startswith("|  | vqa2 val<br>")
    code, out, err = typed("compare", *odd_runs[:2], "--baseline", "RN50")
    assert (code, out) == (2, "")
    assert err.endswith("[E-OPTION-MISSING]\n")
