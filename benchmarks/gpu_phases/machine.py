"""Phases: what the machine is and what each part of it sustains, and memory that is not pinned."""

import ctypes
import hashlib
import io
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import torch
from numcodecs.zstd import Zstd
from PIL import Image

from clipfeat.base.machine import describe_processor, write_rate
from clipfeat.extract.executors.pipeline import FeatureStream
from clipfeat.extract.facts import versions

from .setting import Setting

MB = 1 << 20
BYTES = 64 * MB
ZSTD_LEVEL = 1


def measure_machine(setting: Setting, measured: dict[str, Any]) -> None:
    """The card and the versions; then copies, disk, hashing, compression and decoding, a core."""
    measured["date"] = datetime.now(UTC).isoformat(timespec="seconds")
    measured["processor"] = describe_processor()
    measured["versions"] = versions().numbers
    if setting.on_gpu:
        properties = torch.cuda.get_device_properties(setting.device)
        measured["card"] = properties.name
        measured["card_gib"] = round(properties.total_memory / 2**30, 1)
        measured["capability"] = f"{properties.major}.{properties.minor}"
        measured["cuda"] = torch.version.cuda
        measured["cudnn"] = torch.backends.cudnn.version()
        measured.update(copy_rates(setting))
    measured["disk_mb_s"] = round(write_rate(setting.folder, 512 * MB, 3.0) / 1e6)
    random = np.random.default_rng(0).standard_normal((BYTES // 4,), np.float32)
    values = np.maximum(random, 0).astype(np.float16)  # half of them zeros, as after a ReLU
    content = values.tobytes()
    hashed = setting.seconds(lambda: hashlib.sha256(content).digest())
    measured["sha256_mb_s"] = round(len(content) / hashed / 1e6)
    compress = Zstd(level=ZSTD_LEVEL)
    packed = setting.seconds(compress.encode, content)
    measured["zstd_mb_s"] = round(len(content) / packed / 1e6)
    file = io.BytesIO(setting.photographs[0].read_bytes())
    measured["decode_ms"] = round(1e3 * setting.seconds(lambda: Image.open(file).load()), 2)
    image = Image.open(file)
    resized = setting.seconds(image.resize, (448, 448), Image.Resampling.BICUBIC)
    measured["resize_ms"] = round(1e3 * resized, 2)


def copy_rates(setting: Setting) -> dict[str, float]:
    """Return GB/s from pinned memory of the host to the device, and back."""
    host = torch.empty(256 * MB, dtype=torch.uint8, pin_memory=True)
    there = torch.empty_like(host, device=setting.device)
    up = setting.seconds(partial(there.copy_, host, non_blocking=True))
    down = setting.seconds(partial(host.copy_, there, non_blocking=True))
    return {
        "to_device_gb_s": round(host.nbytes / up / 1e9, 1),
        "to_host_gb_s": round(host.nbytes / down / 1e9, 1),
    }


def refuse_pinning(setting: Setting, measured: dict[str, Any]) -> None:
    """A call of cudaHostRegister that is refused: a warning, and no error in the next kernel.

    In a process of its own, whose context may be broken afterwards.
    """
    code = f"from {__name__} import pin_nothing; print(pin_nothing({setting.device!r}))"
    measured["warning"] = setting.python("-c", code).strip()
    assert "cudaHostRegister" in measured["warning"], "registering address 4096 was not refused"


def pin_nothing(device: str) -> str:
    """Let a stream pin memory that this process does not have; return the warning."""
    from clipfeat.extract.backbones.weights import load_backbone
    from clipfeat.extract.planning.plan import BackboneSpec
    from clipfeat.extract.planning.recipe import make_recipe

    backbone, _ = load_backbone(BackboneSpec("ViT-S-32", "none", 0, "float16"), device)
    stream = FeatureStream(
        backbone, make_recipe("square:224", backbone.native, backbone.cell), "float16"
    )
    nowhere = np.ctypeslib.as_array((ctypes.c_uint8 * 4096).from_address(4096))
    with stream.reading(nowhere) as warning:
        features, _ = stream.compute(np.zeros((4, 224, 224, 3), np.uint8)).result()
    assert np.isfinite(features["grid"].array).all()
    return warning
