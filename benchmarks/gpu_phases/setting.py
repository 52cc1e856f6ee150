"""What all phases of benchmarks.gpu_check share: the device, a folder, and how they time a call."""

import functools
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..photographs import write_photographs

WIDTH, HEIGHT = 640, 480
PHOTOGRAPHS = 128  # files, which are linked under as many names as a phase needs


@dataclass(frozen=True)
class Setting:
    """Where to measure. What a CPU does is smaller, so that it fits into the same time."""

    device: str  # "cuda:0" or "cpu"
    folder: Path  # for temporary files

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def gpu_index(self) -> str:
        """The number of the GPU, as a text."""
        return self.device.partition(":")[2] or "0"

    @functools.cached_property
    def photographs(self) -> list[Path]:
        """JPEG files of 640x480 with the entropy of photographs."""
        folder = self.folder / "photographs"
        if not folder.exists():
            write_photographs(folder, PHOTOGRAPHS if self.on_gpu else 16, WIDTH, HEIGHT)
        return sorted(folder.iterdir())

    def linked(self, count: int, name: str) -> Path:
        """Return a folder of `count` names for the photographs, each used as often as needed."""
        folder = self.folder / name
        folder.mkdir()
        for number in range(count):
            source = self.photographs[number % len(self.photographs)]
            (folder / f"{number:07}.jpg").hardlink_to(source)
        return folder

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[..., object], *arguments: object, least: float = 0.3) -> float:
        """Return the seconds that a call takes: the mean of as many as fill `least` seconds.

        A first call, which is not counted, warms up.
        """
        work(*arguments)
        self.wait()
        calls, started, elapsed = 0, time.perf_counter(), 0.0
        while not calls or elapsed < least:
            work(*arguments)
            self.wait()
            calls += 1
            elapsed = time.perf_counter() - started
        return elapsed / calls

    def python(self, *arguments: str) -> str:
        """Run Python with `arguments` in a process of its own; return what it printed.

        Raises RuntimeError with the end of its errors if it fails. The deadline of a phase ends it.
        """
        command = [sys.executable, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-600:]}")
        return done.stdout
