"""An open_clip model with the weights that a user names: a tag, a file, or random ones."""

import contextlib
import difflib
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import open_clip
import torch
from open_clip.model import ModifiedResNet, VisionTransformer
from torch import Tensor

from ...base.errors import ExtractUsageError
from ...base.files import local_path
from ...base.jsonio import as_struct
from ..planning.plan import BackboneSpec
from ..planning.recipe import Preprocess
from .backbone import Backbone
from .timm_models import (
    PREFIX,
    build_timm_model,
    choose_timm_weights,
    timm_tower,
)
from .tower import make_tower
from .weights_config import PreprocessConfig, WeightsConfig, read_config
from .weights_file import (
    is_openai_checkpoint,
    load_image_tower,
    load_text_tower_weights,
    quiet,
    read_checkpoint,
)

logger = logging.getLogger(__name__)

HUB_SECONDS = 10  # until the first answer of the hub
# Extraction reads images alone; a small text tower takes no time and downloads nothing.
SMALL_TEXT_TOWER = {"context_length": 8, "vocab_size": 8, "width": 64, "heads": 1, "layers": 1}
CLIP_PREPROCESSING = PreprocessConfig(
    open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD, "bicubic", "shortest"
)
QUICK_GELU = "-quickgelu"  # how open_clip names the twin of a model that has this activation


class LoadedModel(NamedTuple):
    """A model with its weights."""

    name: str  # open_clip's, of the model that is used: it has the activation that the weights need
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
    if spec.model.startswith(PREFIX):
        return load_timm_backbone(spec, device)
    loaded = load_model(spec)
    for warning in loaded.warnings:
        logger.info(warning)
    visual: Any = loaded.model.visual
    native = preprocess(loaded.preprocessing, visual.image_size)
    tower = make_tower(visual, _config(loaded.name)["embed_dim"])
    if tower is None:
        raise ExtractUsageError(
            f"--model {loaded.name}: its image tower ({type(visual).__name__}) has no grid that "
            f"clipfeat can read; use a CLIP ResNet or ViT, RN50x4 or ViT-B-32 for example",
            code="E-MODEL-GRID",
        )
    return Backbone(tower, native, spec.precision, device), loaded.described


def load_timm_backbone(spec: BackboneSpec, device: str) -> tuple[Backbone, dict[str, Any]]:
    """Return the backbone of a timm model as `load_backbone` does."""
    check_seed(spec.seed)
    choice = choose_timm_weights(spec)
    path = choice.path
    if path is None and choice.pretrained != "none":
        path = download(choice.name, choice.pretrained, choice.fetch)
    visual = build_timm_model(choice, path, spec.seed)
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
    name = spec.model
    check_model(name)
    tags = open_clip.list_pretrained_tags_by_model(name)
    pretrained = choose_weights(spec, tags)
    tag = open_clip.get_pretrained_cfg(name, pretrained) if pretrained in tags else {}
    path = None if pretrained == "none" else Path(pretrained)
    if tag:
        path = download(name, pretrained, partial(open_clip.download_pretrained, tag))
    # A description beside a file is about that file; a tag has its own entry in open_clip's table.
    config = read_config(path) if path is not None and not tag else None
    # The activation the weights were trained with: open_clip only warns when the model's config
    # has another one, which ruins every feature.
    quick_gelu = bool(tag.get("quick_gelu"))
    if config:
        name = configured_model(name, config, whole=whole)
        quick_gelu = config.quick_gelu
    model = create_model(name, spec.seed, quick_gelu=quick_gelu, whole=whole)
    warnings: list[str] = []
    if path is not None:
        tensors, averaged = read_checkpoint(path, name, model)
        warnings += [averaged] if averaged else []
        load_image_tower(model.visual, tensors, path, name)
        is_openais = is_openai_checkpoint(tensors, check_values=config is None)
        if not tag and isinstance(model.visual, VisionTransformer):
            check_activation(name, path, is_openais=is_openais)
        # The grid of a ResNet does not depend on GELU; its text tower does.
        if not tag and whole and isinstance(model.visual, ModifiedResNet) and is_openais:
            model = create_model(name, spec.seed, quick_gelu=True, whole=True)
            load_image_tower(model.visual, tensors, path, name)
        if whole:
            load_text_tower_weights(model, tensors, path, name)
    described = {
        "model": name,
        "pretrained": pretrained if tag or path is None else "file",
        "seed": spec.seed if path is None else None,
        "weights_sha256": weights_digest(model.visual.state_dict()),
    }
    if warning := config.warning(spec.model, name) if config else weights_warning(described):
        warnings.append(warning)
    if config:
        preprocessing = config.preprocessing
    else:
        preprocessing = tag_preprocessing(name, pretrained) if tag else usual_preprocessing(name)
    return LoadedModel(name, model, described, preprocessing, tuple(warnings))


def check_seed(seed: int) -> None:
    """Raise ExtractUsageError for a number that torch does not take as a seed."""
    if not -(1 << 63) <= seed < 1 << 64:
        raise ExtractUsageError(
            f"--seed {seed!s:.40}: torch takes seeds from -2^63 to 2^64-1", code="E-SEED-RANGE"
        )


def _config(name: str) -> dict[str, Any]:
    """Return open_clip's config of a model, a copy; {} for a name that it does not know."""
    return open_clip.get_model_config(name) or {}


def check_model(name: str) -> None:
    """Raise ExtractUsageError, naming near matches, unless open_clip knows the model."""
    known = open_clip.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "such as RN50, RN50x4, ViT-B-32"
        raise ExtractUsageError(
            f"--model {name}: not a model of open_clip; {hint} (docs/backbones.md lists all)",
            code="E-MODEL-UNKNOWN",
        )


def choose_weights(spec: BackboneSpec, tags: list[str]) -> str:
    """Return the tag or the path to load, or "none"; ExtractUsageError where it is neither."""
    if spec.pretrained is None:
        if "openai" in tags:
            return "openai"
        raise ExtractUsageError(
            f"--pretrained: {spec.model} has no openai weights; "
            f"choose from {', '.join(tags) or 'no known tags'}, a file, or none",
            code="E-WEIGHTS-UNKNOWN",
        )
    if spec.pretrained == "none" or spec.pretrained in tags or os.path.lexists(spec.pretrained):
        return spec.pretrained
    local_path(spec.pretrained, remedy="download it, and pass the file")
    plain = spec.model.removesuffix(QUICK_GELU)
    if plain != spec.model and open_clip.is_pretrained_cfg(plain, spec.pretrained):
        raise ExtractUsageError(
            f"--pretrained {spec.pretrained}: trained with GELU, and {spec.model} has QuickGELU; "
            f"use --model {plain}",
            code="E-WEIGHTS-ACTIVATION",
        )
    raise ExtractUsageError(
        f"--pretrained {spec.pretrained}: neither a file nor a tag of {spec.model}; "
        f"its tags: {', '.join(tags) or 'none'}",
        code="E-WEIGHTS-UNKNOWN",
    )


def download(name: str, tag: str, fetch: Callable[[], str]) -> Path:
    """Return the file with the weights of a tag, which `fetch` takes from the cache or the hub."""
    with cache_if_hub_unreachable() as unreachable:
        try:
            with quiet():
                return Path(fetch())
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join((unreachable or str(error)).split())
            raise ExtractUsageError(
                f"--pretrained {tag}: the weights of {name} cannot be downloaded "
                f"({reason:.160}); where there is no network, pass a file: --pretrained PATH, "
                f"or random weights: --pretrained none --seed 0",
                code="E-WEIGHTS-DOWNLOAD",
            ) from None


@contextlib.contextmanager
def cache_if_hub_unreachable() -> Iterator[str]:
    """Have the hub's client use its cache alone in this block if the hub does not answer.

    Yields the reason, "" where the hub answers. The client would try each of several file names
    six times, with pauses: 45 s in all.
    """
    constants = huggingface_hub.constants
    was_offline, reason = constants.HF_HUB_OFFLINE, ""
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    # The hub's HTTP library, and so the kind of error, changes with its version.
    except Exception as error:
        reason = f"{constants.ENDPOINT} does not answer: {error}"
        constants.HF_HUB_OFFLINE = True  # what the environment variable of this name sets
    try:
        yield reason
    finally:
        constants.HF_HUB_OFFLINE = was_offline


def configured_model(name: str, config: WeightsConfig, *, whole: bool) -> str:
    """Return the name of the model that the file beside the weights describes.

    That is `name` or, where the weights need QuickGELU, its twin, which has it. The activation
    matters in ViTs, and where the `whole` model is wanted. Raises ExtractUsageError for a file
    that describes another model.
    """
    config.check_architecture(name, whole=whole)
    has_quick_gelu = bool(_config(name).get("quick_gelu"))
    if config.quick_gelu == has_quick_gelu or not (whole or _is_vit(name)):
        return name
    if has_quick_gelu:
        raise config.contradiction(
            f"these weights were trained with GELU, and {name} has QuickGELU; "
            f"use --model {name.removesuffix(QUICK_GELU)}"
        )
    if not _is_vit(name):  # the grid of a ResNet is the same: its name stays
        return name
    twin = name + QUICK_GELU
    if twin not in open_clip.list_models():
        raise config.contradiction(
            f"these weights were trained with QuickGELU, and open_clip has no {twin}"
        )
    return twin


def _is_vit(name: str) -> bool:
    """Return whether the image tower is open_clip's own ViT: no other grid depends on its GELU."""
    return bool(_config(name)["vision_cfg"].get("patch_size"))


def create_model(
    name: str, seed: int = 0, *, quick_gelu: bool = False, device: str = "cpu", whole: bool = False
) -> Any:
    """Return open_clip's model with random weights of `seed`.

    Unless `whole`, its text tower is a small one. torch's random state is left as it was.
    """
    towers: dict[str, Any] = {} if whole else {"text_cfg": SMALL_TEXT_TOWER}
    if towers and "multimodal_cfg" in _config(name):  # CoCa's decoder
        towers["multimodal_cfg"] = SMALL_TEXT_TOWER
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return open_clip.create_model(
            name, device=device, force_quick_gelu=quick_gelu, pretrained_text=False, **towers
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
    has_quick_gelu = bool(_config(model).get("quick_gelu"))
    if pretrained == "none":
        return random_warning(described)
    if pretrained != "file":
        tag: dict[str, Any] = open_clip.get_pretrained_cfg(model, pretrained) or {}
        if has_quick_gelu and not tag.get("quick_gelu"):
            return f"Run with QuickGELU, as open_clip's config of {model} says; its tag does not"
        return None
    assumptions = []
    twin = model.removesuffix(QUICK_GELU) if has_quick_gelu else model + QUICK_GELU
    if _is_vit(model) and twin in open_clip.list_models():
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
