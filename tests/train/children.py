"""Training as a user types it, in processes that tests can kill."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from vqa_world import FAST

World = tuple[Path, Path]  # store, data


def command_line(world: World, out: Path, *changes: str) -> list[str]:
    """Return the words of `clipfeat train vqa` on a world."""
    sets = [f"--set={change}" for change in (*FAST, *changes)]
    paths = ["--store", str(world[0]), "--data", str(world[1]), "--out", str(out)]
    return [sys.executable, "-m", "clipfeat.cli", "train", "vqa", *paths, *sets, "--device", "cpu"]


def start_child(world: World, out: Path, *changes: str) -> subprocess.Popen[str]:
    """Start the command."""
    return start(command_line(world, out, *changes))


def start(words: list[str]) -> subprocess.Popen[str]:
    """Start a command, on one thread so that sums have one order."""
    return subprocess.Popen(
        words,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_update(run: Path, step: int, child: subprocess.Popen[Any]) -> None:
    """Return when the run's metrics speak of an update."""
    path = run / "metrics.jsonl"
    while not path.is_file() or f'"step": {step},' not in path.read_text():
        assert child.poll() is None, child.communicate()
        time.sleep(0.002)
