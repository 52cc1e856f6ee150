"""What the files of open_clip that lie with a file of weights say of it.

`open_clip_config.json` lies beside weights that are published; open_clip reads it where it is given
a folder (`local-dir:`). `params.txt` lies in the folder of a training run, whose weights are in
`checkpoints/` there. The meaning of each key, and of one that is not there, is open_clip's.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import open_clip
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from ...base.files import read_text, split_lines
from ...base.jsonio import parse_json
from ...base.text import printable
from ...featstore import StoreError
from ..errors import ExtractUsageError
from ..recipes.native import Interpolation, Resize
from ..recipes.recipe_checks import check_triple, check_word

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
