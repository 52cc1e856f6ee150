"""Pull a store, killed before steps that change the disk or receive bytes: URL FOLDER STRIDE.

Each attempt is a fork that ends itself by SIGKILL before its n-th step; a second fork then pulls to
the same folder, without a kill. Prints a line of JSON for each n.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipfeat.base import ranges
from clipfeat.featstore import FeatureStore, verify
from clipfeat.featstore.sharing import pull

LAST = 14  # steps, from the rename of store.json on, or before
left = 0  # steps until the kill; below 0, the number of steps that were done


def before(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return `call` as a step before which the process may end."""

    def step(*arguments: Any, **options: Any) -> Any:
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)

    return step


def forked(act: Callable[[], None]) -> int:
    """Run `act` in a fork, and return how it ended."""
    child = os.fork()
    if child == 0:
        act()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def trace(url: str, folder: Path) -> None:
    """Pull without a kill, and write down how many steps that takes."""
    pull.pull(url, folder / "traced")
    (folder / "steps").write_text(str(-left))


def main(url: str, folder: Path, stride: int) -> None:
    """Kill before every `stride`-th step, and before all of the last ones."""
    global left
    ranges.PIECE_BYTES = 1000
    pull.STREAMS = 1  # so that the steps have one order
    for name in ("fsync", "mkdir", "unlink", "rmdir", "rename", "ftruncate"):
        setattr(os, name, before(getattr(os, name)))
    pull._Meter.add = before(pull._Meter.add)  # type: ignore[method-assign]
    assert forked(lambda: trace(url, folder)) == 0
    steps = int((folder / "steps").read_text())
    path = folder / "t"
    for number in sorted({*range(1, steps, stride), *range(steps - LAST, steps + 1)}):
        left = number
        assert forked(lambda: pull.pull(url, path) and None) == -signal.SIGKILL
        left = 0
        was_store = (path / "store.json").exists()
        assert forked(lambda: pull.pull(url, path) and None) == 0, number
        problems = [problem.text() for problem in verify(path)]
        digest = FeatureStore.open(path).digest
        shutil.rmtree(path)
        record = {"was_store": was_store, "problems": problems, "digest": digest}
        print(json.dumps(record), flush=True)


main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
