"""Phases: are the features right, whatever the batch, the process and the order of copies."""

import collections
import contextlib
import json
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from clipfeat.extract import ExtractConfig, extract_images
from clipfeat.extract.backbones import backbone as precision_module
from clipfeat.extract.executors import pipeline
from clipfeat.extract.executors.pipeline import FeatureStream, PendingFeatures
from clipfeat.extract.planning.recipe import Preprocess, make_recipe
from clipfeat.extract.self_test import ALLOWED, changed_by_batch, deviation, load, make_reference
from clipfeat.manifests import folder_manifest
from clipfeat.train.tasks.settings import PRESETS

from .. import steps
from .setting import Setting

SIDE, BATCHES, SLOTS, ROWS = 64, 200, 3, 16
SLEEP_CYCLES = 2_000_000  # of the GPU's clock, some milliseconds
CLIP = Preprocess(SIDE, "shortest", "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
WAIT = "called a synchronizing CUDA operation"


def compare_with_cpu(setting: Setting, measured: dict[str, Any]) -> None:
    """Relative errors by model and precision, with TF32 too; batches that change an image's bits."""
    wrong: list[str] = []
    for model in ("RN50", "RN50x4", "ViT-B-32") if setting.on_gpu else ("ViT-S-32",):
        reference = make_reference(model)
        found: dict[str, Any] = {"error": {}, "changed_by_batch": {}}
        measured[model] = found
        for precision, allowed in ALLOWED.items():
            backbone = load(model, precision, setting.device)
            error = found["error"][precision] = deviation(backbone, reference)
            changed = found["changed_by_batch"][precision] = changed_by_batch(backbone, reference)
            if not error <= allowed or changed:
                wrong.append(f"{model} in {precision}")
            if precision == "float32" and setting.on_gpu:
                with tensor_float32():
                    found["error"]["tf32"] = deviation(backbone, reference)
    assert not wrong, f"wrong features: {', '.join(wrong)}"


@contextlib.contextmanager
def tensor_float32() -> Iterator[None]:
    """Let the GPU take TF32 in this block, which clipfeat does not."""
    try:
        with mock.patch.object(precision_module, "full_precision", contextlib.nullcontext):
            torch.set_float32_matmul_precision("high")
            yield
    finally:
        torch.set_float32_matmul_precision("highest")


def extract_again(setting: Setting, measured: dict[str, Any]) -> None:
    """The digest of the same images: from this process, and from two that are started for it."""
    model, count = ("RN50", 256) if setting.on_gpu else ("ViT-S-32", 8)
    images = setting.linked(count, "again")
    device = "cuda" if setting.on_gpu else "cpu"
    config = ExtractConfig(model=model, pretrained="none", recipe="square:224", device=device)
    store = extract_images(folder_manifest(images), setting.folder / "0.clipfeat", config).store
    digests = measured["digests"] = [store.digest]
    for run in ("1", "2"):
        out = setting.python(
            *("-m", "clipfeat.cli", "extract", "--model", model, "--pretrained", "none"),
            *("--recipe", "square:224", "--device", device, "--images", str(images)),
            *("--out", str(setting.folder / f"{run}.clipfeat"), "--json"),
        )
        digests.append(json.loads(out)["digest"])
    measured["images"] = count
    assert len(set(digests)) == 1, "the digests differ"


class MeanColour:
    """In place of a backbone: the mean colour of each image, after the GPU has slept."""

    def __init__(self, device: str):
        self.device = torch.device(device)

    def grids(self, pixels: Tensor, recipe: object) -> tuple[Tensor, None]:
        """Return (image, 1, 1, 3) colours."""
        torch.cuda._sleep(SLEEP_CYCLES)
        return pixels.to(self.device).float().mean(dim=(1, 2)).view(-1, 1, 1, 3), None


def delay_copies(setting: Setting, measured: dict[str, Any]) -> None:
    """200 batches of one colour each, with late copies; a slot is overwritten once it is free.

    Pixels that are read before they are there, or a slot that is given back too early, give
    another colour.
    """
    backbone: Any = MeanColour(setting.device)
    recipe = make_recipe(f"square:{SIDE}", CLIP, (SIDE, SIDE))
    stream: Any = FeatureStream(backbone, recipe, "float32")
    memory = np.zeros((SLOTS, ROWS, SIDE, SIDE, 3), np.uint8)
    to_pinned, wrong = pipeline._to_pinned, 0
    running: deque[tuple[int, np.ndarray, PendingFeatures]] = deque()

    def late(tensor: Tensor, copies: Any) -> Tensor:
        torch.cuda._sleep(SLEEP_CYCLES)
        return to_pinned(tensor, copies)

    def finish() -> int:
        number, slot, pending = running.popleft()
        features, _ = pending.result()
        slot[:] = 255  # as the decoders do with a slot that is free again
        return int((features["grid"].array != colour(number)).any())

    with mock.patch.object(pipeline, "_to_pinned", late), stream.reading(memory.ravel()) as said:
        for number in range(BATCHES):
            if len(running) == SLOTS:
                wrong += finish()
            slot = memory[number % SLOTS]
            slot[:] = colour(number)
            with torch.cuda.stream(stream._uploads):
                torch.cuda._sleep(SLEEP_CYCLES)
            running.append((number, slot, stream.compute(slot)))
        while running:
            wrong += finish()
    measured.update(batches=BATCHES, wrong=wrong, warning=said)
    assert not wrong, f"{wrong} of {BATCHES} batches have another colour"


def colour(number: int) -> np.ndarray:
    """Return the colour of a batch, different for each."""
    return np.array([number, 255 - number, 7], np.uint8)


def count_host_waits(setting: Setting, measured: dict[str, Any]) -> None:
    """Where the host waits for the GPU: in a batch of an extraction, and in steps of training."""
    backbone = load("RN50", "float16", setting.device)
    recipe = make_recipe("square:224", backbone.native, backbone.cell)
    stream = FeatureStream(backbone, recipe, "float16")
    memory = np.zeros((ROWS, 224, 224, 3), np.uint8)
    with stream.reading(memory.ravel()):
        stream.compute(memory).result()  # makes what is made once
        pending: list[PendingFeatures] = []
        waits = host_waits(lambda: pending.append(stream.compute(memory)))
        pending[0].result()
    measured["extraction"] = waits
    for name in ("default", "pythia", "mcan_small", "movie_mcan"):
        preset = PRESETS / "vqa" / f"{name}.toml"
        found = host_waits(lambda preset=preset: steps.measure(preset, "bfloat16", "cuda", 64, 2))
        # Among them those of building the model: what matters is a line in train/models.
        measured[name] = {place: n for place, n in found.items() if "models/" in place}
    assert not waits, f"the host waits inside a batch: {waits}"


def host_waits(work: Callable[[], object]) -> dict[str, int]:
    """Return how often each line of code made the host wait for the GPU."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = (
        f"{'/'.join(Path(each.filename).parts[-3:])}:{each.lineno}"
        for each in caught
        if WAIT in str(each.message)
    )
    return dict(collections.Counter(places))
