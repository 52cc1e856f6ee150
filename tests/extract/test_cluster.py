"""`clipfeat extract --scheduler`: a real scheduler and real workers, which get killed."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from distributed import Client
from pictures import write_photographs

from clipfeat.base.errors import ExtractError, ExtractUsageError
from clipfeat.extract.api import extract_images
from clipfeat.extract.config import Request
from clipfeat.extract.executors.cluster import (
    check_devices,
    check_versions,
    cores_of_each,
    piece_size,
    survey,
)
from clipfeat.extract.executors.cluster_worker import Facts
from clipfeat.featstore.audit.verify import verify
from clipfeat.featstore.layout import Part
from clipfeat.manifests import folder_manifest

IMAGES = 28


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("images"), IMAGES)


def address_in(scheduler_file):
    """Return what a scheduler's file says; None while it is not there, or empty yet."""
    try:
        return json.loads(scheduler_file.read_text())["address"]
    except (FileNotFoundError, json.JSONDecodeError):
        return None


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """A client of a scheduler on the loopback device, and how to start a worker."""
    folder = tmp_path_factory.mktemp("cluster")
    where = folder / "scheduler.json"
    processes = []

    def start(what, *options):
        command = [sys.executable, "-m", "dask", what, "--host", "127.0.0.1", "--no-dashboard"]
        command += ["--dashboard-address", ":0", "--scheduler-file", str(where), *options]
        with (folder / "log").open("a") as log:
            processes.append(subprocess.Popen(command, cwd=folder, stdout=log, stderr=log))

    try:
        start("scheduler", "--port", "0")
        while (address := address_in(where)) is None:
            assert processes[0].poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        with Client(address, set_as_default=False) as client:
            yield client, start
    finally:
        for process in processes:
            process.kill()  # a worker ends with its nanny
            process.wait()


@pytest.fixture(scope="module")
def cluster(scheduler, tmp_path_factory):
    """A client of a scheduler with two workers."""
    client, start = scheduler
    folder = str(tmp_path_factory.mktemp("scratch"))
    for _ in range(2):
        start("worker", "--nthreads", "1", "--memory-limit", "0", "--local-directory", folder)
    client.wait_for_workers(2, timeout=60)
    return client


def extract(images, out, *more):
    return ("extract", "--images", images, "--out", out, "--model", "RN50", "--pretrained", "none",
            "--recipe", "square:64", "--batch-size", "2", "--shard-size", "4", "--json",
            *more)  # fmt: skip


@pytest.fixture(scope="module")
def digest(clipfeat, images, tmp_path_factory):
    """The digest of a run without a cluster."""
    out = tmp_path_factory.mktemp("whole") / "s"
    done = clipfeat.run(*extract(images, out, "--device", "cpu"))
    assert done.code == 0, done.errors
    return json.loads(done.text)["digest"]


def last_line(line):
    assert "Traceback" not in line.errors
    return line.errors.strip().splitlines()[-1]


def run(images, out, client, **changes):
    request = Request("RN50", "none", recipe="square:64", shard_size=8, batch_size=8,
                      scheduler=client.scheduler.address)  # fmt: skip
    return extract_images(folder_manifest(images), out, replace(request, **changes), say=print)


def test_a_cluster_without_workers_is_refused(scheduler):
    client, _ = scheduler
    with pytest.raises(ExtractUsageError, match="no workers; start some with: dask worker tcp://"):
        survey(client)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"scheduler": "nonsense"}, "no dask scheduler can be reached there .missing port number"),
        ({"scheduler": "tcp://127.0.0.1:1"}, "no dask scheduler can be reached there .Timed out"),
        ({"device": "cpu"}, "drop --gpus, --device and --procs"),
        ({"procs": 2}, "drop --gpus, --device and --procs"),
        ({"part": Part(1, 2)}, "--scheduler and --shard-range exclude each other; drop one"),
    ],
)
def test_what_cannot_be_met_touches_nothing(images, cluster, tmp_path, monkeypatch, changes, why):
    monkeypatch.setattr("clipfeat.extract.executors.cluster.CONNECT_SECONDS", 0.5)
    with pytest.raises(ExtractUsageError, match=why):
        run(images, tmp_path / "s", cluster, **changes)
    assert not (tmp_path / "s").exists()


def test_workers_must_be_alike():
    own = {"clipfeat": "0.1.0", "torch": "2.6"}
    check_versions(own, {"worker a": own})
    with pytest.raises(ExtractUsageError, match=r"worker b has torch 2\.7, this process 2\.6"):
        check_versions(own, {"worker a": own, "worker b": {**own, "torch": "2.7"}})
    with pytest.raises(ExtractUsageError, match="the scheduler has no clipfeat, this process 0"):
        check_versions(own, {"the scheduler": {**own, "clipfeat": None}})
    cpu, one, two = Facts("cpu", "", 8), Facts("cuda", "GPU-1", 8), Facts("cuda", "GPU-2", 8)
    assert (check_devices({"a": cpu, "b": cpu}), check_devices({"a": one, "b": two})) == (
        "cpu",
        "cuda",
    )
    with pytest.raises(ExtractUsageError, match="worker b has a GPU and worker a has none"):
        check_devices({"a": cpu, "b": one})
    with pytest.raises(ExtractUsageError, match="workers a and c compute on the same GPU"):
        check_devices({"a": one, "b": two, "c": one})


def test_workers_share_the_cores_that_they_have_in_common():
    whole, job = Facts("cpu", "", 8, tuple(range(8))), Facts("cpu", "", 2, (8, 9))
    assert cores_of_each({"a": ("node", whole), "b": ("node", whole)}) == 4
    assert cores_of_each({"a": ("node", whole), "b": ("other", whole)}) == 8
    assert cores_of_each({"a": ("node", whole), "b": ("node", job)}) == 2
    assert cores_of_each({str(k): ("node", job) for k in range(5)}) == 1


def test_pieces_shrink_towards_the_end():
    assert piece_size(80_000, 16, 0.1) == 300  # 30 s
    assert piece_size(400, 16, 0.1) == 12
    assert piece_size(1, 16, 0.1) == 1
    assert piece_size(80_000, 16, 100.0) == 1


@pytest.mark.slow
def test_a_worker_must_see_the_store(images, cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExtractError, match=r"worker tcp://.* does not see the store that is being"):
        run(images, Path("/proc/self/cwd/s"), cluster)
    assert not Path("s").exists()


@pytest.mark.slow
def test_a_worker_must_see_the_images(images, cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "clipfeat.extract.executors.cluster_worker.first_readable", lambda *_: ("p000.jpg", "00")
    )
    with pytest.raises(
        ExtractError, match=r"does not see the same image p000.jpg in .*; put the im"
    ):
        run(images, tmp_path / "s", cluster)


@pytest.mark.slow
def test_an_error_of_a_worker_stops_the_run_with_its_line(images, cluster, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model: Any = open_clip.create_model("RN50")
    model.visual.conv1.weight.data.zero_()
    torch.save(model.state_dict(), tmp_path / "blind.pt")
    monkeypatch.chdir(tmp_path)  # the workers are in another folder
    with pytest.raises(ExtractError, match=r"of 8 different images are all the .* \(on "):
        run(images, Path("s"), cluster, pretrained="blind.pt")
    assert not Path("s").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, -9), (signal.SIGTERM, 143)],
)
def test_a_run_goes_on_beside_what_is_left_of_one_that_was_ended(
    clipfeat, images, digest, cluster, tmp_path, number, code
):
    out, address = tmp_path / "s", cluster.scheduler.address
    line = clipfeat.start(*extract(images, out, "--scheduler", address))
    line.wait_for("journal/0*.json", out)
    assert line.end(number) == code, line.errors
    assert "Traceback" not in line.errors
    done = clipfeat.run(*extract(images, out, "--scheduler", address))
    assert done.code == 0, done.errors
    assert json.loads(done.text)["digest"] == digest
    assert "images are already down; going on" in done.errors
    assert verify(out) == []
    assert not list(out.rglob("*.tmp"))


@pytest.mark.slow
def test_a_run_survives_the_death_of_a_worker(clipfeat, images, digest, cluster, tmp_path):
    out = tmp_path / "s"
    pids = cluster.run(os.getpid)
    line = clipfeat.start(*extract(images, out, "--scheduler", cluster.scheduler.address))
    line.wait_for("journal/0*.json", out)
    os.kill(max(pids.values()), signal.SIGKILL)
    assert line.wait() == 0, line.errors
    report = json.loads(line.text)
    assert (report["digest"], report["images"]) == (digest, IMAGES)
    assert verify(out) == []
    cluster.wait_for_workers(2, timeout=60)  # its nanny starts another


@pytest.mark.slow
def test_workers_that_die_again_and_again_stop_the_run(clipfeat, images, cluster, tmp_path):
    """As the fourth death does by default; here the first does, to wait for no new workers."""
    out = tmp_path / "s"

    def allow_none(dask_scheduler):
        dask_scheduler.allowed_failures = 0

    cluster.run_on_scheduler(allow_none)
    pids = cluster.run(os.getpid)
    line = clipfeat.start(*extract(images, out, "--scheduler", cluster.scheduler.address))
    line.wait_for("journal/0*.json", out)
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    assert line.wait() == 1
    assert "Error: workers that had been given shard " in last_line(line)
    assert ", 4 images ('p0" in last_line(line)
