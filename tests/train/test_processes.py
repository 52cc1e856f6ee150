"""Training in several processes, on the CPU: real ones, that find each other on loopback."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from children import World, command_line, start_child, wait_for_update
from vqa_world import make_world

from clipfeat.cli.main import main
from clipfeat.train.launch import launch

# 72 questions in batches of 71: of each epoch's second batch one process of two has nothing.
QUIET = ("epochs=10", "model.dropout=0", "batch_size=71", "checkpoint_every=3", "ema=0.9")
LAUNCH = (
    "import sys; from clipfeat.base.text import log_to_terminal; log_to_terminal(); "
    "from clipfeat.train.launch import launch; sys.exit(launch(sys.argv[1:], 2))"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def result(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text()) | {"predictions": ""}


@pytest.fixture(scope="module")
def alone(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "alone"
    child = start_child(world, run, *QUIET)
    assert child.communicate()[1] == ""
    return run


def in_two(world: World, out: Path, *changes: str) -> list[str]:
    return [sys.executable, "-c", LAUNCH, *command_line(world, out, *changes)]


@pytest.fixture(scope="module")
def two(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in two processes of torchrun."""
    run = tmp_path_factory.mktemp("runs") / "two"
    words = command_line(world, run, *QUIET, "gradient_accumulation_steps=2")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*torchrun, *words[1:]], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("overall") == 1
    return run


@pytest.mark.slow
def test_torchrun_trains_in_two_processes_as_one_does(alone: Path, two: Path) -> None:
    assert len(losses(two)) == len(losses(alone)) == 2 * 10
    assert losses(two)[:6] == pytest.approx(losses(alone)[:6], rel=1e-3)  # rounding adds up
    assert result(two)["n"] == result(alone)["n"]


@pytest.mark.slow
def test_a_killed_group_goes_on_bit_for_bit(world: World, two: Path, tmp_path: Path) -> None:
    """And comes to what torchrun's processes come to."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = tmp_path / "killed"
    words = in_two(world, killed, *QUIET, "gradient_accumulation_steps=2")
    group = subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True)
    wait_for_update(killed, 4, group)
    workers = psutil.Process(group.pid).children()
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGKILL)
    _, said = group.communicate(timeout=60)
    assert group.returncode == 128 + signal.SIGKILL  # one death ends them all
    assert "process 1 of 2 was ended by signal 9\n" in said
    assert not any(worker.is_running() for worker in workers)
    assert not (killed / "result.json").exists()
    assert subprocess.run(words, env=env).returncode == 0
    assert losses(killed) == losses(two)
    for name in ("last.safetensors", "predictions.json"):
        assert (killed / name).read_bytes() == (two / name).read_bytes(), name


@pytest.mark.slow
def test_sigterm_ends_the_whole_group(world: World, tmp_path: Path) -> None:
    run = tmp_path / "run"
    group = subprocess.Popen(in_two(world, run, "epochs=4000"), stderr=subprocess.DEVNULL)
    wait_for_update(run, 3, group)
    workers = psutil.Process(group.pid).children()
    group.send_signal(signal.SIGINT)
    group.wait(60)
    assert not any(worker.is_running() for worker in workers)


@pytest.mark.slow
def test_a_mistake_is_said_once(world: World, tmp_path: Path) -> None:
    words = in_two(world, tmp_path / "run", "train_split=mini")
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("has no questions_mini.json, the questions of split 'mini'") == 1


@pytest.mark.slow
def test_what_another_process_says_is_shown_where_it_fails_alone(capfd) -> None:
    """The first one would sleep for ten minutes; it is ended."""
    code = (
        "import os, sys, time; sys.exit('bad luck') if int(os.environ['RANK']) else time.sleep(600)"
    )
    assert launch([sys.executable, "-c", code], 2) == 1
    assert capfd.readouterr().err == "bad luck\n"


def test_what_a_process_said_before_a_signal_is_shown(capfd) -> None:
    code = (
        "import os, sys, time\n"
        "if os.environ['RANK'] == '0': time.sleep(600)\n"
        "print('terminate called', file=sys.stderr, flush=True)\n"
        "os.abort()"
    )
    assert launch([sys.executable, "-c", code], 2) == 128 + signal.SIGABRT
    said = capfd.readouterr().err
    assert said == "terminate called\nprocess 1 of 2 was ended by signal 6\n"


@pytest.mark.parametrize(
    ("listed", "gpus", "seen"),
    [
        ("4,5,6,7", "2", "4,5"),
        ("4,5,6,7", "0,3", "4,7"),
        ("4,5,6,7", "3,", "7"),
        ("GPU-8932f937, GPU-1ac2", "2", "GPU-8932f937,GPU-1ac2"),
        (None, "0,3", "0,3"),
        ("4,5", "2,", None),
        ("4,5", "3", None),
        ("GPU-8932f937", "0,1", None),
    ],
)
def test_each_process_sees_the_gpus_of_the_list_that_is_there(
    listed: str | None,
    gpus: str,
    seen: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The processes are real: in place of Python, a script says what each of them was given.

    `seen` is None where a GPU is not in the list, which is refused.
    """
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES of $WORLD_SIZE: $*" >"$0.$LOCAL_RANK"\n'
    )
    python.chmod(0o755)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if listed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    monkeypatch.setattr("torch.cuda.device_count", lambda: len((listed or "0,1,2,3").split(",")))
    monkeypatch.setattr("sys.executable", str(python))
    words = ["train", "vqa", "--store", "s", "--data", "d", "--out", "o", "--gpus", gpus]
    monkeypatch.setattr("sys.argv", ["clipfeat", *words])
    with pytest.raises(SystemExit) as done:
        main()
    if seen is None:
        assert (done.value.code, list(tmp_path.glob("python.*"))) == (2, [])
        assert "[E-GPUS-ABSENT]" in capsys.readouterr().err
        return
    assert done.value.code == 0
    count = len(seen.split(","))
    for rank in range(count):
        said = (tmp_path / f"python.{rank}").read_text()
        assert said == f"{seen} of {count}: -m clipfeat.cli {' '.join(words)}\n"
    assert not (tmp_path / f"python.{count}").exists()


def test_gpus_that_are_not_there_are_refused_as_typed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    words = command_line(world, tmp_path / "run")[2:-2]
    for more, message in (
        (["--gpus", "8"], "[E-GPUS-ABSENT]"),
        (["--gpus", "2,"], "[E-GPUS-ABSENT]"),
        (["--gpus", "two"], "[E-GPUS-SYNTAX]"),
        (["--gpus", "0,0"], "[E-GPUS-TWICE]"),
        (["--gpus", "1", "--device", "cpu"], "--gpus and --device cpu exclude each other"),
    ):
        monkeypatch.setattr("sys.argv", ["clipfeat", *words[1:], *more])
        with pytest.raises(SystemExit) as done:
            main()
        assert done.value.code == 2
        assert message in capsys.readouterr().err
