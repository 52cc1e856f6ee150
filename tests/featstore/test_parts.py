"""Several processes write a part of a store each: beside each other, and beside nobody else."""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from typing import Any

import part_process
import pytest
from logged import logged
from part_process import ENCODED, IDENTITY, LAYOUT, writer_of
from refused import refuses
from stores import write_encoded, write_shard

from clipfeat.featstore import FeatureStore, StoreError
from clipfeat.featstore.audit.contents import Depth
from clipfeat.featstore.audit.repair import repair
from clipfeat.featstore.audit.verify import verify
from clipfeat.featstore.layout import Grids, Part, lay_out
from clipfeat.featstore.writing import lock as lock_module
from clipfeat.featstore.writing.parts import commit_parts
from clipfeat.featstore.writing.run import update_layout
from clipfeat.featstore.writing.writer import StoreWriter

HERE = socket.gethostname()
ELSEWHERE = json.dumps({"host": "elsewhere", "pid": 7, "since": "2026-11-23T10:00:00+00:00"})


@pytest.fixture(scope="module")
def digest(tmp_path_factory):
    """The digest of one run that nothing disturbs."""
    path = tmp_path_factory.mktemp("whole") / "s"
    return write_encoded(path, IDENTITY, LAYOUT, ENCODED).digest


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s"


@pytest.fixture
def start(path):
    """Start processes that write the store; each waits for a line before it begins."""
    with contextlib.ExitStack() as stack:

        def started(*arguments: object) -> Any:
            command = [sys.executable, part_process.__file__, path, *arguments]
            pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
            process = subprocess.Popen([*map(str, command)], text=True, **pipes)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield started


def begin(*processes):
    """Let processes begin at the same time, once all have imported what they need."""
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()


def write(path, what, most=None):
    """Write a part in this process, or the first shards of it that are not written; return which."""
    with writer_of(path, what) as writer:
        shards = writer.pending[:most]
        for shard in shards:
            write_shard(path, IDENTITY, LAYOUT, shard, ENCODED)
        return [shard.number for shard in shards]


def finished(path):
    store = commit_parts(path)
    assert isinstance(store, FeatureStore)
    assert verify(path, Depth.DEEP) == []
    return store


@pytest.mark.parametrize("folder", ["absent", "empty", "begun"])
def test_parts_that_start_at_once_make_the_store_of_one_run(path, start, digest, folder):
    if folder == "empty":
        path.mkdir()
    if folder == "begun":
        assert write(path, "2/4", most=2) == [3, 4]
    parts = [start(f"{k}/4", 0) for k in (1, 2, 3, 4)]
    begin(*parts)
    told = [part.communicate() for part in parts]
    assert [errors for _, errors in told] == [""] * 4
    written = [[int(line) for line in out.split()] for out, _ in told]
    second = [5, 6] if folder == "begun" else [3, 4, 5, 6]
    assert written == [[0, 1, 2], second, [7, 8, 9, 10], [11, 12, 13, 14]]
    assert not (path / "store.json").exists()
    assert finished(path).digest == digest


@pytest.mark.slow
def test_a_part_that_is_killed_while_others_write_is_run_again(path, start, digest):
    rng = random.Random(0)
    for _ in range(3):
        parts = [start(f"{k}/3", 0.01) for k in (1, 2, 3)]
        begin(*parts)
        time.sleep(rng.uniform(0, 0.1))
        parts[1].kill()
        told = [part.communicate() for part in parts]
        assert told[0][1] == told[2][1] == ""
    write(path, "2/3")
    # One killed while it wrote the plan leaves a file that may be another part's.
    left = {file.name[: len(".plan.json")] for file in path.rglob("*.tmp")}
    assert left <= {".plan.json"}
    assert finished(path).digest == digest
    assert not list(path.rglob("*.tmp"))


def test_of_two_plans_at_once_one_wins_and_the_other_is_refused(path, start):
    rivals = {name: start(part, 0, name) for part, name in (("1/2", "test"), ("2/2", "other"))}
    begin(*rivals.values())
    errors = {name: rival.communicate()[1] for name, rival in rivals.items()}
    (winner,) = [name for name, error in errors.items() if not error]
    (loser,) = rivals.keys() - {winner}
    assert "E-PLAN-OTHER" in errors[loser]
    assert f"recipe.name is {winner} in the store, {loser} asked for" in errors[loser]
    plan = json.loads((path / "journal/plan.json").read_bytes())
    assert plan["identity"]["recipe"] == {"name": winner}
    assert len(list(path.rglob("c.*"))) == (7 if winner == "test" else 8)


@pytest.mark.parametrize("rival", ["1/4", "whole", "finish", "2/3"])
def test_a_part_that_is_running_excludes_all_but_the_others(path, start, digest, rival):
    holder = start("1/4", 60)
    begin(holder)
    assert holder.stdout.readline() == "0\n"
    assert write(path, "2/4") == [3, 4, 5, 6]
    who = f"part 1/4 of {path} is being written by process {holder.pid} on {HERE}, since "
    do = commit_parts if rival == "finish" else lambda path, **_: write(path, rival)
    with refuses("E-LOCK-HELD", who, kind=StoreError):
        do(path, break_lock=True)
    assert holder.poll() is None
    holder.kill()
    holder.wait()
    do(path)
    write(path, "whole")  # written shards are kept, whoever wrote it
    assert finished(path).digest == digest


def test_a_whole_run_excludes_parts(path, start, digest):
    holder = start("whole", 60)
    begin(holder)
    assert holder.stdout.readline() == "0\n"
    for rival in (lambda: write(path, "1/4"), lambda: commit_parts(path, break_lock=True)):
        who = f"{path} is being written by process {holder.pid} on"
        with refuses("E-LOCK-HELD", who, kind=StoreError):
            rival()
    holder.kill()
    holder.wait()
    for k in (1, 2, 3, 4):
        write(path, f"{k}/4")
    assert finished(path).digest == digest


def test_a_part_leaves_the_files_of_others_alone(path, start):
    others = [
        "00000003.grid.0123456789abcdef.tmp",
        ".00000014.receipt.0123456789abcdef.tmp",
        ".plan.json.0123456789abcdef.tmp",
    ]
    own = ["00000002.grid.0123456789abcdef.tmp", ".00000000.receipt.0123456789abcdef.tmp"]
    write(path, "2/4", most=1)
    for name in [*others, *own]:
        (path / "journal" / name).touch()
    write(path, "1/4")
    left = {file.name for file in path.glob("journal/*.tmp")}
    assert left == set(others)


def test_a_shard_that_changed_since_is_written_again_by_its_part(path, digest):
    write(path, "1/2")
    shard = path / LAYOUT.shards[5].path("grid")
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert write(path, "2/2") == [*range(7, 15)]
    assert write(path, "1/2") == [5]
    assert finished(path).digest == digest


def test_the_part_of_another_host_is_respected_until_its_lock_is_broken(path, digest):
    for k in (1, 2, 3, 4):
        write(path, f"{k}/4")
    (path / "journal/part-2-of-4.lock").write_text(ELSEWHERE)
    names = "part 2/4 of", "by process 7 on elsewhere", "--break-lock"
    for rival in ("2/4", "2/3", "whole"):
        with refuses("E-LOCK-HELD", *names, kind=StoreError):
            write(path, rival)
    with refuses("E-LOCK-HELD", *names, kind=StoreError):
        commit_parts(path)
    assert write(path, "1/4") == []
    with logged() as said:
        store = commit_parts(path, break_lock=True)
    assert said == ["Taking over the lock of process 7 on elsewhere, which is gone"]
    assert isinstance(store, FeatureStore)
    assert store.digest == digest


def test_the_whole_run_of_another_host_is_respected_by_parts(path):
    write(path, "1/4")
    (path / "journal/lock").write_text(ELSEWHERE)
    with refuses("E-LOCK-HELD", f"{path} is being written by process 7 on elsewhere"):
        write(path, "2/4")
    writer = StoreWriter(path, IDENTITY, LAYOUT, part=Part(2, 4), break_lock=True)
    with logged() as said, writer:
        assert said == ["Taking over the lock of process 7 on elsewhere, which is gone"]


def test_a_lock_that_was_cleared_away_before_it_counted_is_taken_again(path, monkeypatch):
    write(path, "1/4")
    lock, parts, cleared = path / "journal/part-2-of-4.lock", lock_module.started_parts, []

    def clear_first(store):
        if not cleared:  # as a process does that has held `lock` for a moment
            cleared.append(lock.unlink())
        return parts(store)

    monkeypatch.setattr(lock_module, "started_parts", clear_first)
    with writer_of(path, "2/4"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
        with refuses("E-LOCK-HELD", "part 2/4 of", kind=StoreError):
            write(path, "whole")


class TestUpdate:
    @pytest.fixture
    def store(self, path):
        """A finished store of 40 of the 60 ids."""
        shapes = dict(sorted(part_process.SHAPES.items())[:40])
        return write_encoded(path, IDENTITY, lay_out(Grids.of(shapes), 4), ENCODED)

    def write(self, path, *parts, most=None):
        store = FeatureStore.open(path)
        layout = update_layout(store, Grids.of(part_process.SHAPES))
        for part in parts:
            with StoreWriter(path, IDENTITY, layout, part=Part.parse(part), parent=store) as writer:
                for shard in writer.pending[:most]:
                    write_shard(path, IDENTITY, layout, shard, ENCODED)

    def test_a_finished_store_grows_in_parts(self, tmp_path, store):
        (store.path / LAYOUT.shards[2].path("grid")).unlink()  # which is written again
        self.write(store.path, "2/3", "1/3")
        assert FeatureStore.open(store.path).digest == store.digest
        self.write(store.path, "3/3")
        grown = finished(store.path)
        assert len(grown) == 60
        assert grown.metadata.parents == (store.digest,)
        whole = write_encoded(tmp_path / "t", IDENTITY, LAYOUT, ENCODED)
        assert grown.digest == whole.digest  # its first 40 ids fill their shards

    def test_a_repair_waits_for_parts(self, store):
        layout = update_layout(store, Grids.of(part_process.SHAPES))
        with (
            StoreWriter(store.path, IDENTITY, layout, part=Part(1, 2), parent=store),
            refuses("E-LOCK-HELD", "part 1/2 of", kind=StoreError),
        ):
            repair(store.path)

    def test_a_journal_that_was_left_is_for_finish_to_remove(self, store):
        (store.path / "journal").mkdir()
        (store.path / "journal/plan.json").write_text(
            json.dumps({"identity": {}, "shard_records": 4, "layout": "0" * 64, "parent": None,
                        "again": [], "shards": 1, "ids": 1})
        )  # fmt: skip
        with refuses("E-PLAN-LEFTOVER", f"clipfeat store finish {store.path}", kind=StoreError):
            self.write(store.path, "1/2")
        assert commit_parts(store.path).digest == store.digest  # pyright: ignore
        self.write(store.path, "1/2", "2/2")
        assert len(finished(store.path)) == 60

    def test_a_part_that_comes_when_all_is_finished_leaves_nothing(self, store):
        layout = update_layout(store, Grids.of(part_process.SHAPES))
        self.write(store.path, "1/1")
        commit_parts(store.path)
        with (
            refuses("E-STORE-OVERTAKEN", kind=StoreError),
            StoreWriter(store.path, IDENTITY, layout, part=Part(1, 2), parent=store),
        ):
            pass
        assert verify(store.path) == []
