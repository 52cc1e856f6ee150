"""Find, load and name a backbone's weights, through open_clip."""

import contextlib
import difflib
import hashlib
import logging
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors import SafetensorError

from .backbone import Backbone
from .errors import ExtractUsageError
from .job import BackboneSpec
from .recipe import Preprocess, Resize


def load_backbone(spec: BackboneSpec, device: str) -> tuple[Backbone, dict[str, Any]]:
    """Return the backbone, ready to run, and what its store says of it.

    Raises ExtractUsageError for an unknown model or tag, weights that cannot be had or do not
    fit, and a tower that has no grid here.
    """
    check_model(spec.model, open_clip.list_models())
    pretrained = choose_weights(spec, open_clip.list_pretrained_tags_by_model(spec.model))
    torch.manual_seed(spec.seed)  # decides random weights; loaded ones overwrite them
    model: Any = _create(spec.model, pretrained)
    visual = model.visual
    if not isinstance(visual, open_clip.model.ModifiedResNet) and not (
        isinstance(visual, open_clip.model.VisionTransformer) and visual.attn_pool is None
    ):
        raise ExtractUsageError(
            f"--model {spec.model}: its image tower ({type(visual).__name__}) has no grid that "
            f"clipfeat can read yet; use a CLIP ResNet or ViT, RN50x4 or ViT-B-32 for example"
        )
    described = {
        "model": spec.model,
        "pretrained": "file" if Path(pretrained).is_file() else pretrained,
        "seed": spec.seed if pretrained == "none" else None,
        "weights_sha256": weights_digest(visual.state_dict()),
    }
    native = _preprocess(spec.model, open_clip.get_model_preprocess_cfg(model))
    return Backbone(visual, native, spec.precision, device), described


def remark(described: dict[str, Any]) -> str | None:
    """Return what a user should be told of these weights, if anything."""
    model, pretrained = described["model"], described["pretrained"]
    if pretrained == "none":
        return f"Random weights (seed {described['seed']}): grids of an untrained {model}"
    openai: dict[str, Any] = open_clip.get_pretrained_cfg(model, "openai") or {}
    if pretrained == "file" and model.startswith("ViT") and openai.get("quick_gelu"):
        return (
            f"Weights from a file, run with GELU; if they are OpenAI's own, stop and use "
            f"--model {model}-quickgelu"
        )
    return None


def check_model(name: str, known: list[str]) -> None:
    """Raise ExtractUsageError, naming near matches, unless open_clip knows the model."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "RN50, RN50x4, ViT-B-32 are known"
        raise ExtractUsageError(f"--model {name}: open_clip has no such model; {hint}")


def choose_weights(spec: BackboneSpec, tags: list[str]) -> str:
    """Return the tag or path to load, or "none"."""
    if spec.pretrained is None:
        if "openai" in tags:
            return "openai"
        raise ExtractUsageError(
            f"--pretrained: {spec.model} has no openai weights; "
            f"choose from {', '.join(tags) or 'no known tags'}, a file, or none"
        )
    if spec.pretrained == "none" or spec.pretrained in tags or Path(spec.pretrained).is_file():
        return spec.pretrained
    raise ExtractUsageError(
        f"--pretrained {spec.pretrained}: neither a file nor a tag of {spec.model}; "
        f"its tags: {', '.join(tags) or 'none'}"
    )


def _create(name: str, pretrained: str) -> Any:
    """Return open_clip's model; no pickled object but tensors is ever loaded."""
    if is_torchscript(Path(pretrained)):
        raise ExtractUsageError(
            f"--pretrained {pretrained}: a TorchScript archive, which would be executed to be "
            f"read; save its state dict once, where you trust it: "
            f"torch.save(torch.jit.load(PATH).state_dict(), 'weights.pt')"
        )
    tag: dict[str, Any] = open_clip.get_pretrained_cfg(name, pretrained) or {}
    try:
        with _quiet():
            return open_clip.create_model(
                name,
                pretrained=None if pretrained == "none" else pretrained,
                # The activation the weights were trained with: open_clip only warns when the
                # model's config says another, and a wrong one ruins every feature.
                force_quick_gelu=bool(tag.get("quick_gelu")),
                pretrained_text=False,
                weights_only=True,
            )
    except (RuntimeError, ValueError, KeyError, AttributeError, TypeError, OSError, EOFError,
            pickle.UnpicklingError, SafetensorError) as error:  # fmt: skip
        reason = " ".join(str(error).split())
        if tag:
            raise ExtractUsageError(
                f"--pretrained {pretrained}: the weights of {name} cannot be downloaded "
                f"({reason:.160}); where there is no network, pass a file: --pretrained PATH, "
                f"or random weights: --pretrained none --seed 0"
            ) from None
        raise ExtractUsageError(
            f"--pretrained {pretrained}: the file does not fit {name} ({reason:.300}); "
            f"give the model it was trained as, and a state dict (.pt or .safetensors)"
        ) from None


def is_torchscript(path: Path) -> bool:
    """Return whether `path` is a TorchScript archive: a zip with constants.pkl beside its code."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence open_clip and the hub: what matters comes back as one error."""
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _preprocess(name: str, config: dict[str, Any]) -> Preprocess:
    """Return open_clip's own preprocessing of a model."""
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    resizes: dict[str, Resize] = {"shortest": "shortest", "squash": "stretch"}
    resize = resizes.get(config["resize_mode"])
    if height != width or resize is None:
        raise ExtractUsageError(
            f"--model {name}: its own preprocessing ({height}x{width}, {config['resize_mode']}) "
            f"is not square or pads; clipfeat cannot follow it yet"
        )
    (red, green, blue), (red_std, green_std, blue_std) = (
        map(float, config[key]) for key in ("mean", "std")
    )
    mean, std = (red, green, blue), (red_std, green_std, blue_std)
    return Preprocess(height, resize, config["interpolation"], mean, std)


def weights_digest(tensors: dict[str, Any]) -> str:
    """Return a sha256 of a tower's tensors, whatever file they came in.

    It runs over each tensor in name order: name, dtype, shape, then its bytes.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
