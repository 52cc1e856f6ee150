"""The files of open_clip that describe a file of weights: model, activation and preprocessing.

`open_clip_config.json` is published beside weights; open_clip reads it where it is given a folder
(`local-dir:`). `params.txt` is in the folder of a training run, whose weights are in its folder
`checkpoints/`. The meaning of each key, and of a missing one, is open_clip's.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import open_clip
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from ...base.errors import ExtractUsageError, reason_of
from ...base.files import read_text, split_lines
from ...base.jsonio import as_struct, parse_json
from ...base.text import printable
from ...featstore.geometry import Interpolation
from ..planning.recipe import Deviations, Means, Resize

CONFIG_FILE = "open_clip_config.json"
CHECKPOINTS, PARAMS = "checkpoints", "params.txt"  # of a training run: a folder, a file beside it
MAX_BYTES = 1 << 20
# Settings that act in training alone, or say where to start training from.
TRAINING_ONLY = {
    *("timm_drop", "timm_drop_path", "timm_model_pretrained", "patch_dropout"),
    "hf_model_pretrained",
}


class PreprocessConfig(msgspec.Struct, frozen=True):
    """The part of open_clip's preprocessing settings that clipfeat uses."""

    mean: Means
    std: Deviations
    interpolation: Interpolation
    resize_mode: Resize


@dataclass(frozen=True)
class WeightsConfig:
    """What such a file says of the weights."""

    path: Path  # of the file
    quick_gelu: bool
    preprocessing: PreprocessConfig
    model: dict[str, Any]  # model_cfg, unchanged

    def check_architecture(self, name: str, *, whole: bool) -> None:
        """Raise ExtractUsageError unless open_clip's model `name` is the one described.

        The text tower is compared too where the `whole` model is wanted.
        """

        def differences(model: str) -> list[str]:
            return _differences(self.model, open_clip.get_model_config(model) or {}, whole=whole)

        if not (differing := differences(name)):
            return
        fitting = [model for model in open_clip.list_models() if not differences(model)]
        remedy = f"use --model {' or '.join(fitting[:3])}" if fitting else "name the model it is of"
        raise self.contradiction(f"{name} differs from it in {', '.join(differing[:5])}; {remedy}")

    def warning(self, requested: str, used: str) -> str:
        """Return what to tell a user who requested one model and gets the other."""
        twin = f"; run as {used}, as they need QuickGELU" if used != requested else ""
        return (
            f"Weights from a file, with the mean and deviation that {self.path} says, and for "
            f"--recipe model its resize{twin}"
        )

    def contradiction(self, problem: str) -> ExtractUsageError:
        """Return the error for a model that the file contradicts."""
        return ExtractUsageError(
            f"{self.path}, which describes the weights: {problem}; if it is not about them, move "
            f"it to another folder",
            code="E-WEIGHTS-CONTRADICTED",
        )


def read_config(weights: Path) -> WeightsConfig | None:
    """Return what describes a file of weights, None where nothing does.

    Raises ExtractUsageError for a description that open_clip could not read or obey either.
    """
    candidates: list[tuple[Path, Callable[[str], Any]]] = [
        (weights.parent / CONFIG_FILE, parse_json)
    ]
    if weights.parent.name == CHECKPOINTS:
        candidates.append((weights.parent.parent / PARAMS, _parse_params))
    for path, parse in candidates:
        try:
            return _checked(path, parse(read_text(path, MAX_BYTES)))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            reason = printable(reason_of(error))
        raise ExtractUsageError(
            f"{path}, which describes the weights: {reason}; correct it, or move it to another "
            f"folder if it is not about them",
            code="E-WEIGHTS-CONFIG",
        )
    return None


def _parse_params(text: str) -> dict[str, Any]:
    """Return the options of a training run, one a line, as the content of the other file."""
    options = dict(line.split(": ", 1) for line in split_lines(text) if ": " in line)
    options = {key: value for key, value in options.items() if value != "None"}
    name = options.get("model", "").replace("/", "-")
    if name not in open_clip.list_models():
        raise ValueError(f"its model {name!r:.80} is not one of open_clip's names")
    model: dict[str, Any] = open_clip.get_model_config(name) or {}
    model["quick_gelu"] = bool(model.get("quick_gelu")) or options.get("force_quick_gelu") == "True"
    if "force_image_size" in options:
        size = parse_json(options["force_image_size"])
        is_single = isinstance(size, list) and len(size) == 1
        model["vision_cfg"]["image_size"] = size[0] if is_single else size
    tag = open_clip.get_pretrained_cfg(name, options.get("pretrained", ""))
    preprocess: dict[str, Any] = tag or {}
    for key in ("mean", "std"):
        if f"image_{key}" in options:
            preprocess[key] = parse_json(options[f"image_{key}"])
    for key in ("interpolation", "resize_mode"):
        preprocess[key] = options.get(f"image_{key}", preprocess.get(key))
    return {"model_cfg": model, "preprocess_cfg": preprocess}


def _checked(path: Path, content: Any) -> WeightsConfig:
    """Return the content of a file that open_clip and clipfeat can obey; ValueError for others."""
    model = content.get("model_cfg") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise ValueError("has no model_cfg, with which open_clip describes a model")
    given = content.get("preprocess_cfg") or {}
    if not isinstance(given, dict):
        raise ValueError("preprocess_cfg is not an object")
    settings = merge_preprocess_dict(asdict(PreprocessCfg()), given)
    if settings["mode"] != "RGB" or settings["fill_color"] != 0:
        raise ValueError("preprocess_cfg: clipfeat reads images as RGB and pads them with black")
    for key in ("mean", "std"):
        numbers = settings[key]
        if isinstance(numbers, int | float):  # one number stands for all channels
            settings[key] = [numbers] * 3
    preprocessing = as_struct(settings, PreprocessConfig, "preprocess_cfg")
    return WeightsConfig(path, bool(model.get("quick_gelu")), preprocessing, model)


def _differences(
    described: Mapping[str, Any], built_in: Mapping[str, Any], *, whole: bool
) -> list[str]:
    """Return the settings in which two models differ, each with both values."""
    sections = [("vision_cfg", CLIPVisionCfg), ("text_cfg", CLIPTextCfg)]
    pairs = [("embed_dim", described.get("embed_dim"), built_in.get("embed_dim"))]
    for section, kind in sections if whole else sections[:1]:
        one, other = (_settings(model.get(section), kind) for model in (described, built_in))
        pairs += [(key, one.get(key), other.get(key)) for key in sorted({*one, *other})]
    return [
        f"{key} ({printable(f'{one!r:.60}')} there, {other!r:.60} here)"
        for key, one, other in pairs
        if one != other
    ]


def _settings(given: Any, kind: type[CLIPVisionCfg | CLIPTextCfg]) -> dict[str, Any]:
    """Return all settings that matter when a tower is used, with open_clip's defaults."""
    settings = {**asdict(kind()), **(given if isinstance(given, dict) else {})}
    return {
        key: None if value == {} else value
        for key, value in settings.items()
        if key not in TRAINING_ONLY
    }
