"""Where the weights of a backbone are, and of which architecture: from what a user names.

A user names a tag of open_clip, a file, a folder, a repository of the Hugging Face hub, or random
weights. Nothing is loaded here.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import open_clip
from huggingface_hub.errors import EntryNotFoundError

from ...base.errors import ExtractUsageError
from ...base.files import local_path
from ...base.text import printable
from ..planning.plan import BackboneSpec
from .architecture import CUSTOM, Architecture, known_architecture
from .weights_config import (
    CONFIG_FILE,
    PROCESSOR,
    TRANSFORMERS,
    WeightsConfig,
    read_config,
    read_model_config,
)
from .weights_file import folder_error, quiet, shard_names

HUB_SECONDS = 10  # until the first answer of the hub
QUICK_GELU = "-quickgelu"  # how open_clip names the twin of a model that has this activation
FOLDER, HUB = "local-dir:", "hf-hub:"  # what open_clip's names of these places begin with
# What a folder's weights are called, those of open_clip first, which read_config describes first.
WEIGHTS_FILES = (
    *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
    *("open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth"),
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model.pth", "model.pth"),
)


class ChosenModel(NamedTuple):
    """A model and its weights, before anything is loaded."""

    architecture: Architecture
    pretrained: str  # a tag of open_clip, "file" or "none"
    tag: dict[str, Any]  # open_clip's entry of the tag, {} for other weights
    path: Path | None  # of the weights; None: random ones
    config: WeightsConfig | None  # what describes them


def choose_model(spec: BackboneSpec, *, whole: bool = False) -> ChosenModel:
    """Return the architecture and the weights that a backbone names; a tag is downloaded.

    The text tower too has to be as described where the `whole` model is wanted. Raises
    ExtractUsageError for an unknown model or tag, and where no architecture is named, or two.
    """
    model, pretrained = spec.model, spec.pretrained
    if model is not None and model.startswith((FOLDER, HUB)):
        if pretrained is not None:
            raise ExtractUsageError(
                f"--model {model} names weights too; drop --pretrained {pretrained}",
                code="E-WEIGHTS-TWICE",
            )
        model, pretrained = None, model
    own = None
    architecture = None if model is None else known_architecture(model)
    if spec.model_config is not None:
        if architecture is not None:
            raise two_architectures(model)
        own = read_model_config(
            local_path(spec.model_config, remedy="download it, and pass the file")
        )
        architecture = own.architecture()
    if architecture is None and pretrained in (None, "none"):
        raise ExtractUsageError(
            "no model is named; pass --model (RN50x4 for example), --model-config FILE, or "
            "--pretrained FOLDER with a folder that describes its model (docs/backbones.md)",
            code="E-MODEL-MISSING",
        )
    tags = open_clip.list_pretrained_tags_by_model(model) if model is not None else []
    pretrained = choose_weights(model, pretrained, tags)
    if spec.ema and (pretrained == "none" or pretrained in tags):
        raise no_average(pretrained)
    if pretrained == "none":
        assert architecture is not None
        return ChosenModel(architecture, "none", {}, None, own)
    if model is not None and pretrained in tags:
        assert architecture is not None
        tag: dict[str, Any] = open_clip.get_pretrained_cfg(model, pretrained)
        path = download(model, pretrained, partial(open_clip.download_pretrained, tag))
        return ChosenModel(architecture, pretrained, tag, path, None)
    path = find_weights(pretrained)
    # A description beside a file is about that file; a tag has its own entry in open_clip's table.
    config = read_config(path)
    if architecture is None:
        if config is None:
            raise ExtractUsageError(
                f"--pretrained {pretrained}: nothing beside these weights says which model they are "
                f"of; pass --model, or --model-config FILE with its architecture",
                code="E-MODEL-MISSING",
            )
        architecture = config.architecture()
    elif config is not None:
        architecture = configured_model(architecture, config, whole=whole)
    return ChosenModel(architecture, "file", {}, path, config or own)


def choose_weights(model: str | None, pretrained: str | None, tags: list[str]) -> str:
    """Return the tag or the place to load, or "none"; ExtractUsageError where it is neither."""
    if pretrained is None:
        if "openai" in tags:
            return "openai"
        raise ExtractUsageError(
            f"--pretrained: {model or 'a model of your own'} has no openai weights; "
            f"choose from {', '.join(tags) or 'no known tags'}, a file, or none",
            code="E-WEIGHTS-UNKNOWN",
        )
    is_place = pretrained.startswith((FOLDER, HUB)) or os.path.lexists(pretrained)
    if pretrained == "none" or pretrained in tags or is_place:
        return pretrained
    local_path(pretrained, remedy="download it, and pass the file")
    plain = (model or "").removesuffix(QUICK_GELU)
    if plain != model and open_clip.is_pretrained_cfg(plain, pretrained):
        raise ExtractUsageError(
            f"--pretrained {pretrained}: trained with GELU, and {model} has QuickGELU; "
            f"use --model {plain}",
            code="E-WEIGHTS-ACTIVATION",
        )
    raise ExtractUsageError(
        f"--pretrained {pretrained}: neither a file or folder nor a tag of "
        f"{model or 'a model, as --model names none'}; its tags: {', '.join(tags) or 'none'}; a "
        f"repository of the hub is hf-hub:OWNER/NAME",
        code="E-WEIGHTS-UNKNOWN",
    )


def two_architectures(model: str | None) -> ExtractUsageError:
    """Return what to raise where --model and --model-config are both passed."""
    return ExtractUsageError(
        f"--model {model} and --model-config both name an architecture; drop one",
        code="E-MODEL-TWICE",
    )


def no_average(pretrained: str) -> ExtractUsageError:
    """Return what to raise where --ema is passed with weights that are not a checkpoint."""
    return ExtractUsageError(
        f"--ema is for a checkpoint with averaged weights; --pretrained is {pretrained}; drop --ema",
        code="E-WEIGHTS-AVERAGE",
    )


def find_weights(pretrained: str) -> Path:
    """Return the file of weights at a place: a file, a folder, or a repository of the hub.

    Of a model in several files it is their index. Raises ExtractUsageError for a repository that
    cannot be downloaded, and for a folder without weights by one of the usual names.
    """
    if pretrained.startswith(HUB):
        return download_repository(pretrained.removeprefix(HUB))
    path = Path(pretrained.removeprefix(FOLDER))
    if not os.path.lexists(path):
        raise ExtractUsageError(
            f"--pretrained {pretrained}: there is no such folder; pass one with weights",
            code="E-WEIGHTS-FILE",
        )
    if not path.is_dir():
        return path
    named = (path / name for name in WEIGHTS_FILES)
    file = next((file for file in named if file.exists()), None)
    if file is None:
        raise folder_error(path)
    return file


def download_repository(name: str) -> Path:
    """Return the file of weights of a repository, from the cache or the hub.

    What describes the weights is downloaded into the same folder. Raises ExtractUsageError where
    there is no such repository, or no weights by one of the usual names in it.
    """
    with cache_if_hub_unreachable() as unreachable:
        try:
            with quiet():
                described = [
                    _hub_file(name, file) for file in (CONFIG_FILE, TRANSFORMERS, PROCESSOR)
                ]
                # Beside open_clip's description are open_clip's weights, beside the other its own.
                for file in WEIGHTS_FILES if described[0] else WEIGHTS_FILES[4:]:
                    if path := _hub_file(name, file):
                        for shard in shard_names(path):
                            _hub_file(name, shard)
                        return path
            reason = unreachable or f"it has none of {', '.join(WEIGHTS_FILES)}"
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join((unreachable or str(error)).split())
    raise ExtractUsageError(
        f"{HUB}{name}: its weights cannot be downloaded ({printable(reason):.200}); where there is "
        f"no network, copy the repository, and pass its folder: --pretrained FOLDER",
        code="E-WEIGHTS-DOWNLOAD",
    )


def _hub_file(repository: str, file: str) -> Path | None:
    """Return a file of a repository, None where it does not have it; raises as the hub's client."""
    try:
        return Path(huggingface_hub.hf_hub_download(repository, file))
    except EntryNotFoundError:  # also of the cache alone
        return None


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


def configured_model(
    architecture: Architecture, config: WeightsConfig, *, whole: bool
) -> Architecture:
    """Return the architecture that the file beside the weights describes.

    That is the given one or, where the weights need QuickGELU, its twin, which has it. The
    activation matters in ViTs, and where the `whole` model is wanted. Raises ExtractUsageError for
    a file that describes another model.
    """
    config.check_architecture(architecture, whole=whole)
    name, is_vit = architecture.name, has_openclip_vit(architecture)
    has_quick_gelu = bool(architecture.config.get("quick_gelu"))
    if config.quick_gelu == has_quick_gelu or not (whole or is_vit):
        return architecture
    if has_quick_gelu or name == CUSTOM:
        used, needed = ("QuickGELU", "GELU") if has_quick_gelu else ("GELU", "QuickGELU")
        plain = name.removesuffix(QUICK_GELU)
        remedy = "drop --model-config" if name == CUSTOM else f"use --model {plain}"
        raise config.contradiction(
            f"these weights were trained with {needed}, and {name} has {used}; {remedy}"
        )
    if not is_vit:  # the grid of a ResNet is the same: its name stays
        return architecture
    twin = name + QUICK_GELU
    if twin not in open_clip.list_models():
        raise config.contradiction(
            f"these weights were trained with QuickGELU, and open_clip has no {twin}"
        )
    return known_architecture(twin)


def has_openclip_vit(architecture: Architecture) -> bool:
    """Return whether the image tower is open_clip's own ViT: no other grid depends on its GELU."""
    vision = architecture.config["vision_cfg"]
    has_blocks = not isinstance(vision.get("layers"), list) and not vision.get("timm_model_name")
    return has_blocks if architecture.name == CUSTOM else bool(vision.get("patch_size"))
