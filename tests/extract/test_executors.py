"""Worker processes that die: their shard is done by another, and three deaths name the images."""

import os
import signal

import pytest
from pictures import write_photographs

from clipfeat.base.errors import ExtractError
from clipfeat.extract.api import extract_images
from clipfeat.extract.config import Request
from clipfeat.extract.executors import processes as executors
from clipfeat.featstore.audit.verify import verify
from clipfeat.manifests import folder_manifest

IMAGES = 20

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return folder_manifest(write_photographs(tmp_path_factory.mktemp("images"), IMAGES))


def run(manifest, out, procs, precision="float32"):
    request = Request(model="RN50", pretrained="none", recipe="square:64", device="cpu",
                      procs=procs, precision=precision, batch_size=4, shard_size=8)  # fmt: skip
    said = []
    return extract_images(manifest, out, request, say=said.append), said


@pytest.fixture
def killer(monkeypatch):
    """Kill the worker that is given a shard of these numbers, so many times each."""
    left: dict[int, int] = {}
    give = executors.Worker.give

    def give_and_kill(self, task):
        give(self, task)
        if task is not None and left.get(task.shard.number, 0):
            left[task.shard.number] -= 1
            os.kill(self._process.pid, signal.SIGKILL)

    monkeypatch.setattr(executors.Worker, "give", give_and_kill)
    return left


def test_the_shard_of_a_dead_worker_is_done_by_another(manifest, tmp_path, killer):
    alone, _ = run(manifest, tmp_path / "alone", procs=1)
    killer[1] = 1
    report, said = run(manifest, tmp_path / "two", procs=2)
    assert killer == {1: 0}
    died = (
        "a worker process on cpu died (exit code -9; out of memory?); what it had in hand is done"
    )
    assert sum(line.startswith(died) for line in said) == 1
    assert report.store.digest == alone.store.digest
    assert (report.images, report.bytes) == (alone.images, alone.bytes) == (IMAGES, alone.bytes)
    assert verify(report.store.path) == []


def test_three_deaths_over_a_shard_stop_the_run_and_name_its_images(manifest, tmp_path, killer):
    killer[2] = 3
    why = (
        r"a worker process on cpu died \(exit code -9; .*; 3 have died over the same 4 images "
        r"\('p016', 'p017', 'p018' ... 'p019'\), so the run stops"
    )
    with pytest.raises(ExtractError, match=why):
        run(manifest, tmp_path / "s", procs=2)
    killer.clear()
    assert run(manifest, tmp_path / "s", procs=1)[0].images < IMAGES  # the other shards are down


def test_four_processes_in_bfloat16_make_the_store_of_one(manifest, tmp_path):
    one, _ = run(manifest, tmp_path / "one", procs=1, precision="bfloat16")
    four, _ = run(manifest, tmp_path / "four", procs=4, precision="bfloat16")
    assert four.store.digest == one.store.digest
