"""Run the steps of rows, each once, and continue after an interruption."""

import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from clipfeat.base.errors import ClipfeatError

from .rows import Row, Step

Execute = Callable[[list[str]], tuple[int, str]]  # a command line's exit code, and what it printed


def in_terminal(words: list[str]) -> tuple[int, str]:
    """Run a command line that prints to this terminal."""
    print(f"$ {shlex.join(words)}", flush=True)
    command = [sys.executable, "-m", "clipfeat.cli", *words[1:]]
    ended = subprocess.run(command if words[0] == "clipfeat" else words, check=False)
    return ended.returncode, ""


@dataclass
class Runner:
    """Runs commands with the folders that DATA/ and OUT/ stand for.

    A step is done where the file that it makes exists. All others are run: extraction, import and
    training resume by themselves.
    """

    data: Path
    out: Path
    execute: Execute = in_terminal
    seconds: dict[str, float] = field(default_factory=dict)  # of each step that was run
    _locks: dict[str, threading.Lock] = field(default_factory=dict)

    def run(self, rows: Sequence[Row], *, jobs: int = 1) -> dict[str, str]:
        """Run rows, `jobs` at a time; return {row: why it failed} of those that did."""
        for folder in ("images", "stores", "runs"):
            (self.out / folder).mkdir(parents=True, exist_ok=True)
        # Two rows may have the same step, which one of them runs while the other waits.
        self._locks = {step.made: threading.Lock() for row in rows for step in row.steps}
        with ThreadPoolExecutor(jobs) as pool:
            failures = dict(zip((row.name for row in rows), pool.map(self._row, rows), strict=True))
        return {name: failure for name, failure in failures.items() if failure}

    def _row(self, row: Row) -> str:
        try:
            for step in row.steps:
                with self._locks[step.made]:
                    self._step(step)
        except ClipfeatError as error:
            return str(error)
        return ""

    def _step(self, step: Step) -> None:
        made = Path(self._place(step.made))
        if made.exists():
            return
        words = [self._place(word) for word in shlex.split(step.command)]
        start = time.perf_counter()
        code, printed = self.execute(words)
        self.seconds[step.made] = time.perf_counter() - start
        if code or not made.exists():
            problem = f"exit code {code}" if code else f"{made} was not made"
            raise ClipfeatError(f"{problem}: {shlex.join(words)}\n{printed}", code="E-PAPER-STEP")

    def _place(self, word: str) -> str:
        """Return a word of a command line with the folders in the place of DATA/ and OUT/."""
        folders = {"DATA/": f"{self.data}/", "OUT/": f"{self.out}/"}
        return re.sub(r"\b(DATA|OUT)/", lambda found: folders[found[0]], word)  # each place once
