"""The architecture of a model: one that open_clip has by name, or another one in its format."""

import contextlib
import copy
import difflib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import timm
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from ...base.errors import ExtractUsageError
from ...base.text import printable
from .weights_file import quiet

CUSTOM = "custom"  # the name of an architecture that open_clip has no name for
# In vision_cfg, and not of open_clip: arguments of timm's model, for a ViT that timm has no name for.
TIMM_ARGUMENTS = "timm_model_args"
# Those that are passed on. timm takes others too, such as a file of weights to read.
TIMM_SIZES = {"img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "act_layer"}
MAX_NUMBER, MAX_LAYERS = 1 << 20, 1000  # in an architecture that is not open_clip's
LAYERS = ("layers", "depth")  # what their number is called
SIZES = {
    *("embed_dim", "layers", "depth", "width", "head_width", "heads", "num_heads", "patch_size"),
    *("image_size", "img_size", "context_length", "vocab_size"),
}
# Extraction reads images alone; a small text tower takes no time and downloads nothing.
SMALL_TEXT_TOWER = {"context_length": 8, "vocab_size": 8, "width": 64, "heads": 1, "layers": 1}
SMALL_TRUNK = "vit_tiny_patch16_224"  # timm's
# Settings that act in training alone, or say where to start training from.
TRAINING_ONLY = {
    *("timm_drop", "timm_drop_path", "timm_model_pretrained", "patch_dropout"),
    "hf_model_pretrained",
}


class Architecture(NamedTuple):
    """A model without its weights: open_clip's name or CUSTOM, and its config in that format."""

    name: str
    config: dict[str, Any]


def known_architecture(name: str) -> Architecture:
    """Return an architecture of open_clip's; ExtractUsageError, with near matches, for others."""
    known = open_clip.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "such as RN50, RN50x4, ViT-B-32"
        if timm.is_model(name):
            hint = f"timm has one: --model timm/{name}"
        raise ExtractUsageError(
            f"--model {name}: not a model of open_clip; {hint} (docs/backbones.md lists all, and "
            f"how to pass your own)",
            code="E-MODEL-UNKNOWN",
        )
    return Architecture(name, open_clip.get_model_config(name) or {})


def described_architecture(config: dict[str, Any]) -> Architecture:
    """Return the architecture of a config: by open_clip's name if it has one for it, else CUSTOM."""
    quick_gelu = bool(config.get("quick_gelu"))
    names = (
        name
        for name in open_clip.list_models()
        if bool((known := open_clip.get_model_config(name) or {}).get("quick_gelu")) == quick_gelu
        and not differences(config, known, whole=True)
    )
    name = min(names, key=len, default=CUSTOM)
    return known_architecture(name) if name != CUSTOM else Architecture(CUSTOM, config)


def check_config(config: Mapping[str, Any]) -> None:
    """Raise ValueError for a config without the parts of a model, or with sizes that none has."""
    vision, text = config.get("vision_cfg"), config.get("text_cfg", {})
    if type(config.get("embed_dim")) is not int or not isinstance(vision, dict):
        raise ValueError("needs embed_dim, a number, and vision_cfg, an object")
    if not isinstance(text, dict):
        raise ValueError("text_cfg is not an object")
    arguments = vision.get(TIMM_ARGUMENTS, {})
    if not isinstance(arguments, dict) or arguments.keys() - TIMM_SIZES:
        raise ValueError(f"{TIMM_ARGUMENTS} may have {', '.join(sorted(TIMM_SIZES))} alone")
    for section in (config, vision, text, arguments):
        for key, value in section.items():
            most = MAX_LAYERS if key in LAYERS else MAX_NUMBER
            least = 1 if key in SIZES else -most
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, int | float) and not least <= number <= most:
                    raise ValueError(
                        f"{printable(key):.40} is {number!r:.40}; a number from {least:,} to "
                        f"{most:,} is needed"
                    )
    if ":" in str(vision.get("timm_model_name")):
        raise ValueError(
            "timm_model_name is not a name of timm's, but a place to load a model from"
        )


def image_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the features of images: the settings that are not open_clip's default."""
    default = _settings({}, CLIPVisionCfg)
    settings = _settings(config["vision_cfg"], CLIPVisionCfg)
    return {
        "embed_dim": config["embed_dim"],
        "quick_gelu": bool(config.get("quick_gelu")),
        "vision_cfg": {key: v for key, v in settings.items() if v != default.get(key)},
    }


def differences(
    described: Mapping[str, Any], other: Mapping[str, Any], *, whole: bool
) -> list[str]:
    """Return the settings in which two models differ, each with both values.

    The text towers are compared too where the `whole` model is wanted.
    """
    sections = [("vision_cfg", CLIPVisionCfg), ("text_cfg", CLIPTextCfg)]
    pairs = [("embed_dim", described.get("embed_dim"), other.get("embed_dim"))]
    for section, kind in sections if whole else sections[:1]:
        one, two = (_settings(model.get(section), kind) for model in (described, other))
        pairs += [(key, one.get(key), two.get(key)) for key in sorted({*one, *two})]
    return [
        f"{key} ({printable(f'{one!r:.60}')} there, {two!r:.60} here)"
        for key, one, two in pairs
        if one != two
    ]


def _settings(given: Any, kind: type[CLIPVisionCfg | CLIPTextCfg]) -> dict[str, Any]:
    """Return all settings that matter when a tower is used, with open_clip's defaults.

    `mlp_ratio` is replaced by the width that it makes, since ratios are rounded in different ways.
    """
    settings = {**asdict(kind()), **(given if isinstance(given, dict) else {})}
    settings = {
        key: None if value == {} else value
        for key, value in settings.items()
        if key not in TRAINING_ONLY
    }
    width, ratio = settings["width"], settings["mlp_ratio"]
    if isinstance(width, int | float) and isinstance(ratio, int | float):
        settings["mlp_ratio"] = int(width * ratio) / width if width else ratio
    return settings


def create_model(
    model: str | Architecture, seed: int = 0, *, quick_gelu: bool = False, device: str = "cpu",
    whole: bool = False,
) -> Any:  # fmt: skip
    """Return open_clip's model with random weights of `seed`.

    Unless `whole`, its text tower is a small one. torch's random state is left as it was. Raises
    ExtractUsageError for an architecture that open_clip cannot build.
    """
    architecture = known_architecture(model) if isinstance(model, str) else model
    config = copy.deepcopy(architecture.config)
    arguments = config["vision_cfg"].pop(TIMM_ARGUMENTS, None)
    trunk_name = config["vision_cfg"].get("timm_model_name")
    if arguments is not None:  # open_clip builds a small tower, which is replaced
        config["vision_cfg"]["timm_model_name"] = SMALL_TRUNK
    towers: dict[str, Any] = {} if whole else {"text_cfg": SMALL_TEXT_TOWER}
    if towers and "multimodal_cfg" in config:  # CoCa's decoder
        towers["multimodal_cfg"] = SMALL_TEXT_TOWER
    try:
        with quiet(), torch.random.fork_rng(devices=[]), _place(architecture.name, config) as name:
            torch.default_generator.manual_seed(seed)
            built: Any = open_clip.create_model(
                name, device=device, force_quick_gelu=quick_gelu, pretrained_text=False, **towers
            )
            if arguments is not None:
                trunk = timm.create_model(trunk_name, num_classes=0, global_pool="map", **arguments)
                built.visual.trunk = trunk.to(device)
            return built
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
            ValueError) as error:  # fmt: skip
        if architecture.name != CUSTOM:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ExtractUsageError(
            f"open_clip cannot build this architecture: {printable(reason):.200}; see the configs "
            f"of open_clip's own models for what it takes",
            code="E-MODEL-CONFIG",
        ) from None


@contextlib.contextmanager
def _place(name: str, config: dict[str, Any]) -> Iterator[str]:
    """Yield how open_clip finds an architecture: by its own name, or in a folder for this time."""
    if name != CUSTOM:
        yield name
        return
    with tempfile.TemporaryDirectory() as folder:
        content = {"model_cfg": config | {"text_cfg": config.get("text_cfg", {})}}
        (Path(folder) / "open_clip_config.json").write_text(json.dumps(content))
        yield f"local-dir:{folder}"
