"""Shards are committed by a thread of their own: how many are in hand, and what an error does."""

import errno
import threading

import pytest
from small_world import FIRST, write
from small_world_in_batches import write_in_batches

from clipfeat.featstore.writing.journal import Journal
from clipfeat.featstore.writing.writer import ShardTransaction

SHARDS = 3  # of the small store


def test_a_shard_is_written_while_the_one_before_is_committed(tmp_path, monkeypatch):
    begun, committed, most = [threading.Event() for _ in range(SHARDS)], [], []
    begin, write_receipt = ShardTransaction.__init__, Journal.write_receipt

    def begin_and_tell(self, *about):
        begin(self, *about)
        number = sum(event.is_set() for event in begun)
        begun[number].set()
        most.append(number + 1 - len(committed))

    def write_when_the_next_has_begun(self, receipt):
        assert begun[min(receipt.shard + 1, SHARDS - 1)].wait(timeout=60)
        write_receipt(self, receipt)
        committed.append(receipt.shard)

    monkeypatch.setattr(ShardTransaction, "__init__", begin_and_tell)
    monkeypatch.setattr(Journal, "write_receipt", write_when_the_next_has_begun)
    store = write_in_batches(tmp_path / "s", FIRST)
    assert committed == [0, 1, 2]
    assert max(most) == 2
    monkeypatch.undo()
    assert store.digest == write(tmp_path / "alone", FIRST).digest


def test_an_error_of_a_commit_stops_the_run_and_the_next_one_resumes(tmp_path, monkeypatch):
    write_receipt = Journal.write_receipt

    def full(self, receipt):
        if receipt.shard == 1:
            raise OSError(errno.ENOSPC, "No space left on device", str(self.folder))
        write_receipt(self, receipt)

    monkeypatch.setattr(Journal, "write_receipt", full)
    with pytest.raises(OSError, match="No space left"):
        write_in_batches(tmp_path / "s", FIRST)
    receipts = sorted(path.name for path in (tmp_path / "s/journal").glob("0*.receipt"))
    assert receipts == ["00000000.receipt"]
    assert not list(tmp_path.rglob("*.tmp"))
    monkeypatch.undo()
    digest = write_in_batches(tmp_path / "s", FIRST).digest
    assert digest == write(tmp_path / "alone", FIRST).digest
