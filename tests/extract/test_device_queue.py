"""What a GPU is given to do: nothing waits for it, and it may do all of it as late as it likes."""

import contextlib
import threading
from concurrent.futures import wait
from typing import Any

import numpy as np
import pytest
import torch
from late_device import LateDevice, Stream
from PIL import Image
from stores import make_identity
from torch.utils._python_dispatch import TorchDispatchMode
from towers import backbone_around, pixels_of, recipe_of, stock_model

from clipfeat.extract import ExtractConfig
from clipfeat.extract.backbones.backbone import Backbone
from clipfeat.extract.executors.pipeline import AHEAD, FeatureStream, run_tasks
from clipfeat.extract.pixels.decoding import Decoders, PendingBatch
from clipfeat.extract.planning.plan import BackboneSpec, Batching, Job, plan_grids, shard_tasks
from clipfeat.extract.planning.recipe import Preprocess, make_recipe
from clipfeat.featstore.layout import lay_out
from clipfeat.featstore.writing.writer import StoreWriter
from clipfeat.manifests import folder_manifest

BATCHES, IN_BATCH, SIDE, CELL = 8, 4, 64, 32


class Pixels(Backbone):
    """A backbone on the late device: the features of a cell are the pixel in its corner."""

    def __init__(self):
        self.device = torch.device("cuda", 0)

    def grids(self, pixels, recipe):
        return pixels[:, ::CELL, ::CELL].float(), None


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Images of one colour each, which tells their batch and their place in it."""
    folder = tmp_path_factory.mktemp("colours")
    for number in range(BATCHES * IN_BATCH):
        colour = (1 + number // IN_BATCH, 1 + number % IN_BATCH, 7)
        Image.new("RGB", (SIDE, SIDE), colour).save(folder / f"{number:03}.png")
    return folder_manifest(folder)


class Pace:
    """Holds the host back until all that may happen before a batch is asked for has happened."""

    def __init__(self, monkeypatch):
        self._begun, self._waited = 0, 0
        self._decoding: list[PendingBatch] = []
        self._changed = threading.Condition()
        submit, compute = Decoders.submit, FeatureStream.compute

        def followed(*asked):
            self._decoding.append(submit(*asked))
            return self._decoding[-1]

        def counted(*asked):
            pending = compute(*asked)
            with self._changed:
                self._begun += 1
                self._changed.notify()
            return pending

        monkeypatch.setattr(Decoders, "submit", followed)
        monkeypatch.setattr(FeatureStream, "compute", counted)

    def hold(self):
        self._waited += 1
        last = min(BATCHES, self._waited + AHEAD)
        with self._changed:
            assert self._changed.wait_for(lambda: self._begun >= last, timeout=60)
        wait([future for each in tuple(self._decoding) for future in each.futures])


def wrong_batches(manifest, out, monkeypatch, mutate=lambda _: None):
    """Return how many batches come out wrong from a device that is as late as it may be."""
    native = Preprocess(SIDE, "squash", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    recipe = make_recipe("model", native, (CELL, CELL))
    identity = make_identity(3, recipe=recipe.to_json())
    layout = lay_out(plan_grids(manifest, recipe, (CELL, CELL)), IN_BATCH)
    config = ExtractConfig(model="RN50")
    job = Job(
        store=out, image_root=manifest.root, backbone=BackboneSpec("RN50", "none", 0, "float32"),
        recipe=recipe, identity=identity, shard_records=layout.shard_records,
        batching=Batching(IN_BATCH, None), picture_bytes=3 * SIDE**2, decoders=1, threads=2,
        libraries={}, config=config,
    )  # fmt: skip
    device = LateDevice(monkeypatch, Pace(monkeypatch).hold)
    monkeypatch.setattr(FeatureStream, "reading", lambda *_: contextlib.nullcontext(""))
    mutate(device)
    with StoreWriter(out, identity, layout) as writer, device:
        list(run_tasks(shard_tasks(manifest, writer.pending, recipe), job, Pixels()))
        store = writer.commit()
    wrong = set()
    for number in range(BATCHES * IN_BATCH):
        batch, place = divmod(number, IN_BATCH)
        expected = np.broadcast_to((1 + batch, 1 + place, 7), (2, 2, 3))
        if not np.array_equal(store[f"{number:03}"], expected):
            wrong.add(batch)
    return len(wrong)


def test_a_device_that_is_as_late_as_it_may_be_gives_each_image_its_own_features(
    colours, tmp_path, monkeypatch
):
    assert wrong_batches(colours, tmp_path / "s", monkeypatch) == 0


def free_slots_early(monkeypatch, _):
    release, result = PendingBatch.release, PendingBatch.result

    def early(self):
        release(self)
        return result(self)

    monkeypatch.setattr(PendingBatch, "result", early)
    monkeypatch.setattr(PendingBatch, "release", lambda _: None)


def compute_without_waiting(monkeypatch, device):
    wait_event = Stream.wait_event
    computing = torch.cuda.current_stream(device)
    monkeypatch.setattr(
        Stream, "wait_event", lambda s, e: None if s is computing else wait_event(s, e)
    )


def copy_without_waiting(monkeypatch, device):
    wait_event = Stream.wait_event
    computing = torch.cuda.current_stream(device)
    monkeypatch.setattr(
        Stream, "wait_event", lambda s, e: wait_event(s, e) if s is computing else None
    )


@pytest.mark.parametrize(
    "mutant", [free_slots_early, compute_without_waiting, copy_without_waiting]
)
def test_the_late_device_finds_what_does_not_wait(mutant, colours, tmp_path, monkeypatch):
    def mutate(device):
        mutant(monkeypatch, device)

    assert wrong_batches(colours, tmp_path / "s", monkeypatch, mutate) > BATCHES / 2


class NoWaits(TorchDispatchMode):
    """Raises where something from the host would be copied to the device and waited for.

    The other direction raises by itself: a tensor on the device "meta" has no numbers, so `item`,
    `cpu`, `nonzero` and a mask as an index fail.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name == "lift_fresh":  # of numbers in Python, by torch.tensor or a list as an index
            assert args[0].device.type != "meta", "a constant is copied to the device"
        tensors = [each for each in args if isinstance(each, torch.Tensor)]
        result = func(*args, **kwargs)
        if name in ("to", "_to_copy", "copy_") and result.device.type == "meta":
            on_host = any(each.device.type == "cpu" for each in tensors)
            assert not on_host or kwargs.get("non_blocking"), f"{name} waits for the device"
        return result


@pytest.mark.parametrize("name", ["RN50", "ViT-B-32", "ViT-B-16-SigLIP"])
@pytest.mark.parametrize("vector", [None, "embedding"])
def test_no_batch_but_the_first_has_the_host_wait(name, vector):
    backbone = on_meta(backbone_around(stock_model(name), name, "bfloat16"))
    recipe = recipe_of(backbone, vector=vector)
    stream = FeatureStream(backbone, recipe, "float16", "channels_first")
    pixels = pixels_of((96, 64)).numpy()
    stream.compute(pixels)  # fits the positions to the size, and makes the constants
    with NoWaits():
        arrays = stream.compute(pixels).arrays
    assert {array[0].device.type for array in arrays.values()} == {"meta"}


def on_meta(backbone):
    backbone.tower.visual.to("meta")
    backbone.device, backbone._threads = torch.device("meta"), None
    return backbone


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.amax().item(),
        lambda x: x.cpu(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x + torch.tensor([1.0], device=x.device),
        lambda x: x + torch.ones(1).to(x.device),
        lambda x: x.copy_(torch.ones(1)),
        lambda x: 1 if x.sum() > 0 else 0,
    ],
)
@pytest.mark.parametrize("inference", [False, True])
def test_whatever_waits_is_found(wait, inference):
    on_device = torch.ones(4, device="meta")
    failures = (AssertionError, NotImplementedError, RuntimeError)
    with torch.inference_mode(inference), NoWaits(), pytest.raises(failures):
        wait(on_device)
