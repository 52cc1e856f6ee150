"""What a GPU is asked for, and in which order: on stand-ins, as no GPU is here."""

import contextlib
import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pictures import write_photographs
from towers import pixels_of, recipe_of

from clipfeat.base import machine
from clipfeat.base.errors import ExtractError
from clipfeat.extract import ExtractConfig, extract_images
from clipfeat.extract.backbones import backbone as precision
from clipfeat.extract.backbones import weights
from clipfeat.extract.backbones.backbone import Backbone, choose_batch_size
from clipfeat.extract.backbones.weights import load_backbone
from clipfeat.extract.executors import processes as executors
from clipfeat.extract.executors.pipeline import FeatureStream
from clipfeat.extract.planning.plan import BackboneSpec
from clipfeat.extract.planning.recipe import Preprocess, make_recipe
from clipfeat.manifests import folder_manifest

MB = 1_000_000
CLIP = Preprocess(64, "shortest", "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
RECIPE = make_recipe("square:64", CLIP, (32, 32))


def stand_in(grids=None):
    """Return what is taken for a backbone on a GPU."""
    backbone: Any = Backbone.__new__(Backbone)
    backbone.device = torch.device("cuda", 0)
    backbone.grids = grids
    return backbone


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(BackboneSpec("RN50", "none", 0, "float32"), "cpu")[0]


class Runtime:
    """CUDA's runtime: a refused call leaves an error that the next kernel raises, once."""

    def __init__(self, refusal: int):
        self.refusal, self.pending = refusal, 0
        self.registered: set[int] = set()

    def cudaHostRegister(self, address, size, flags):
        assert (size, flags) == (10, 0)
        self.pending = self.refusal
        if not self.refusal:
            self.registered.add(address)
        return self.refusal

    def cudaHostUnregister(self, address):
        self.registered.remove(address)

    def kernel(self, *_, **__):
        error, self.pending = self.pending, 0
        if error:
            raise RuntimeError(f"CUDA error: {error}")


def stream_on(runtime, monkeypatch):
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch, "zeros", runtime.kernel)
    return FeatureStream(stand_in(), RECIPE, "float16")


@pytest.mark.parametrize("refusal", [0, 1, 801])  # 801: cudaErrorNotSupported
def test_memory_that_the_system_does_not_pin_costs_a_line_and_no_kernel(refusal, monkeypatch):
    runtime = Runtime(refusal)
    stream = stream_on(runtime, monkeypatch)
    memory = np.zeros(10, np.uint8)
    with stream.reading(memory) as warning:
        runtime.kernel()  # raises what is pending
        assert runtime.registered == (set() if refusal else {memory.ctypes.data})
        assert bool(warning) == bool(refusal)
        assert f"error {refusal}" in warning or not refusal
    assert runtime.registered == set()


def test_the_probe_measures_after_a_pass_that_makes_what_all_share(monkeypatch):
    """An image costs 100 MB, a workspace of 2,000 MB is made by the first pass and kept."""
    free, used, peak, sizes = 14_000 * MB, 0, 0, []

    def grids(pixels, _):
        nonlocal used, peak
        used = 2_000 * MB
        peak = max(peak, used + 100 * MB * len(pixels))
        sizes.append(len(pixels))

    def reset(_):
        nonlocal peak
        peak = used

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: used)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: peak)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free - used, free))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    # 0.8 x 12,000 MB are 96 images. With the workspace in the first of two peaks, images would
    # have seemed to cost less than nothing.
    assert choose_batch_size(stand_in(grids), RECIPE, (448, 448)) == 64
    assert sizes == [4, 4, 8]

    def full(*_):
        raise torch.OutOfMemoryError

    assert choose_batch_size(stand_in(full), RECIPE, (448, 448)) == 1


def flags():
    """Return every switch; "mixed" where torch says that old and new ones contradict."""
    backends: Any = torch.backends
    matmul, cudnn = backends.cuda.matmul, backends.cudnn
    kinds = (matmul, cudnn.conv, cudnn.rnn, backends.mkldnn.matmul, backends.mkldnn.conv)
    found = [kind.fp32_precision for kind in kinds]
    for read in (
        lambda: matmul.allow_tf32,
        lambda: cudnn.allow_tf32,
        lambda: matmul.allow_fp16_reduced_precision_reduction,
        lambda: matmul.allow_bf16_reduced_precision_reduction,
    ):
        try:
            found.append(read())
        except RuntimeError:
            found.append("mixed")
    return found


@pytest.fixture
def switches():
    """Put the switches back that a test sets."""
    backends: Any = torch.backends
    yield backends
    backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = True
    backends.mkldnn.conv.fp32_precision = "none"


FULL = [*["ieee"] * 5, *[False] * 4]


def test_float32_is_float32_inside_the_forward_pass(backbone):
    seen, before = [], flags()
    hook = backbone.tower.visual.layer4.register_forward_hook(lambda *_: seen.append(flags()))
    backbone.grids(pixels_of((64, 64)), recipe_of(backbone))
    hook.remove()
    assert seen == [FULL]
    assert flags() == before != FULL


@pytest.mark.parametrize("setting", ["tf32 for matrices", "old and new names", "tf32 for all"])
def test_what_a_script_has_asked_of_float32_comes_back(switches, setting):
    if setting == "tf32 for matrices":
        torch.set_float32_matmul_precision("medium")
    elif setting == "old and new names":
        switches.cuda.matmul.fp32_precision = "tf32"
        switches.cudnn.conv.fp32_precision = "ieee"
    else:
        switches.fp32_precision = "tf32"
    before = flags()
    with precision.full_precision():
        assert flags() == FULL
    assert flags() == before


@pytest.mark.parametrize("times", [0.5, 1.2, 20.0])
def test_a_precision_that_a_processor_only_emulates_is_said(monkeypatch, times):
    monkeypatch.setattr(machine, "_seconds", lambda dtype: 1.0 if dtype == torch.float32 else times)
    warning = precision.slow_precision("bfloat16", "cpu")
    assert (warning is None) == (times < 1.5)
    assert warning is None or "20.0 times as fast in float32" in warning
    assert precision.slow_precision("float32", "cpu") is None
    assert precision.slow_precision("float16", "cuda:0") is None


def test_this_process_touches_no_gpu_where_others_have_them(tmp_path, monkeypatch):
    """The processes start before anything is loaded, and the first is asked for the batch."""
    manifest = folder_manifest(write_photographs(tmp_path / "images", 3))
    events = []

    class Process:
        """What is said to a process; it answers the one question that there is."""

        def __init__(self, device, threads):
            self.device, self.connection = device, self
            events.append(f"start {device}")

        def send(self, message):
            events.append(f"{type(message).__name__} {self.device}")

        def recv(self):
            return 4

        def end(self):
            events.append(f"end {self.device}")

    def load_here(spec, device):
        events.append(f"here {device} {spec.precision}")
        return load_backbone(spec, device)

    def touched(*_):
        raise AssertionError("this process has touched a GPU")

    def enough(_):
        raise ExtractError("enough")

    monkeypatch.setattr(executors, "Worker", Process)
    monkeypatch.setattr(executors, "wait", enough)
    monkeypatch.setattr(weights, "load_backbone", load_here)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "_lazy_init", touched)
    config = ExtractConfig(model="RN50", pretrained="none", recipe="square:64", gpus="2",
                           shard_size=4)  # fmt: skip
    with pytest.raises(ExtractError, match="enough"):
        extract_images(manifest, tmp_path / "s", config)
    assert events[:8] == [
        "start cuda:0",
        "start cuda:1",
        "here cpu float16",
        "BackboneSpec cuda:0",
        "BackboneSpec cuda:1",
        "Probe cuda:0",
        "Job cuda:0",
        "Job cuda:1",
    ]
    assert set(events[8:]) == {"end cuda:0", "end cuda:1"}


@pytest.mark.parametrize("near", [frozenset({2, 3}), frozenset()])
def test_a_process_stays_near_its_gpu(near, monkeypatch):
    asked, bound = [], []
    cards = [SimpleNamespace(pci_domain_id=0, pci_bus_id=bus, pci_device_id=0) for bus in (27, 61)]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", cards.__getitem__)
    monkeypatch.setattr(executors, "cores_near", lambda *about: asked.append(about) or near)
    monkeypatch.setattr(os, "sched_setaffinity", lambda *how: bound.append(how))
    executors.stay_near("cpu", 8)
    executors.stay_near("cuda:1", 8)
    gpus = ["0000:1b:00.0", "0000:3d:00.0"]
    assert asked == [(gpus[1], gpus, 8)]
    assert bound == [(0, near)] * bool(near)


@pytest.mark.parametrize("set_by_user", [None, "backend:cudaMallocAsync"])
def test_a_process_of_a_gpu_has_segments_that_grow_unless_the_user_decides(
    set_by_user, monkeypatch
):
    name = "PYTORCH_CUDA_ALLOC_CONF"
    monkeypatch.delenv(name, raising=False)
    if set_by_user:
        monkeypatch.setenv(name, set_by_user)
    with executors._environment(executors.ALLOCATOR):
        assert os.environ[name] == (set_by_user or "expandable_segments:True")
    assert os.environ.get(name) == set_by_user
