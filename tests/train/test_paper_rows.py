"""The rows of the paper: the page, the command lines as the command line knows them, the runner.

That every command runs end to end is for `make paper-dry`.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import click
import pytest

from benchmarks.paper import rehearsal
from benchmarks.paper.__main__ import main
from benchmarks.paper.files import FILES
from benchmarks.paper.page import PAGE, page
from benchmarks.paper.rows import Row, Step, rows
from benchmarks.paper.run import Runner
from clipfeat.cli.main import clipfeat
from clipfeat.train.settings import find_config, load_settings
from clipfeat.train.tasks import settings as tasks
from clipfeat.train.tasks.navigation.settings import NAV_PRESETS, NavigationSettings

ROWS = rows()
LINES = sorted({step.command for row in ROWS for step in row.steps})
TASKS = {
    "vqa": (tasks.VqaSettings, tasks.VQA_PRESETS),
    "ve": (tasks.VeSettings, tasks.VE_PRESETS),
    "caption": (tasks.CaptionSettings, tasks.CAPTION_PRESETS),
    "pretrain": (tasks.PretrainSettings, tasks.PRETRAIN_PRESETS),
    "nav": (NavigationSettings, NAV_PRESETS),
}


def test_the_page_is_that_of_the_rows() -> None:
    assert PAGE.read_text() == page(), "python -m benchmarks.paper --page"


def test_every_encoder_is_in_every_table() -> None:
    names = {row.name for row in ROWS}
    assert len(names) == len(ROWS)
    for encoder in ("rn50", "rn101", "rn50x4", "vit-b32", "imagenet-rn50", "vit-21k", "bottom-up"):
        for table in ("vqa-pythia", "vqa-mcan", "caption-xe", "caption-scst"):
            assert f"{table}-{encoder}" in names
    for encoder in ("rn50", "rn50x4"):
        assert {f"{task}-pretrained-{encoder}" for task in ("vqa", "gqa", "ve")} <= names
    for encoder in ("rn50", "rn101", "rn50x4", "vit-b32", "imagenet-rn50"):
        assert {f"navigation-r2r-{encoder}", f"navigation-rxr-{encoder}"} <= names


def parsed(line: str) -> dict[str, object]:
    """Return what a command line says, without looking at files; fails for an unknown option."""
    command: click.Command = clipfeat
    words = shlex.split(line)[1:]
    while isinstance(command, click.Group) and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    if isinstance(command, click.Group):  # `manifest` with its sources
        from clipfeat.cli.manifest import make as command
    context = click.Context(command)
    given, left, _ = command.make_parser(context).parse_args(words)
    assert not left
    return given


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("clipfeat ")])
def test_options_presets_and_settings_exist(line: str) -> None:
    given = parsed(line)
    words = shlex.split(line)
    if words[1] == "train":
        kind, presets = TASKS[words[2]]
        small = rehearsal.rewrite(words, Path("small"))
        settings = [word.removeprefix("--set=") for word in small[len(words) :]]
        assignments = given.get("assignments")
        settings += assignments if isinstance(assignments, list) else []
        load_settings(kind, config=find_config(words[3], presets), assignments=settings)


def test_files_of_the_command_lines_are_listed() -> None:
    places = [place for file in FILES for place in file.place.split(", ")]
    for line in LINES:
        for word in shlex.split(line):
            if "DATA/" in word:
                place = word.partition("DATA/")[2] + "/"
                assert any(place.startswith(known) or known.startswith(place) for known in places)


def test_a_rehearsal_changes_models_recipes_and_sizes_alone(tmp_path: Path) -> None:
    def rewritten(line: str) -> str:
        return shlex.join(rehearsal.rewrite(shlex.split(line), tmp_path))

    line = "clipfeat extract --images a --model RN50x4 --pretrained openai --recipe vqa600 --out b"
    assert rewritten(line) == (
        f"clipfeat extract --images a --model-config {tmp_path}/RN50x4.json --pretrained none "
        f"--recipe {tmp_path}/vqa600.toml --out b"
    )
    line = "clipfeat extract --images a --model timm/resnet50.tv_in1k --recipe caption448 --out b"
    assert rewritten(line) == (
        "clipfeat extract --images a --model timm/test_resnet --pretrained none "
        "--recipe square:112 --out b"
    )
    line = "clipfeat eval caption run --split test --beam 5"
    assert rewritten(line) == line
    extractions = [shlex.split(line) for line in LINES if line.startswith("clipfeat extract")]
    assert {words[words.index("--model") + 1] for words in extractions} == set(rehearsal.SMALL)
    assert {words[words.index("--recipe") + 1] for words in extractions} == set(rehearsal.RECIPES)


def test_each_commit_chooses_rows_and_in_time_all(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: Counter[str] = Counter()
    for commit in range(400):
        monkeypatch.setattr(rehearsal, "newest_commit", lambda commit=commit: str(commit))
        pair = rehearsal.sample(ROWS, 2)
        assert len({row.name for row in pair}) == 2
        chosen.update(row.name for row in pair)
    assert chosen.keys() == {row.name for row in ROWS}


def test_steps_run_once_and_a_failure_ends_its_row_alone(tmp_path: Path) -> None:
    ran: list[list[str]] = []

    def execute(words: list[str]) -> tuple[int, str]:
        ran.append(words)
        if words[0] == "make":
            Path(words[1]).write_text("")
        return (1, "why") if words[0] == "fail" else (0, "")

    def row(name: str, *steps: Step) -> Row:
        return Row(name, "table", "title", steps)

    shared, last = Step("OUT/shared", "make OUT/shared"), Step("OUT/last", "make OUT/last")
    several = [
        row("a", shared, last),
        row("b", shared, Step("OUT/no", "fail DATA/x"), Step("OUT/never", "make OUT/never")),
        row("c", shared, Step("OUT/nothing", "forget")),
    ]
    runner = Runner(tmp_path / "data", tmp_path, execute)
    failures = runner.run(several, jobs=3)
    assert sorted(words[0] for words in ran) == ["fail", "forget", "make", "make"]
    assert failures.keys() == {"b", "c"}
    assert f"exit code 1: fail {tmp_path}/data/x\nwhy" in failures["b"]
    assert f"{tmp_path}/nothing was not made: forget" in failures["c"]
    ran.clear()
    assert not runner.run(several[:1])
    assert not ran, "what exists is not made again"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["vqa-mcan-rn51"], "no row vqa-mcan-rn51"),
        (["vqa-mcan-rn50"], "--data must be the folder"),
        (["vqa-mcan-rn50", "--data", "none", "--out", "o"], "--data none is not a folder"),
    ],
)
def test_mistakes_are_named(words: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["paper", *words])
    with pytest.raises(SystemExit, match=said):
        main()


@pytest.mark.slow
def test_a_killed_rehearsal_continues_where_it_was(tmp_path: Path) -> None:
    """The real commands of a row, on small data: killed during training, then run again."""
    command = [sys.executable, "-m", "benchmarks.paper", "vqa-pythia-rn50", "--dry"]
    command += ["--out", str(tmp_path)]
    run = tmp_path / "out" / "runs" / "vqa-pythia-rn50"
    process = subprocess.Popen(command, cwd=PAGE.parents[1], start_new_session=True)
    while not (run / "settings.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / "result.json").exists()
    done = subprocess.run(command, cwd=PAGE.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 rows, 2 commands" in done.stdout, "manifest and store are there"
    predicted = json.loads((run / "predictions_test.json").read_text())
    asked = tmp_path / "data" / "vqa" / "v2_OpenEnded_mscoco_test2015_questions.json"
    questions = json.loads(asked.read_text())["questions"]
    assert {each["question_id"] for each in predicted} == {
        each["question_id"] for each in questions
    }
