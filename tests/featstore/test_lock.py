"""One process writes a store at a time; everyone else is told who."""

import errno
import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from logged import logged
from refused import refuses
from small_world import FIRST, IDENTITY, layout_of, write, write_shard

from clipfeat.featstore import StoreError
from clipfeat.featstore.writing import lock as lock_module
from clipfeat.featstore.writing.lock import LockFile
from clipfeat.featstore.writing.writer import StoreWriter

HERE = socket.gethostname()
HOLD = """
import sys, time
from pathlib import Path
from clipfeat.featstore import StoreError
from clipfeat.featstore.writing.lock import LockFile
try:
    LockFile(Path(sys.argv[1]), "the store").acquire()
    print("held", flush=True)
    time.sleep(60)
except StoreError:
    print("refused", flush=True)
"""


def hold(path: Path) -> Any:
    """Start a process that takes the lock and says so."""
    command = [sys.executable, "-c", HOLD, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def path(tmp_path):
    (tmp_path / "journal").mkdir()
    return tmp_path / "journal" / "lock"


@pytest.fixture
def holder(path):
    with hold(path) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def elsewhere(path):
    holder = {"host": "elsewhere", "pid": 7, "since": "2026-11-23T10:00:00+00:00"}
    path.write_text(json.dumps(holder))
    long_ago = time.time() - 3600
    os.utime(path, (long_ago, long_ago))


@pytest.mark.parametrize("break_lock", [False, True])
def test_the_lock_of_a_living_process_here_is_never_taken(path, holder, break_lock):
    names = (
        f"the store is being written by process {holder.pid} on {HERE}, since ",
        "another folder",
    )
    with refuses("E-LOCK-HELD", *names, kind=StoreError) as refused:
        LockFile(path, "the store").acquire(break_lock=break_lock)
    assert re.search(r"last sign of life \d+ s ago", str(refused.value))


def test_the_lock_of_a_killed_process_here_is_taken_over(path, holder):
    holder.kill()
    holder.wait()
    lock = LockFile(path, "the store")
    assert lock.acquire() == f"process {holder.pid} on {HERE}"
    assert lock.is_held()
    lock.release()


def test_a_lock_that_was_released_has_no_holder(path):
    for _ in range(2):
        lock = LockFile(path, "the store")
        assert lock.acquire() is None
        lock.release()
        assert not lock.is_held()


def test_the_lock_of_another_host_is_broken_only_when_asked(path):
    elsewhere(path)
    names = "process 7 on elsewhere", "3600 s ago", "--break-lock"
    with refuses("E-LOCK-HELD", *names, kind=StoreError):
        LockFile(path, "the store").acquire()
    lock = LockFile(path, "the store")
    assert lock.acquire(break_lock=True) == "process 7 on elsewhere"
    assert lock.is_held()
    lock.release()


def test_a_writer_whose_lock_was_broken_does_not_finish(tmp_path, monkeypatch):
    path = tmp_path / "s"
    _, layout = layout_of(path, FIRST)
    with StoreWriter(path, IDENTITY, layout) as writer:
        for shard in writer.pending:
            write_shard(path, shard)
        monkeypatch.setattr(socket, "gethostname", lambda: "another host")
        with logged() as said:
            finished = write(path, break_lock=True)
        assert said == [f"Taking over the lock of process {os.getpid()} on {HERE}, which is gone"]
        with refuses("E-LOCK-BROKEN", kind=StoreError):
            writer.commit()
    assert write(path).digest == finished.digest


def test_the_heartbeat_touches_the_file(path, monkeypatch):
    monkeypatch.setattr(lock_module, "HEARTBEAT", 0.01)
    lock = LockFile(path, "the store")
    lock.acquire()
    os.utime(path, (0, 0))
    while not path.stat().st_mtime:
        time.sleep(0.01)
    lock.release()


def test_one_of_many_takes_a_stale_lock(path, holder):
    holder.kill()
    holder.wait()
    rivals = [hold(path) for _ in range(4)]
    assert sorted(rival.stdout.readline() for rival in rivals) == ["held\n"] + ["refused\n"] * 3
    for rival in rivals:
        rival.kill()
        rival.communicate()


@pytest.mark.parametrize(
    "content", ["", "garbage", "[]", '{"host": 1}', "x" * 10**7, "[" * 4000, '{"pid": null}']
)
def test_a_lock_file_that_says_nothing_is_nobodys(path, content):
    path.write_text(content)
    lock = LockFile(path, "the store")
    assert lock.acquire() is None
    lock.release()


def test_a_lock_that_is_a_link_is_not_followed(path, tmp_path):
    (tmp_path / "precious").write_text("thesis")
    path.symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="is a symbolic link") as refused:
        LockFile(path, "the store").acquire()
    assert (refused.value.errno, refused.value.filename) == (errno.ELOOP, str(path))
    assert (tmp_path / "precious").read_text() == "thesis"


def test_a_lock_that_is_a_hard_link_does_not_empty_the_other_file(path, tmp_path):
    (tmp_path / "precious").write_text("thesis")
    path.hardlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="is a hard link") as refused:
        LockFile(path, "the store").acquire()
    assert (refused.value.errno, refused.value.filename) == (errno.EMLINK, str(path))
    assert (tmp_path / "precious").read_text() == "thesis"


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("failing", ["ftruncate", "pwrite", "fsync", "thread", "flock"])
def test_a_lock_that_could_not_be_taken_is_free(path, monkeypatch, failing):
    """Its descriptor would hold the flock for as long as this process lives."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = open_files()
    with monkeypatch.context() as patched:
        if failing == "thread":
            patched.setattr(threading.Thread, "start", full)
        elif failing == "flock":
            patched.setattr(fcntl, "flock", full)
        else:
            patched.setattr(os, failing, full)
        with pytest.raises(OSError, match="No space left on device") as refused:
            LockFile(path, "the store").acquire()
    assert refused.value.filename == str(path)
    assert open_files() == before
    with hold(path) as process:
        assert process.stdout.readline() == "held\n"
        process.kill()


def test_a_lock_that_is_refused_keeps_no_file_open(path, holder):
    before = open_files()
    for _ in range(3):
        with refuses("E-LOCK-HELD"):
            LockFile(path, "the store").acquire()
    assert open_files() == before
