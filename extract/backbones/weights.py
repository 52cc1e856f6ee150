"""A model with the weights that a user names, and what its store says of them."""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from open_clip.model import ModifiedResNet
from torch import Tensor

from ...base.errors import ExtractUsageError
from ...base.jsonio import as_struct
from ..planning.plan import BackboneSpec
from ..planning.recipe import Preprocess
from .architecture import CUSTOM, Architecture, create_model, image_settings
from .backbone import Backbone
from .timm_models import build_timm_model, choose_timm_weights, is_timms, timm_tower
from .tower import make_tower
from .weights_config import PreprocessConfig
from .weights_loading import (
    is_openai_checkpoint,
    load_image_tower,
    load_text_tower_weights,
    read_checkpoint,
)
from .weights_sources import QUICK_GELU, choose_model, download, has_openclip_vit, no_average

logger = logging.getLogger(__name__)

CLIP_PREPROCESSING = PreprocessConfig(
    open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD, "bicubic", "shortest"
)


class LoadedModel(NamedTuple):
    """A model with its weights."""

    architecture: Architecture  # that is used: it has the activation that the weights need
    model: Any  # open_clip's
    described: dict[str, Any]  # what a store says of it
    preprocessing: PreprocessConfig
    warnings: tuple[str, ...]  # what a user should know of the weights


def load_backbone(spec: BackboneSpec, device: str) -> tuple[Backbone, dict[str, Any]]:
    """Return the backbone, ready to run, and what its store says of it.

    What a user should know of the weights is logged. Raises ExtractUsageError for an unknown model
    or tag, weights that cannot be read, do not fit or need another activation, and an image tower
    that gives no grid here.
    """
    if is_timms(spec.model):
        return load_timm_backbone(spec, device)
    loaded = load_model(spec)
    for warning in loaded.warnings:
        logger.info(warning)
    visual: Any = loaded.model.visual
    native = preprocess(loaded.preprocessing, visual.image_size)
    tower = make_tower(visual, loaded.architecture.config["embed_dim"])
    if tower is None:
        raise ExtractUsageError(
            f"--model {loaded.architecture.name}: its image tower ({type(visual).__name__}) has no "
            f"grid that clipfeat can read; use a CLIP ResNet or ViT, RN50x4 or ViT-B-32 for example",
            code="E-MODEL-GRID",
        )
    return Backbone(tower, native, spec.precision, device), loaded.described


def load_timm_backbone(spec: BackboneSpec, device: str) -> tuple[Backbone, dict[str, Any]]:
    """Return the backbone of a timm model as `load_backbone` does."""
    check_seed(spec.seed)
    choice = choose_timm_weights(spec)
    path = choice.path
    if spec.ema and choice.pretrained != "file":
        raise no_average(choice.pretrained)
    if path is None and choice.pretrained != "none":
        path = download(choice.name, choice.pretrained, choice.fetch)
    visual = build_timm_model(choice, path, spec.seed, averaged=spec.ema)
    described = {
        "model": choice.name,
        "pretrained": choice.pretrained,
        "seed": spec.seed if path is None else None,
        "weights_sha256": weights_digest(visual.trunk.state_dict()),
    }
    if path is None:
        logger.info(random_warning(described))
    tower = timm_tower(visual, choice.name)
    return Backbone(tower, choice.preprocess(), spec.precision, device), described


def load_model(spec: BackboneSpec, *, whole: bool = False) -> LoadedModel:
    """Return open_clip's model with the weights of `spec`.

    Unless `whole`, its text tower is a small one with random weights. Raises as `load_backbone`.
    """
    check_seed(spec.seed)
    chosen = choose_model(spec, whole=whole)
    architecture, tag, path, config = chosen.architecture, chosen.tag, chosen.path, chosen.config
    name = architecture.name
    # The activation the weights were trained with: open_clip only warns when the model's config
    # has another one, which ruins every feature.
    quick_gelu = config.quick_gelu if config else bool(tag.get("quick_gelu"))
    model = create_model(architecture, spec.seed, quick_gelu=quick_gelu, whole=whole)
    warnings: list[str] = []
    if path is not None:
        tensors, averaged = read_checkpoint(path, name, model, averaged=spec.ema)
        warnings += [averaged] if averaged else []
        load_image_tower(model.visual, tensors, path, name)
        is_openais = is_openai_checkpoint(tensors, check_values=config is None)
        if not tag and has_openclip_vit(architecture):
            check_activation(name, path, is_openais=is_openais)
        # The grid of a ResNet does not depend on GELU; its text tower does.
        if not tag and whole and isinstance(model.visual, ModifiedResNet) and is_openais:
            model = create_model(architecture, spec.seed, quick_gelu=True, whole=True)
            load_image_tower(model.visual, tensors, path, name)
        if whole:
            load_text_tower_weights(model, tensors, path, name)
    described = {
        "model": name,
        "pretrained": chosen.pretrained,
        "seed": spec.seed if path is None else None,
        "weights_sha256": weights_digest(model.visual.state_dict()),
    }
    if name == CUSTOM:
        described["model_config"] = image_settings(architecture.config)
    if config is not None and path is not None:
        warnings.append(config.warning(spec.model, name))
    elif warning := weights_warning(described):
        warnings.append(warning)
    if config:
        preprocessing = config.preprocessing
    else:
        preprocessing = as_struct(tag, PreprocessConfig) if tag else usual_preprocessing(name)
    return LoadedModel(architecture, model, described, preprocessing, tuple(warnings))


def check_seed(seed: int) -> None:
    """Raise ExtractUsageError for a number that torch does not take as a seed."""
    if not -(1 << 63) <= seed < 1 << 64:
        raise ExtractUsageError(
            f"--seed {seed!s:.40}: torch takes seeds from -2^63 to 2^64-1", code="E-SEED-RANGE"
        )


def check_activation(name: str, path: Path, *, is_openais: bool) -> None:
    """Raise ExtractUsageError for a file of OpenAI's that would be run with GELU."""
    twin = name + QUICK_GELU
    if is_openais and twin in open_clip.list_models():
        raise ExtractUsageError(
            f"--pretrained {path}: these weights are OpenAI's or were rounded to float16 as "
            f"OpenAI's were, and OpenAI's need QuickGELU; use --model {twin}, or, if they were "
            f"trained with GELU, the float32 file that they were published in",
            code="E-WEIGHTS-ACTIVATION",
        )


def random_warning(described: Mapping[str, Any]) -> str:
    """Return what a user should be told of random weights."""
    return f"Random weights (seed {described['seed']}): grids of an untrained {described['model']}"


def weights_warning(described: Mapping[str, Any]) -> str | None:
    """Return what a user should be told of the weights that `described` says, if anything."""
    model, pretrained = described["model"], described["pretrained"]
    config = open_clip.get_model_config(model) or {}
    has_quick_gelu = bool(config.get("quick_gelu"))
    if pretrained == "none":
        return random_warning(described)
    if pretrained != "file":
        tag: dict[str, Any] = open_clip.get_pretrained_cfg(model, pretrained) or {}
        if has_quick_gelu and not tag.get("quick_gelu"):
            return f"Run with QuickGELU, as open_clip's config of {model} says; its tag does not"
        return None
    assumptions = []
    twin = model.removesuffix(QUICK_GELU) if has_quick_gelu else model + QUICK_GELU
    if has_openclip_vit(Architecture(model, config)) and twin in open_clip.list_models():
        used, other = ("QuickGELU", "GELU") if has_quick_gelu else ("GELU", "QuickGELU")
        assumptions.append(f"run with {used}; if they need {other}, stop and use --model {twin}")
    tags, usual = open_clip.list_pretrained_tags_by_model(model), usual_preprocessing(model)
    others = [tag for tag in tags if tag_preprocessing(model, tag) != usual]
    if others:
        assumptions.append(
            f"preprocessed as most of {model}'s are; {', '.join(others)} need another"
        )
    return f"Weights from a file, {', and '.join(assumptions)}" if assumptions else None


def usual_preprocessing(name: str) -> PreprocessConfig:
    """Return the preprocessing of most of a model's tags, for weights that carry no tag.

    A model without tags has open_clip's default, CLIP's own.
    """
    tags = open_clip.list_pretrained_tags_by_model(name)
    counts = Counter(tag_preprocessing(name, tag) for tag in tags)
    return counts.most_common(1)[0][0] if counts else CLIP_PREPROCESSING


def tag_preprocessing(name: str, tag: str) -> PreprocessConfig:
    """Return the preprocessing of a tag in open_clip's table."""
    return as_struct(open_clip.get_pretrained_cfg(name, tag), PreprocessConfig)


def preprocess(config: PreprocessConfig, size: int | tuple[int, int]) -> Preprocess:
    """Return the preprocessing of a model for images of `size` pixels."""
    return Preprocess(size, config.resize_mode, config.interpolation, config.mean, config.std)


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a sha256 of a tower's tensors, whatever file they came in.

    It is taken over each tensor in name order: name, dtype, shape, then its bytes.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        digest.update(content)
    return digest.hexdigest()
