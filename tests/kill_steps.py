"""Kill a writer of a small store at every step that changes the disk, or at random times.

Run as a process of its own: kill_steps.py SCENARIO FOLDER steps
                             kill_steps.py SCENARIO FOLDER random SEED TIMES
                             kill_steps.py SCENARIO FOLDER trace

A scenario is `fresh`, `append`, `rewrite`, `rollback` or `rollback-append`; or `parts` or
`parts-append`, which do the same as the first two in two parts and then commit; or `batches`, which
does the first as an extraction does it, with threads that hash and commit. For each kill this
process, which stays single-threaded, forks a child in which everything is imported already. The
child does the scenario and kills itself (SIGKILL) before one of the steps that change the disk;
"after step k" is the same instant as "before step k + 1". Of steps that differ in nothing but the
number of their shard or the like, one is chosen at random. A second child then records what a
reader sees, does the scenario again without a kill, and records the result. One line of JSON is
printed for each kill, after a first line with the expected digests.
"""

import builtins
import io
import json
import os
import random
import re
import shutil
import signal
import stat
import sys
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from small_world import (
    ALL,
    DROPPED,
    FIRST,
    IDENTITY,
    drop_shard,
    layout_of,
    unreadable,
    write,
    write_in_parts,
)
from small_world import write_shard as write_one
from small_world_in_batches import write_in_batches

from clipfeat.featstore import FeatureStore, StoreError
from clipfeat.featstore.audit.contents import Depth
from clipfeat.featstore.audit.verify import verify
from clipfeat.featstore.writing.writer import StoreWriter

pa.array([0])  # imports pandas, where it is installed: not in each child

BY_PATH = ("rename", "replace", "mkdir", "unlink", "remove", "rmdir", "link", "symlink")
BY_FILE = ("fsync", "fdatasync", "ftruncate", "pwrite", "utime")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

Tell = Callable[[Any], None]


class Steps:
    """Stands before every call that changes the disk: of the main thread, or of all threads.

    The lock that keeps a store alive has a thread of its own, whose steps come at any time.
    """

    def __init__(
        self, last: int | None, tell: Callable[[str, str, str], None], *, all_threads: bool
    ):
        """Tell each step, or, with a `last` one, tell just that and be killed before it."""
        self._last = last
        self._tell = tell
        self._all_threads = all_threads
        self._one_at_a_time = threading.Lock()
        self._next = 0

    def install(self) -> None:
        for name in (*BY_PATH, *BY_FILE):
            setattr(os, name, self._counted(name, getattr(os, name)))
        os.open = self._counted_open(os.open)
        io.open = builtins.open = self._counted_file(io.open)

    def before(self, kind: str, path: Any, target: Any = "") -> None:
        if self._all_threads or threading.current_thread() is threading.main_thread():
            with self._one_at_a_time:
                self._count(kind, path, target)

    def _count(self, kind: str, path: Any, target: Any) -> None:
        if self._last is None:
            self._tell(kind, _name(path), _name(target))
        elif self._next == self._last:
            self._tell(kind, _name(path), _name(target))
            os.kill(os.getpid(), signal.SIGKILL)
        self._next += 1

    @property
    def is_killed_next(self) -> bool:
        return self._next == self._last

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(path: Any, *args: Any, **kwargs: Any) -> Any:
            folder = isinstance(path, int) and stat.S_ISDIR(os.fstat(path).st_mode)
            target = args[0] if name in ("rename", "replace", "link") else ""
            self.before(f"{name} folder" if folder else name, path, target)
            return call(path, *args, **kwargs)

        return counted

    def _counted_open(self, call: Callable[..., int]) -> Callable[..., int]:
        def counted(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            if flags & WRITES:
                self.before("open", path)
            return call(path, flags, *args, **kwargs)

        return counted

    def _counted_file(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if mode not in ("wb", "xb", "x+b", "r+b"):
                assert mode in ("r", "rb"), mode
                return call(path, mode, *args, **kwargs)
            self.before("open", path)
            file = _CountedFile(path, mode, self)
            return io.BufferedRandom(file) if "+" in mode else io.BufferedWriter(file)

        return counted


class _CountedFile(io.FileIO):
    """A file whose every write of its buffer is a step, and half of that another."""

    def __init__(self, path: Any, mode: str, steps: Steps):
        super().__init__(path, mode)
        self._steps = steps

    def write(self, content: Any) -> int:
        self._steps.before("write", self.name)
        if self._steps.is_killed_next:
            super().write(content[: len(content) // 2])
        self._steps.before("half a write", self.name)
        return super().write(content)


def _name(path: Any) -> str:
    return (
        str(Path(f"/proc/self/fd/{path}").readlink()) if isinstance(path, int) else os.fspath(path)
    )


def start(do: Callable[[Tell], Any]) -> tuple[int, int]:
    """Fork a child that does `do(tell)`; return its pid and where its lines can be read."""
    reader, writer = os.pipe()
    write_out = os.write
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    try:

        def tell(value: Any) -> None:
            write_out(writer, json.dumps(value).encode() + b"\n")

        do(tell)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def end(pid: int, reader: int) -> tuple[int, list[Any]]:
    """Return the exit code of a child and what it told."""
    with os.fdopen(reader, "rb") as pipe:
        lines = [json.loads(line) for line in pipe]
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), lines


def told_by(do: Callable[[Tell], Any]) -> Any:
    """Return the one thing that a child tells, which must not fail."""
    code, lines = end(*start(do))
    assert code == 0, code
    return lines[-1]


def prepare(scenario: str, folder: Path) -> dict[str, Any]:
    """Write what the scenario begins with to `base`; return the digests before and after."""
    new = write(folder / "whole", FIRST).digest
    old = None
    if scenario not in ("fresh", "rollback", "parts", "batches"):
        shutil.copytree(folder / "whole", folder / "base")
        old = new
    if scenario.endswith("append"):
        new = write(folder / "whole", ALL).digest
    if scenario == "rewrite":
        drop_shard(folder / "base")
    return {"old": old, "new": new}


def do_scenario(scenario: str, store: Path, *, for_good: bool = False) -> None:
    """Bring the store to what it must be; a rollback only does so `for_good`."""
    ids = ALL if scenario.endswith("append") else FIRST
    if scenario.startswith("parts"):
        write_in_parts(store, ids)
        return
    if scenario == "batches":
        write_in_batches(store, ids)
        return
    if for_good or not scenario.startswith("rollback"):
        write(store, ids)
        return
    parent, layout = layout_of(store, ids)
    with StoreWriter(store, IDENTITY, layout, parent=parent) as writer:
        write_one(store, writer.pending[0])
        writer.rollback()


def look_and_redo(scenario: str, store: Path) -> dict[str, Any]:
    """Return what a reader sees, then what there is once the scenario was done again."""
    ids = FIRST if scenario != "rewrite" else [i for i in FIRST if i not in DROPPED]
    try:
        found = FeatureStore.open(store)
        seen = {"seen": found.digest, "unreadable": unreadable(found, ids)}
    except StoreError as error:
        seen = {"seen": None, "why": str(error)}
    do_scenario(scenario, store, for_good=True)
    finished = FeatureStore.open(store)
    left = [str(path) for path in store.rglob("*") if path.name.endswith((".tmp", "journal"))]
    return {
        **seen,
        "digest": finished.digest,
        "lost": unreadable(finished, ALL if scenario.endswith("append") else FIRST),
        "problems": [problem.text() for problem in verify(store, Depth.DEEP)],
        "left": left,
        "generation": finished.metadata.generation,
    }


def begin(folder: Path) -> Path:
    """Return a fresh copy of what the scenario begins with."""
    store = folder / "s"
    shutil.rmtree(store, ignore_errors=True)
    if (folder / "base").exists():
        shutil.copytree(folder / "base", store)
    return store


def do_counted(scenario: str, store: Path, last: int | None, tell: Tell) -> None:
    """Do the scenario, telling its steps or being killed before the `last` one."""
    Steps(last, lambda *step: tell(step), all_threads=scenario == "batches").install()
    do_scenario(scenario, store)


def steps_of(scenario: str, folder: Path) -> list[list[str]]:
    """Return every step of an undisturbed run: what it is, its path, its target."""
    store = begin(folder)
    code, steps = end(*start(lambda tell: do_counted(scenario, store, None, tell)))
    assert code == 0, code
    return steps


def one_of_each(steps: list[list[str]]) -> list[int]:
    """Return the numbers of steps: of those alike but for numbers in their paths, one at random."""
    alike: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, (kind, path, _) in enumerate(steps):
        alike[kind, re.sub(r"[0-9a-f]{16}|[0-9]+", "#", path)].append(number)
    rng = random.Random(0)
    return sorted(rng.choice(numbers) for numbers in alike.values())


def kill_before(scenario: str, store: Path, last: int) -> dict[str, str]:
    """Kill the scenario before a step; return what that step is."""
    code, told = end(*start(lambda tell: do_counted(scenario, store, last, tell)))
    assert code == -signal.SIGKILL, code
    ((step, path, _),) = told
    return {"step": step, "path": path}


def kill_at_steps(scenario: str, folder: Path) -> None:
    for last in one_of_each(steps_of(scenario, folder)):
        store = begin(folder)
        tell_what_is_left(kill_before(scenario, store, last), scenario, store)


def kill_at_random(scenario: str, folder: Path, seed: int, times: int) -> None:
    store = begin(folder)
    started = time.monotonic()
    told_by(lambda tell: tell(do_scenario(scenario, store)))
    longest = time.monotonic() - started
    rng = random.Random(seed)
    for _ in range(times):
        begin(folder)
        pid, reader = start(lambda _: do_scenario(scenario, store))
        time.sleep(rng.uniform(0, longest))
        os.kill(pid, signal.SIGKILL)
        code, _ = end(pid, reader)
        tell_what_is_left({"killed": code == -signal.SIGKILL}, scenario, store)


def tell_what_is_left(kill: dict[str, Any], scenario: str, store: Path) -> None:
    found = told_by(lambda tell: tell(look_and_redo(scenario, store)))
    print(json.dumps({**kill, **found}), flush=True)


def main(scenario: str, folder: Path, how: str, *numbers: str) -> None:
    print(json.dumps(told_by(lambda tell: tell(prepare(scenario, folder)))), flush=True)
    if how == "steps":
        kill_at_steps(scenario, folder)
    elif how == "random":
        kill_at_random(scenario, folder, *map(int, numbers))
    else:
        print("\n".join(map(json.dumps, steps_of(scenario, folder))))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
