"""Worker processes that die: another takes their shard, and three deaths name the images."""

import os
import signal

import pytest
from forks import FORKS
from logged import logged
from pictures import write_photographs
from refused import refuses

from clipfeat.base.errors import ExtractError
from clipfeat.extract import ExtractConfig, extract_images
from clipfeat.extract.executors import processes as executors
from clipfeat.featstore.audit.verify import verify
from clipfeat.manifests import folder_manifest

IMAGES = 20

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return folder_manifest(write_photographs(tmp_path_factory.mktemp("images"), IMAGES))


def run(manifest, out, **changes):
    config = ExtractConfig(model="RN50", pretrained="none", recipe="square:64", device="cpu",
                           batch_size=4, shard_size=8, decoders=1, **changes)  # fmt: skip
    with logged() as lines:
        return extract_images(manifest, out, config), lines


@pytest.fixture(autouse=True)
def _forked_workers(monkeypatch):
    """Workers fork from a process that has imported torch; test_extraction has spawned ones."""
    monkeypatch.setattr(executors.mp, "get_context", lambda _: FORKS)


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
    died = "a worker process on cpu died (exit code -9; out of memory?); its unfinished shards"
    assert sum(line.startswith(died) for line in said) == 1
    assert report.store.digest == alone.store.digest
    assert (report.images, report.bytes) == (alone.images, alone.bytes) == (IMAGES, alone.bytes)
    assert verify(report.store.path) == []


def test_three_deaths_over_a_shard_stop_the_run_and_name_its_images(manifest, tmp_path, killer):
    killer[2] = 3
    names = ("exit code -9", "3 have died", "4 images ('p016', 'p017', 'p018' ... 'p019')")
    with refuses("E-WORKER-DIED", *names, kind=ExtractError):
        run(manifest, tmp_path / "s", procs=2)
    killer.clear()
    assert run(manifest, tmp_path / "s", procs=1)[0].images < IMAGES  # the other shards are written


def test_four_processes_in_bfloat16_make_the_store_of_one(manifest, tmp_path):
    one, _ = run(manifest, tmp_path / "one", procs=1, precision="bfloat16")
    four, _ = run(manifest, tmp_path / "four", procs=4, precision="bfloat16")
    assert four.store.digest == one.store.digest
