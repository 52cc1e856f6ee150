"""What the files of open_clip that lie with a file of weights say of it.

`open_clip_config.json` lies beside weights that are published; open_clip reads it where it is given
a folder (`local-dir:`). `params.txt` lies in the folder of a training run, whose weights are in
`checkpoints/` there. The meaning of each key, and of one that is not there, is open_clip's.
"""

import difflib
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg, ModifiedResNet, VisionTransformer
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from ...base.errors import ExtractUsageError
from ...base.files import local_path, read_text, split_lines
from ...base.jsonio import parse_json
from ...base.text import printable
from ...featstore import StoreError
from ..planning.plan import BackboneSpec
from ..planning.recipe import Interpolation, Preprocess, Resize, check_triple, check_word
from .tower import Backbone, make_tower
from .weights_file import download, is_openais, load_rest, load_tower, quiet, read_checkpoint

FILE = "open_clip_config.json"
CHECKPOINTS, PARAMS = "checkpoints", "params.txt"  # of a training run: a folder, a file beside it
LIMIT = 1 << 20  # bytes
# Settings that act in training alone, or say where to start training from.
IN_TRAINING = {
    *("timm_drop", "timm_drop_path", "timm_model_pretrained", "patch_dropout"),
    "hf_model_pretrained",
}


@dataclass(frozen=True)
class WeightsConfig:
    """What the file says: the tower's settings, its activation and its preprocessing."""

    path: Path
    quick_gelu: bool
    preprocessing: dict[str, Any]  # mean, std, interpolation, resize_mode
    model: dict[str, Any]  # model_cfg, as it stands

    def check_architecture(self, name: str, *, whole: bool) -> None:
        """Raise ExtractUsageError unless open_clip's model `name` is the one described.

        Its text tower counts where the `whole` model is wanted.
        """
        ours: Mapping[str, Any] = open_clip.get_model_config(name) or {}
        differing = list(_differences(self.model, ours, whole=whole))
        if not differing:
            return
        fitting = [
            model
            for model in open_clip.list_models()
            if not any(
                _differences(self.model, open_clip.get_model_config(model) or {}, whole=whole)
            )
        ]
        remedy = f"use --model {' or '.join(fitting[:3])}" if fitting else "name the model it is of"
        raise self.contradiction(f"{name} differs from it in {', '.join(differing[:5])}; {remedy}")

    def remark(self, asked: str, run: str) -> str:
        """Return what a user should know, who asked for one model and gets the other one run."""
        named = f"; run as {run}, as they need QuickGELU" if run != asked else ""
        return (
            f"Weights from a file, with the mean and deviation that {self.path} says, and for "
            f"--recipe model its resize{named}"
        )

    def contradiction(self, what: str) -> ExtractUsageError:
        """Return the error for a model that the file contradicts."""
        return ExtractUsageError(
            f"{self.path}, which describes the weights: {what}; if it is not about them, move it to "
            f"another folder",
            code="E-WEIGHTS-CONTRADICTED",
        )


def read_config(weights: Path) -> WeightsConfig | None:
    """Return what is said of a file of weights, None where nothing is.

    Raises ExtractUsageError for a file that open_clip could not read or obey either.
    """
    places: list[tuple[Path, Callable[[str], Any]]] = [(weights.parent / FILE, parse_json)]
    if weights.parent.name == CHECKPOINTS:
        places.append((weights.parent.parent / PARAMS, _parse_params))
    for path, parse in places:
        try:
            return _checked(path, parse(read_text(path, LIMIT)))
        except FileNotFoundError:
            continue
        except OSError as error:
            reason = error.strerror
        except (ValueError, StoreError) as error:
            reason = printable(str(error))
        raise ExtractUsageError(
            f"{path}, which describes the weights: {reason}; mend it, or move it to another folder "
            f"if it is not about them",
            code="E-WEIGHTS-CONFIG",
        )
    return None


def _parse_params(text: str) -> dict[str, Any]:
    """Return the options of a training run, a line each, as the content of the other file."""
    said = dict(line.split(": ", 1) for line in split_lines(text) if ": " in line)
    said = {key: value for key, value in said.items() if value != "None"}
    name = said.get("model", "").replace("/", "-")
    if name not in open_clip.list_models():
        raise ValueError(f"its model {name!r:.80} is not one of open_clip's names")
    model: dict[str, Any] = open_clip.get_model_config(name) or {}
    model["quick_gelu"] = bool(model.get("quick_gelu")) or said.get("force_quick_gelu") == "True"
    if "force_image_size" in said:
        size = parse_json(said["force_image_size"])
        model["vision_cfg"]["image_size"] = (
            size[0] if isinstance(size, list) and len(size) == 1 else size
        )
    preprocess: dict[str, Any] = (
        open_clip.get_pretrained_cfg(name, said.get("pretrained", "")) or {}
    )
    for key in ("mean", "std"):
        if f"image_{key}" in said:
            preprocess[key] = parse_json(said[f"image_{key}"])
    for key in ("interpolation", "resize_mode"):
        preprocess[key] = said.get(f"image_{key}", preprocess.get(key))
    return {"model_cfg": model, "preprocess_cfg": preprocess}


def _checked(path: Path, content: Any) -> WeightsConfig:
    model = content.get("model_cfg") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise ValueError("has no model_cfg, with which open_clip describes a model")
    given = content.get("preprocess_cfg") or {}
    if not isinstance(given, dict):
        raise ValueError("preprocess_cfg is not an object")
    said = merge_preprocess_dict(asdict(PreprocessCfg()), given)
    if said["mode"] != "RGB" or said["fill_color"] != 0:
        raise ValueError("preprocess_cfg: clipfeat reads images as RGB and pads them with black")
    for key in ("mean", "std"):
        numbers = said[key]
        alike = isinstance(numbers, int | float)  # one number stands for all channels
        said[key] = check_triple(key, [numbers] * 3 if alike else numbers)
    preprocessing = {
        "mean": said["mean"],
        "std": said["std"],
        "interpolation": check_word("interpolation", said["interpolation"], Interpolation),
        "resize_mode": check_word("resize_mode", said["resize_mode"], Resize),
    }
    return WeightsConfig(path, bool(model.get("quick_gelu")), preprocessing, model)


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], *, whole: bool) -> list[str]:
    """Return the settings in which two models differ, each with their value and ours."""
    sections = [("vision_cfg", CLIPVisionCfg), ("text_cfg", CLIPTextCfg)]
    pairs = [("embed_dim", theirs.get("embed_dim"), ours.get("embed_dim"))]
    for section, kind in sections if whole else sections[:1]:
        one, other = (_settings(model.get(section), kind) for model in (theirs, ours))
        pairs += [(key, one.get(key), other.get(key)) for key in sorted({*one, *other})]
    return [
        f"{key} ({printable(f'{one!r:.60}')} there, {other!r:.60} here)"
        for key, one, other in pairs
        if one != other
    ]


def _settings(given: Any, kind: type[CLIPVisionCfg | CLIPTextCfg]) -> dict[str, Any]:
    """Return all settings of a tower that count when it is used, with open_clip's defaults."""
    given = given if isinstance(given, dict) else {}
    settings = {**asdict(kind()), **given}
    plain = {key: value for key, value in settings.items() if key not in IN_TRAINING}
    return {key: None if value == {} else value for key, value in plain.items()}


# Extraction reads images alone; a small text tower takes no time and downloads nothing.
TEXT = {"context_length": 8, "vocab_size": 8, "width": 64, "heads": 1, "layers": 1}
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
QUICK_GELU = "-quickgelu"  # how open_clip names the twin of a model that has this activation


class Loaded(NamedTuple):
    """A model with its weights."""

    name: str  # of the model that was run: open_clip's, of the activation that the weights need
    model: Any  # open_clip's
    described: dict[str, Any]  # what a store says of it
    preprocessing: dict[str, Any]  # see PREPROCESSING
    remarks: tuple[str, ...]  # what a user should know


def load_backbone(
    spec: BackboneSpec, device: str, *, say: Callable[[str], None] | None = None
) -> tuple[Backbone, dict[str, Any]]:
    """Return the backbone, ready to run, and what its store says of it; `say` takes remarks.

    Raises ExtractUsageError for an unknown model or tag, weights that cannot be had, do not fit or
    need another activation, and a tower that has no grid here.
    """
    loaded = load_model(spec)
    if say:
        for line in loaded.remarks:
            say(line)
    visual: Any = loaded.model.visual
    native = preprocess(loaded.preprocessing, visual.image_size)
    config: dict[str, Any] = open_clip.get_model_config(loaded.name) or {}
    tower = make_tower(visual, config["embed_dim"])
    if tower is None:
        raise ExtractUsageError(
            f"--model {loaded.name}: its image tower ({type(visual).__name__}) has no grid that "
            f"clipfeat can read; use a CLIP ResNet or ViT, RN50x4 or ViT-B-32 for example"
        )
    return Backbone(tower, native, spec.precision, device), loaded.described


def load_model(spec: BackboneSpec, *, whole: bool = False) -> Loaded:
    """Return open_clip's model with the weights asked for.

    Unless `whole` its text tower is a small one of random weights. Raises as `load_backbone` does.
    """
    if not -(1 << 63) <= spec.seed < 1 << 64:
        raise ExtractUsageError(
            f"--seed {spec.seed!s:.40}: torch takes seeds from -2^63 to 2^64-1", code="E-SEED-RANGE"
        )
    name = spec.model
    check_model(name, open_clip.list_models())
    tags = open_clip.list_pretrained_tags_by_model(name)
    pretrained = choose_weights(spec, tags)
    tag = open_clip.get_pretrained_cfg(name, pretrained) if pretrained in tags else {}
    path = None if pretrained == "none" else download(name, pretrained) if tag else Path(pretrained)
    # What lies beside a file is about the file; a tag has its own entry in open_clip's table.
    config = read_config(path) if path is not None and not tag else None
    # The activation the weights were trained with: open_clip only warns when the model's config
    # says another, and a wrong one ruins every feature.
    quick_gelu = bool(tag.get("quick_gelu"))
    if config:
        name = configured_model(name, config, whole=whole)
        quick_gelu = config.quick_gelu
    torch.manual_seed(spec.seed)  # decides random weights; loaded ones overwrite them
    model = create_model(name, quick_gelu=quick_gelu, whole=whole)
    visual: Any = model.visual
    remarks: list[str] = []
    if path is not None:
        tensors, averaged = read_checkpoint(path, name, model)
        remarks += [averaged] if averaged else []
        load_tower(visual, tensors, path, name)
        openais = is_openais(tensors, numbers=config is None)
        if not tag and isinstance(visual, VisionTransformer):
            check_activation(name, path, openais=openais)
        # A ResNet's grid meets no GELU, and its text tower does.
        if not tag and whole and isinstance(visual, ModifiedResNet) and openais:
            model = create_model(name, quick_gelu=True, whole=True)
            load_tower(model.visual, tensors, path, name)
        if whole:
            load_rest(model, tensors, path, name)
    described = {
        "model": name,
        "pretrained": pretrained if tag or path is None else "file",
        "seed": spec.seed if path is None else None,
        "weights_sha256": weights_digest(visual.state_dict()),
    }
    said = config.remark(spec.model, name) if config else remark(described)
    return Loaded(
        name,
        model,
        described,
        config.preprocessing if config else tag or usual_preprocessing(name),
        (*remarks, *([said] if said else ())),
    )


def configured_model(name: str, config: WeightsConfig, *, whole: bool) -> str:
    """Return the name of the model that the file beside the weights describes.

    That is `name` or, where the weights need QuickGELU, its twin, which has it. Raises
    ExtractUsageError for a file that describes another model. The activation counts in ViTs, and
    where the `whole` model is wanted.
    """
    config.check_architecture(name, whole=whole)
    ours: dict[str, Any] = open_clip.get_model_config(name) or {}
    has_quick_gelu = bool(ours.get("quick_gelu"))
    if config.quick_gelu == has_quick_gelu or not (whole or _is_vit(ours)):
        return name
    if has_quick_gelu:
        raise config.contradiction(
            f"these weights were trained with GELU, and {name} has QuickGELU; "
            f"use --model {name.removesuffix(QUICK_GELU)}"
        )
    twin = name + QUICK_GELU
    if not _is_vit(ours):  # a ResNet's grid is the same: its name stays
        return name
    if twin not in open_clip.list_models():
        raise config.contradiction(
            f"these weights were trained with QuickGELU, and open_clip has no {twin}"
        )
    return twin


def _is_vit(config: dict[str, Any]) -> bool:
    """Return whether the image tower is open_clip's own ViT: grids of no other depend on a GELU."""
    return bool(config["vision_cfg"].get("patch_size"))


def create_model(
    name: str, *, quick_gelu: bool = False, device: str = "cpu", whole: bool = False
) -> Any:
    """Return open_clip's model with random weights and, unless `whole`, hardly any text tower."""
    config: dict[str, Any] = open_clip.get_model_config(name) or {}
    towers: dict[str, Any] = {} if whole else {"text_cfg": TEXT}
    if towers and "multimodal_cfg" in config:  # CoCa's decoder
        towers["multimodal_cfg"] = TEXT
    with quiet():
        return open_clip.create_model(
            name, device=device, force_quick_gelu=quick_gelu, pretrained_text=False, **towers
        )


def remark(described: dict[str, Any]) -> str | None:
    """Return what a user should be told of these weights, if anything."""
    model, pretrained = described["model"], described["pretrained"]
    config: dict[str, Any] = open_clip.get_model_config(model) or {}
    quick_gelu = bool(config.get("quick_gelu"))
    if pretrained == "none":
        return f"Random weights (seed {described['seed']}): grids of an untrained {model}"
    if pretrained != "file":
        tag: dict[str, Any] = open_clip.get_pretrained_cfg(model, pretrained) or {}
        if quick_gelu and not tag.get("quick_gelu"):
            return f"Run with QuickGELU, as open_clip's config of {model} says; its tag does not"
        return None
    twin = model.removesuffix(QUICK_GELU) if quick_gelu else model + QUICK_GELU
    said = []
    if _is_vit(config) and twin in open_clip.list_models():
        trained, other = ("QuickGELU", "GELU") if quick_gelu else ("GELU", "QuickGELU")
        said.append(f"run with {trained}; if they need {other}, stop and use --model {twin}")
    usual = usual_preprocessing(model)
    others = [
        name
        for name in open_clip.list_pretrained_tags_by_model(model)
        if _preprocessing_of(model, name) != tuple(usual.values())
    ]
    if others:
        said.append(f"preprocessed as most of {model}'s are; {', '.join(others)} need another")
    return f"Weights from a file, {', and '.join(said)}" if said else None


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
    if spec.pretrained == "none" or spec.pretrained in tags or os.path.lexists(spec.pretrained):
        return spec.pretrained
    local_path(spec.pretrained, remedy="download it, and pass the file")
    plain = spec.model.removesuffix(QUICK_GELU)
    if plain != spec.model and open_clip.is_pretrained_cfg(plain, spec.pretrained):
        raise ExtractUsageError(
            f"--pretrained {spec.pretrained}: trained with GELU, and {spec.model} has QuickGELU; "
            f"use --model {plain}"
        )
    raise ExtractUsageError(
        f"--pretrained {spec.pretrained}: neither a file nor a tag of {spec.model}; "
        f"its tags: {', '.join(tags) or 'none'}"
    )


def check_activation(name: str, path: Path, *, openais: bool) -> None:
    """Raise ExtractUsageError for a file of OpenAI's that would be run with GELU."""
    twin = name + QUICK_GELU
    if openais and twin in open_clip.list_models():
        raise ExtractUsageError(
            f"--pretrained {path}: these weights are OpenAI's or were rounded to float16 as "
            f"OpenAI's were, and OpenAI's need QuickGELU; use --model {twin}, or, if they were "
            f"trained with GELU, the float32 file that they were published in"
        )


def usual_preprocessing(name: str) -> dict[str, Any]:
    """Return the preprocessing of most of a model's tags, for weights that carry no tag.

    A model without tags has open_clip's default, CLIP's own.
    """
    counts = Counter(
        _preprocessing_of(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)
    )
    usual = counts.most_common(1)[0][0] if counts else _CLIP
    return dict(zip(PREPROCESSING, usual, strict=True))


_CLIP = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD, "bicubic", "shortest")


def _preprocessing_of(name: str, tag: str) -> tuple[Any, ...]:
    config: dict[str, Any] = open_clip.get_pretrained_cfg(name, tag) or {}
    return tuple(config[key] for key in PREPROCESSING)


def preprocess(config: dict[str, Any], size: int | tuple[int, int]) -> Preprocess:
    """Return open_clip's own preprocessing of a model for images of `size` pixels."""
    (red, green, blue), (red_std, green_std, blue_std) = (
        map(float, config[key]) for key in ("mean", "std")
    )
    mean, std = (red, green, blue), (red_std, green_std, blue_std)
    return Preprocess(size, config["resize_mode"], config["interpolation"], mean, std)


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
