"""Phases: the forward pass by itself, JPEG on the GPU, and extraction from files to a store."""

import contextlib
import io
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.io import decode_jpeg

from clipfeat.extract import ExtractConfig, extract_images
from clipfeat.extract.backbones.backbone import DTYPES
from clipfeat.extract.executors.pipeline import FeatureStream
from clipfeat.extract.pixels.resize import resize
from clipfeat.extract.planning.recipe import make_recipe
from clipfeat.extract.self_test import load
from clipfeat.featstore.geometry import Interpolation
from clipfeat.manifests import folder_manifest

from ..extract import Tower, stage_ms
from .setting import Setting

SIDE = 448
# Channels and side of the 3x3 convolutions of RN50's four stages, at images of 448x448.
CONVOLUTIONS = ((64, 112), (128, 56), (256, 28), (512, 14))
RESIZES = 200
FILTERS: tuple[Interpolation, ...] = ("bilinear", "bicubic")
STORE_BYTES = 4e9  # that an extraction writes at most, before compression


def measure_forward(setting: Setting, measured: dict[str, Any]) -> None:
    """images/s: open_clip's tower, clipfeat's on pixels of the device, and with their upload."""
    models, batches, precision = ("RN50", "RN50x4", "ViT-L-14"), (64, 128, 256), "float16"
    if not setting.on_gpu:
        models, batches, precision = ("ViT-S-32",), (8,), "float32"
    if setting.on_gpu:
        measured["fused_ms"] = fused_convolutions(setting)
    for model in models:
        rates = measured[model] = {}
        tower = Tower(model, (SIDE, SIDE), DTYPES[precision], setting.device).channels_last()
        backbone = load(model, precision, setting.device)
        recipe = make_recipe(f"square:{SIDE}", backbone.native, backbone.cell)
        stream = FeatureStream(backbone, recipe, "float16")
        for batch in batches:
            host = np.zeros((batch, SIDE, SIDE, 3), np.uint8)
            pixels = torch.from_numpy(host).to(setting.device)
            images = torch.zeros(batch, 3, SIDE, SIDE, dtype=DTYPES[precision])
            images = images.to(setting.device, memory_format=torch.channels_last)
            with stream.reading(host.ravel()):
                seconds = {
                    "stock": setting.seconds(tower, images, least=0.7),
                    "clipfeat": setting.seconds(backbone.grids, pixels, recipe, least=0.7),
                    "with_copies": setting.seconds(copied_features, stream, host, least=0.7),
                }
            rates[str(batch)] = {name: round(batch / each, 1) for name, each in seconds.items()}


def copied_features(stream: FeatureStream, pixels: np.ndarray) -> object:
    """Upload a batch, compute its features, and wait until they are on the host."""
    return stream.compute(pixels).result()


def fused_convolutions(setting: Setting) -> dict[str, dict[str, float]]:
    """Return milliseconds of convolution, bias and ReLU: by torch's three calls, and by one of cudnn."""
    found = {}
    for channels, side in CONVOLUTIONS:
        tensors = [
            torch.randn(shape, device=setting.device).half().to(memory_format=torch.channels_last)
            for shape in ((64, channels, side, side), (channels, channels, 3, 3))
        ]
        tensors.append(torch.randn(channels, device=setting.device).half())
        difference = (_apart(*tensors) - _fused(*tensors)).abs().max().item()
        found[f"{channels}x{side}"] = {
            "apart": round(1e3 * setting.seconds(_apart, *tensors, least=0.2), 3),
            "fused": round(1e3 * setting.seconds(_fused, *tensors, least=0.2), 3),
            "difference": difference,
        }
    return found


def _apart(images: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    return functional.conv2d(images, weights, bias, padding=1).relu_()


def _fused(images: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    return torch.cudnn_convolution_relu(images, weights, bias, (1, 1), (1, 1), (1, 1), 1)


def decode_on_gpu(setting: Setting, measured: dict[str, Any]) -> None:
    """images/s of nvJPEG, and how far its pixels are from Pillow's."""
    contents = [bytearray(file.read_bytes()) for file in setting.photographs]
    files = [torch.frombuffer(content, dtype=torch.uint8) for content in contents]

    def decode(some: list[Tensor]) -> Any:
        return decode_jpeg(some, device=setting.device)

    measured["nvjpeg_images_per_second"] = round(
        len(files) / setting.seconds(decode, files, least=1.0)
    )
    there = decode(files[:1])[0].cpu().permute(1, 2, 0).numpy()
    here = np.asarray(Image.open(io.BytesIO(contents[0])))
    difference = np.abs(there.astype(int) - here)
    measured["nvjpeg_levels"] = {"mean": float(difference.mean()), "most": int(difference.max())}


def resize_exactly(setting: Setting, measured: dict[str, Any]) -> None:
    """Random sizes and filters: the resize of tensors gives Pillow's pixels, bit for bit; its rate."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(RESIZES if setting.on_gpu else RESIZES // 10):
        height, width, high, wide = (int(side) for side in rng.integers(2, 900, 4))
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        interpolation = FILTERS[int(rng.integers(len(FILTERS)))]
        channels = torch.from_numpy(pixels).permute(2, 0, 1).to(setting.device)
        there = resize(channels, (wide, high), interpolation).permute(1, 2, 0).cpu().numpy()
        image, resample = Image.fromarray(pixels), Image.Resampling[interpolation.upper()]
        here = image.resize((wide, height), resample).resize((wide, high), resample)
        wrong += not np.array_equal(there, np.asarray(here))
    photographs = torch.zeros(16, 3, 480, 640, dtype=torch.uint8, device=setting.device)
    seconds = setting.seconds(resize, photographs, (SIDE, SIDE), "bicubic", least=1.0)
    measured.update(wrong=wrong, images_per_second=round(len(photographs) / seconds))
    assert not wrong, f"{wrong} resized images differ from Pillow's"


def extract_photographs(setting: Setting, measured: dict[str, Any]) -> None:
    """From linked JPEG files to a finished store, beside the forward pass alone."""
    most = 6000 if setting.on_gpu else 32
    for model in ("RN50", "ViT-L-14") if setting.on_gpu else ("ViT-S-32",):
        backbone = load(model, "float16" if setting.on_gpu else "float32", setting.device)
        recipe = make_recipe("caption448", backbone.native, backbone.cell)
        rows, cols = SIDE // backbone.cell[0], SIDE // backbone.cell[1]
        count = min(most, int(STORE_BYTES / (2 * rows * cols * backbone.dim)))
        batch = 128 if setting.on_gpu else 8
        pixels = torch.zeros(batch, SIDE, SIDE, 3, dtype=torch.uint8, device=setting.device)
        bare = batch / setting.seconds(backbone.grids, pixels, recipe, least=2.0)
        del backbone
        images = setting.linked(count, f"linked-{model}")
        config = ExtractConfig(
            model=model, pretrained="none", device="cuda" if setting.on_gpu else "cpu"
        )
        with utilisation(setting) as busy:
            out = setting.folder / f"{model}.clipfeat"
            report = extract_images(folder_manifest(images), out, config)
        rate = report.images / report.seconds
        measured[model] = {
            "images": count,
            "bare": round(bare, 1),
            "end_to_end": round(rate, 1),
            "ratio": round(rate / bare, 3),
            "device_waited": round(report.timings.waited, 3),
            "stage_ms": {name: round(ms, 2) for name, ms in stage_ms(report).items()},
            "utilisation": round(float(np.mean(busy)), 1) if busy else None,
        }


@contextlib.contextmanager
def utilisation(setting: Setting) -> Iterator[list[float]]:
    """Yield a list that gets the GPU's utilisation in percent, five times a second."""
    found: list[float] = []
    if not setting.on_gpu:
        yield found
        return
    command = ["nvidia-smi", "-i", setting.gpu_index, "--query-gpu=utilization.gpu", "-lms", "200"]
    try:
        process = subprocess.Popen(
            [*command, "--format=csv,noheader,nounits"], stdout=subprocess.PIPE, text=True
        )
    except OSError:  # a container without it
        yield found
        return

    def follow() -> None:
        for line in process.stdout or ():
            with contextlib.suppress(ValueError):
                found.append(float(line))

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield found
    finally:
        process.terminate()
        process.wait()
        thread.join()
