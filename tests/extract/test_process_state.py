"""Extraction leaves the process of its caller as it was."""

import logging
import os
import signal
import threading
import warnings
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from pictures import write_bad_files, write_photographs
from PIL import AvifImagePlugin, Image, ImageFile
from towers import TEXT

from clipfeat.extract import ExtractConfig, extract_images
from clipfeat.extract.backbones.weights_sources import cache_if_hub_unreachable
from clipfeat.extract.embedding import text_embedder
from clipfeat.extract.recompute import recompute
from clipfeat.manifests import folder_manifest

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {**TEXT, "context_length": 77, "vocab_size": 49408},
}


def in_a_new_thread(function: Any) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def state_of_process() -> dict[str, Any]:
    """Return what libraries keep for the whole process, by name.

    But for Python's random state: beartype, which tests check types with, uses it.
    """
    backends: Any = torch.backends
    owners = (
        backends.cuda.matmul, backends.cudnn, backends.cudnn.conv, backends.cudnn.rnn,
        backends.mkldnn.matmul, backends.mkldnn.conv,
    )  # fmt: skip
    names = ("allow_tf32", "fp32_precision", "allow_fp16_reduced_precision_reduction", "benchmark")
    return {
        "torch's precision": [
            getattr(owner, name) for owner in owners for name in names if hasattr(owner, name)
        ],
        "torch's matmul precision": torch.get_float32_matmul_precision(),
        "torch's threads": (torch.get_num_threads(), in_a_new_thread(torch.get_num_threads)),
        "torch's random state": torch.get_rng_state().tolist(),
        "torch's defaults": (torch.get_default_dtype(), torch.is_grad_enabled()),
        "numpy's random state": str(np.random.get_state()),
        "Pillow": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES),
        "Pillow's AVIF": AvifImagePlugin.DEFAULT_MAX_THREADS,
        "the hub": huggingface_hub.constants.HF_HUB_OFFLINE,
        "warnings": list(warnings.filters),
        "logging": logging.root.manager.disable,
        "handlers": [logging.getLogger(name).handlers[:] for name in ("", "PIL", "clipfeat")],
        "levels": [logging.getLogger(name).level for name in ("", "PIL", "clipfeat")],
        "environment": dict(os.environ),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "folder": Path.cwd(),
    }


@pytest.fixture
def _unusual_process(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set what can be set to values that no library would choose."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12_345)
    monkeypatch.setattr(AvifImagePlugin, "DEFAULT_MAX_THREADS", 3)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", TINY)
    threads, disabled = torch.get_num_threads(), logging.root.manager.disable
    logging.disable(logging.DEBUG)
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision("highest")
    torch.set_num_threads(threads)
    logging.disable(disabled)


@pytest.mark.usefixtures("_unusual_process")
def test_no_switch_stays_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])  # here, as pytest adds its own before
    folder = write_photographs(tmp_path / "images", 3)
    write_bad_files(folder)
    Image.new("L", (200, 200)).save(folder / "large.webp")  # more pixels than Pillow may open here
    before = state_of_process()
    config = ExtractConfig(
        model="tiny", pretrained="none", recipe="model", vector="embedding", device="cpu",
        accept_truncated=True,
    )  # fmt: skip
    store = extract_images(folder_manifest(folder), tmp_path / "s", config).store
    assert store is not None
    assert "large" in store
    recompute(store, str(folder), 2, device="cpu")
    text_embedder(store, device="cpu")(["a text"])
    after = state_of_process()
    assert before == after


def test_the_hub_is_offline_in_the_block_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Any:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "get_session", refuse)
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with cache_if_hub_unreachable() as reason:
        assert constants.HF_HUB_OFFLINE
        assert "no network" in reason
    assert not constants.HF_HUB_OFFLINE
