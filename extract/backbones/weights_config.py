"""What `open_clip_config.json` says of the weights that it lies beside.

open_clip writes it beside the weights that it publishes, and reads it where it is given a folder
(`local-dir:`). The meaning of each key, and of one that is not there, is open_clip's.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import open_clip
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from ...base.jsonio import read_json
from ...base.text import printable
from ...featstore import StoreError
from ..errors import ExtractUsageError
from ..recipes.native import Interpolation, Resize
from ..recipes.recipe_checks import check_triple, check_word

FILE = "open_clip_config.json"
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
        return f"Weights from a file, preprocessed as {self.path} says{named}"

    def contradiction(self, what: str) -> ExtractUsageError:
        """Return the error for a command line that the file contradicts."""
        return ExtractUsageError(
            f"{self.path}, beside the weights: {what}; if it is not about these weights, move it "
            f"to another folder",
            code="E-WEIGHTS-CONTRADICTED",
        )


def read_config(weights: Path) -> WeightsConfig | None:
    """Return what is said beside a file of weights, None where nothing is.

    Raises ExtractUsageError for a file that open_clip could not read or obey either.
    """
    path = weights.parent / FILE
    try:
        content = read_json(path, LIMIT, follow=True)
        return _parse(path, content)
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = error.strerror
    except (ValueError, StoreError) as error:
        reason = printable(str(error))
    raise ExtractUsageError(
        f"{path}, beside the weights: {reason}; mend it, or move it to another folder if it is not "
        f"about these weights",
        code="E-WEIGHTS-CONFIG",
    )


def _parse(path: Path, content: Any) -> WeightsConfig:
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
