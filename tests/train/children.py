"""Training as a user types it, in processes that tests can kill."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from forks import FORKS
from vqa_world import FAST

World = tuple[Path, Path]  # store, data


class Child:
    """A `clipfeat` command in a process of its own, on one thread so that sums have one order.

    Its methods are those of `subprocess.Popen`.
    """

    def __init__(self, *words: str) -> None:
        self._said = [tempfile.NamedTemporaryFile() for _ in range(2)]  # noqa: SIM115
        names = [file.name for file in self._said]
        self._process = FORKS.Process(target=_run, args=(words, *names), daemon=True)
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """The exit code, minus the signal that ended it, or None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return `returncode`."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def communicate(self) -> tuple[str, str]:
        """Wait for its end; return what it said on stdout and on stderr."""
        self._process.join()
        out, err = (Path(file.name).read_text() for file in self._said)
        return out, err


def _run(words: tuple[str, ...], out: str, err: str) -> None:
    import torch

    from clipfeat.cli.main import main

    torch.set_num_threads(1)
    for number, name in ((1, out), (2, err)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), number)
    sys.argv = ["clipfeat", *words]
    main()


def command_line(world: World, out: Path, *changes: str) -> list[str]:
    """Return the words of `clipfeat train vqa` on a world."""
    sets = [f"--set={change}" for change in (*FAST, *changes)]
    paths = ["--store", str(world[0]), "--data", str(world[1]), "--out", str(out)]
    return [sys.executable, "-m", "clipfeat.cli", "train", "vqa", *paths, *sets, "--device", "cpu"]


def start_child(world: World, out: Path, *changes: str) -> Child:
    """Start the command of `command_line`."""
    return Child(*command_line(world, out, *changes)[3:])


def start(words: list[str]) -> subprocess.Popen[str]:
    """Start any program, on one thread so that sums have one order."""
    return subprocess.Popen(
        words,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_update(run: Path, step: int, child: subprocess.Popen[Any] | Child) -> None:
    """Return when the run's metrics speak of an update."""
    path = run / "metrics.jsonl"
    while not path.is_file() or f'"step": {step},' not in path.read_text():
        assert child.poll() is None, child.communicate()
        time.sleep(0.002)
