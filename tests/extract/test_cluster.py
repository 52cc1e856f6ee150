"""`clipfeat extract --scheduler`: a real scheduler and real workers, which get killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from distributed import Client
from pictures import write_photographs
from refused import refuses

from clipfeat.base.errors import ExtractError, ExtractUsageError
from clipfeat.extract import ExtractConfig, extract_images
from clipfeat.extract.executors.cluster import (
    check_devices,
    check_versions,
    cores_of_each,
    piece_size,
    portable_spec,
    survey,
)
from clipfeat.extract.executors.cluster_worker import DeviceFacts
from clipfeat.extract.planning.plan import BackboneSpec
from clipfeat.featstore.audit.verify import verify
from clipfeat.featstore.layout import Part
from clipfeat.manifests import folder_manifest

IMAGES = 28


def test_workers_are_told_absolute_paths_and_tags_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openai").mkdir()
    (tmp_path / "mine.json").touch()
    tag = BackboneSpec("RN50", "openai", 0, "float32")
    assert portable_spec(tag, is_place=False) == tag
    place = BackboneSpec(None, "local-dir:openai", 0, "float32", "mine.json")
    found = portable_spec(place, is_place=True)
    assert found.pretrained == f"local-dir:{tmp_path}/openai"
    assert found.model_config == str(tmp_path / "mine.json")


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
    file = folder / "scheduler.json"
    processes = []

    def start(role, *options):
        command = [sys.executable, "-m", "dask", role, "--host", "127.0.0.1", "--no-dashboard"]
        command += ["--dashboard-address", ":0", "--scheduler-file", str(file), *options]
        with (folder / "log").open("a") as log:
            processes.append(subprocess.Popen(command, cwd=folder, stdout=log, stderr=log))

    try:
        start("scheduler", "--port", "0")
        while (address := address_in(file)) is None:
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
            "--recipe", "square:64", "--batch-size", "2", "--shard-size", "4",
            "--decoders", "1", "--json", *more)  # fmt: skip


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
    config = {"scheduler": client.scheduler.address, "recipe": "square:64", "shard_size": 8,
              "batch_size": 8, "pretrained": "none"}  # fmt: skip
    config = ExtractConfig(model="RN50", **{**config, **changes})
    return extract_images(folder_manifest(images), out, config)


def test_a_cluster_without_workers_is_refused(scheduler):
    client, _ = scheduler
    with refuses("E-CLUSTER-EMPTY", "dask worker tcp://", kind=ExtractUsageError):
        survey(client)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "code", "name"),
    [
        ({"scheduler": "nonsense"}, "E-CLUSTER-ADDRESS", "missing port number"),
        ({"scheduler": "tcp://127.0.0.1:1"}, "E-CLUSTER-ADDRESS", "Timed out"),
        ({"device": "cpu"}, "E-CONFIG-CONFLICT", "--device"),
        ({"procs": 2}, "E-CONFIG-CONFLICT", "--procs"),
        ({"part": Part(1, 2)}, "E-CONFIG-CONFLICT", "--shard-range"),
    ],
)
def test_what_cannot_be_met_touches_nothing(
    images, cluster, tmp_path, monkeypatch, changes, code, name
):
    monkeypatch.setattr("clipfeat.extract.executors.cluster.CONNECT_SECONDS", 0.5)
    with refuses(code, name, kind=ExtractUsageError):
        run(images, tmp_path / "s", cluster, **changes)
    assert not (tmp_path / "s").exists()


def test_workers_must_be_alike():
    here = {"clipfeat": "0.1.0", "torch": "2.6"}
    check_versions(here, {"worker a": here})
    with refuses("E-CLUSTER-VERSION", "worker b has torch 2.7, this process 2.6"):
        check_versions(here, {"worker a": here, "worker b": {**here, "torch": "2.7"}})
    with refuses("E-CLUSTER-VERSION", "the scheduler has no clipfeat, this process 0"):
        check_versions(here, {"the scheduler": {**here, "clipfeat": None}})
    cpu, one, two = (
        DeviceFacts("cpu", "", 8),
        DeviceFacts("cuda", "GPU-1", 8),
        DeviceFacts("cuda", "GPU-2", 8),
    )
    assert (check_devices({"a": cpu, "b": cpu}), check_devices({"a": one, "b": two})) == (
        "cpu",
        "cuda",
    )
    with refuses("E-CLUSTER-DEVICE", "worker b has a GPU and worker a has none"):
        check_devices({"a": cpu, "b": one})
    with refuses("E-CLUSTER-DEVICE", "workers a and c"):
        check_devices({"a": one, "b": two, "c": one})


def test_workers_share_the_cores_that_they_have_in_common():
    whole, job = DeviceFacts("cpu", "", 8, tuple(range(8))), DeviceFacts("cpu", "", 2, (8, 9))
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
    with refuses("E-CLUSTER-PATH", "worker tcp://", "the store that is being", kind=ExtractError):
        run(images, Path("/proc/self/cwd/s"), cluster)
    assert not Path("s").exists()


@pytest.mark.slow
def test_a_worker_must_see_the_images(images, cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "clipfeat.extract.executors.cluster_worker.first_readable", lambda *_: ("p000.jpg", "00")
    )
    with refuses("E-CLUSTER-PATH", "the same image p000.jpg", kind=ExtractError):
        run(images, tmp_path / "s", cluster)


@pytest.mark.slow
def test_an_error_of_a_worker_stops_the_run_with_its_line(images, cluster, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model: Any = open_clip.create_model("RN50")
    model.visual.conv1.weight.data.zero_()
    torch.save(model.state_dict(), tmp_path / "blind.pt")
    monkeypatch.chdir(tmp_path)  # the workers are in another folder
    with refuses("E-FEATURES-EQUAL", "of 8 different images", " (on ", kind=ExtractError):
        run(images, Path("s"), cluster, pretrained="blind.pt")
    assert not Path("s").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, -9), (signal.SIGTERM, 143)],
)
def test_a_run_resumes_beside_what_is_left_of_one_that_was_ended(
    clipfeat, images, digest, cluster, tmp_path, number, code
):
    out, address = tmp_path / "s", cluster.scheduler.address
    line = clipfeat.start(*extract(images, out, "--scheduler", address))
    line.wait_for("journal/0*.receipt", out)
    assert line.end(number) == code, line.errors
    assert "Traceback" not in line.errors
    done = clipfeat.run(*extract(images, out, "--scheduler", address))
    assert done.code == 0, done.errors
    assert json.loads(done.text)["digest"] == digest
    assert "images already extracted; resuming" in done.errors
    assert verify(out) == []
    assert not list(out.rglob("*.tmp"))


@pytest.mark.slow
def test_a_run_survives_the_death_of_a_worker(clipfeat, images, digest, cluster, tmp_path):
    out = tmp_path / "s"
    pids = cluster.run(os.getpid)
    line = clipfeat.start(*extract(images, out, "--scheduler", cluster.scheduler.address))
    line.wait_for("journal/0*.receipt", out)
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
    line.wait_for("journal/0*.receipt", out)
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    assert line.wait() == 1
    assert "Error: workers that had been given shard " in last_line(line)
    assert ", 4 images ('p0" in last_line(line)
