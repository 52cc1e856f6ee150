"""A run's folder that others wrote, or can write: nothing lands outside, and no line is a trap."""

import fcntl
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refused import refuses

from clipfeat.base.errors import ClipfeatError, UsageError
from clipfeat.base.files import temporary_name
from clipfeat.train.figures import draw_curves
from clipfeat.train.log import open_log
from clipfeat.train.run import (
    RunManifest,
    append_metrics,
    locked,
    open_metrics,
    read_manifest,
    read_metrics,
    require_same_run,
    write_manifest,
)
from clipfeat.train.tasks.captioning.model import find_stage
from clipfeat.train.tasks.captioning.training import train_stages
from clipfeat.train.tasks.settings import CaptionSettings

MANIFEST = RunManifest(
    "vqa", {"model": {"hidden": 8}}, "0" * 64, {}, {"q.json": "1" * 64}, "s", "d"
)
LINES = [{"step": step, "epoch": 1, "loss": 5.0 - step, "lr": 0.1} for step in (1, 2, 3)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three updates."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_manifest(folder, MANIFEST)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return folder


def as_link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def as_hard_link(path: Path, target: Path) -> None:
    path.hardlink_to(target)


def as_pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("put", [as_link, as_hard_link, as_pipe])
def test_a_lock_that_is_something_else_changes_and_waits_for_nothing(
    run: Path, tmp_path: Path, put: Callable[[Path, Path], None]
) -> None:
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("three years")
    put(run / ".lock", thesis)
    with pytest.raises(OSError, match="is a") as refused, locked(run):
        pass
    assert refused.value.filename == str(run / ".lock")
    assert thesis.read_text() == "three years"


def test_a_full_disk_is_said_of_the_metrics(run: Path) -> None:
    held = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match="large") as raised, open_log(run, step=3) as log:  # noqa: PT012
            resource.setrlimit(
                resource.RLIMIT_FSIZE, ((run / "metrics.jsonl").stat().st_size, held[1])
            )
            log({"loss": 1.0}, step=4, epoch=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, held)
    assert raised.value.filename == str(run / "metrics.jsonl")


@pytest.mark.parametrize("put", [as_link, as_pipe])
def test_metrics_that_are_something_else_change_nothing(
    run: Path, tmp_path: Path, put: Callable[[Path, Path], None]
) -> None:
    notes = tmp_path / "notes.jsonl"
    notes.write_text("{}\n")
    (run / "metrics.jsonl").unlink()
    put(run / "metrics.jsonl", notes)
    with pytest.raises(OSError, match="is a"), open_metrics(run, step=3):
        pass
    assert notes.read_text() == "{}\n"


def test_metrics_with_a_second_name_get_a_file_of_their_own(run: Path, tmp_path: Path) -> None:
    """A backup of hard links (cp -al) stays as it was."""
    (tmp_path / "backup").hardlink_to(run / "metrics.jsonl")
    before = (tmp_path / "backup").read_bytes()
    with open_log(run, step=3) as log:
        log({"loss": 1.0, "lr": 0.1}, step=4, epoch=0)
    assert (tmp_path / "backup").read_bytes() == before
    assert [line["step"] for line in read_metrics(run)] == [1, 2, 3, 4]


def test_events_do_not_land_behind_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (run / "tensorboard").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError) as refused, open_log(run, step=3):
        pass
    assert refused.value.code == "E-RUN-LINK"
    assert not any((tmp_path / "elsewhere").iterdir())


def test_nobody_can_tell_the_name_of_the_next_event_file(run: Path) -> None:
    """Otherwise links could stand there before."""
    for _ in range(2):
        with open_log(run, step=3):
            pass
    ends = {path.name[-16:] for path in (run / "tensorboard").iterdir()}
    assert len(ends) == 2
    assert all(int(end, 16) >= 0 for end in ends)


@pytest.mark.parametrize("stage", ["xe", "scst"])
def test_a_stage_of_captioning_is_no_link(stage: str, tmp_path: Path) -> None:
    run, mine = tmp_path / "run", tmp_path / "mine"
    run.mkdir()
    mine.mkdir()
    (mine / "best.safetensors").touch()
    (run / stage).symlink_to(mine)
    with pytest.raises(UsageError) as refused:
        train_stages(CaptionSettings(), run, stages=["xe"], store=mine, data=mine, device="cpu")
    assert refused.value.code == "E-RUN-LINK"
    with pytest.raises(UsageError) as refused:  # clipfeat eval would write predictions there
        find_stage(run)
    assert refused.value.code == "E-RUN-LINK"


def test_the_folder_that_a_user_names_may_be_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    with locked(tmp_path / "link"), open_log(tmp_path / "link", step=2):
        pass
    assert [line["step"] for line in read_metrics(run)] == [1, 2]


BAD_LINES = (
    b'{"step": 2, "loss": 1' + b"0" * 400 + b', "lr": 0.1}\n',
    b'{"step": 2, "loss": 1' + b"0" * 5000 + b', "lr": 0.1}\n',
    b'{"step": 1' + b"0" * 400 + b', "loss": 1.0, "lr": 0.1}\n',
    b'{"step": 2, "loss": NaN, "lr": -Infinity}\n',
    b'{"step": NaN, "loss": 1.0, "lr": 0.1}\n',
    b'{"step": 2, "loss": "low", "lr": null}\n',
    b'{"step": 2, "loss": 1.0}\n',
    b'{"step": 2, "score": 50.0, "epoch": null}\n',
    b'{"step": 2, "score": 50.0}\n',
    b'{"step": 2, "loss": ' + b"[" * 200_000 + b"\n",
    b'{"step": 2, "loss": 1.0, "lr": 0.1, "note": "\xff"}\n',
    b"[1]\nnull\n\n",
    b'{"step": true}\n',
)


def spoil(run: Path, line: bytes) -> None:
    """Write a line before and behind each of the run's, and its beginning at the end."""
    path = run / "metrics.jsonl"
    sound = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(line + line.join(sound) + line + sound[0][:-1])


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_of_metrics_costs_only_itself(run: Path, line: bytes) -> None:
    spoil(run, line)
    assert [found for found in read_metrics(run) if found in LINES] == LINES
    with open_metrics(run, step=2):
        pass
    assert [found for found in read_metrics(run) if found in LINES] == LINES[:2]


def test_curves_are_drawn_of_what_can_be(run: Path) -> None:
    draw_curves(run, run / "sound.png")
    spoil(run, b"".join(BAD_LINES))
    draw_curves(run, run / "spoilt.png")
    assert (run / "spoilt.png").read_bytes() == (run / "sound.png").read_bytes()
    spoil(run, b'{"step": 2, "score": 50.0, "epoch": 0}\n')
    draw_curves(run, run / "zero.png")
    assert (run / "zero.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("settings.json", "settings.json: not a readable JSON file"),
        ("metrics.jsonl", "line 1 has more than 1,048,576 bytes"),
    ],
)
def test_a_file_without_an_end_is_not_read(run: Path, name: str, why: str) -> None:
    with (run / name).open("wb") as file:
        file.truncate(100 << 30)
    with pytest.raises((ClipfeatError, OSError), match=why):
        draw_curves(run, run / "curves.png")


def test_metrics_of_any_length_are_read_again(run: Path) -> None:
    """80 MB, which a run of some millions of updates with log_every=1 leaves."""
    note = "." * 1_000_000
    with (run / "metrics.jsonl").open("a") as file:
        for step in range(4, 85):
            file.write(json.dumps({"step": step, "note": note}) + "\n")
    with open_metrics(run, step=84) as file:
        append_metrics(file, {"step": 85})
    assert [line["step"] for line in read_metrics(run)] == list(range(1, 86))


@pytest.mark.parametrize(
    "content",
    [b'{"task": ' + b"9" * 5000 + b"}", b"[" * 100_000, b'{"task": "\xff"}', b"", b"7"],
)
def test_settings_that_are_none_are_one_line(run: Path, content: bytes) -> None:
    (run / "settings.json").write_bytes(content)
    with pytest.raises(ClipfeatError, match=r"settings\.json: ") as refused:
        read_manifest(run)
    assert "\n" not in str(refused.value)


def test_tables_in_tables_of_settings_have_an_end(run: Path) -> None:
    """Python's parser of JSON takes more than its functions can go through."""
    card = json.loads((run / "settings.json").read_text())
    deep: Any = 1
    for _ in range(400):
        deep = {"a": deep}
    card["settings"] = deep
    (run / "settings.json").write_text(json.dumps(card))
    with refuses("E-RUN-NESTED"):
        read_manifest(run)


def test_a_refused_lock_keeps_nothing_open(run: Path) -> None:
    """The same Python process can lock the run once the other one has ended."""
    holds = f"import fcntl; f = open({str(run / '.lock')!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX)"
    waits = "print('held', flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", f"{holds}\n{waits}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    refusals = []
    for _ in range(20):
        with pytest.raises(UsageError) as refused, locked(run):
            pass
        refusals.append(refused)  # an error that is kept keeps its frames
    assert {refused.value.code for refused in refusals} == {"E-RUN-LOCKED"}
    assert len(os.listdir("/proc/self/fd")) == len(before)  # noqa: PTH208
    other.communicate(b"\n")
    with locked(run), (run / ".lock").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (run / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_a_killed_run_left_half_written_is_removed(run: Path) -> None:
    for name in (".last.safetensors", ".metrics.jsonl"):
        (run / temporary_name(name)).write_bytes(b"half")
    mine = {".notes.tmp", "thoughts.0123456789abcdef.tmp"}
    for name in mine:
        (run / name).touch()
    with locked(run):
        pass
    assert {path.name for path in run.iterdir()} == {
        "settings.json", "metrics.jsonl", ".lock", *mine
    }  # fmt: skip


def test_a_run_that_was_killed_as_it_began_can_begin_again(tmp_path: Path) -> None:
    """Its folder, its lock and half of its settings were there."""
    with locked(tmp_path / "run"):
        (tmp_path / "run" / temporary_name(".settings.json")).write_bytes(b"{")
    require_same_run(tmp_path / "run", MANIFEST)
    (tmp_path / "run" / "letter.txt").touch()
    with refuses("E-RUN-FOLDER", kind=UsageError):
        require_same_run(tmp_path / "run", MANIFEST)
