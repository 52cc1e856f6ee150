"""The files that describe a file of weights: its model, activation and preprocessing.

`open_clip_config.json` is published beside weights; open_clip reads it where it is given a folder
(`local-dir:`). `params.txt` is in the folder of a training run of open_clip, whose weights are in
its folder `checkpoints/`. `config.json` is beside the weights of Hugging Face transformers. The
meaning of each key, and of a missing one, is that of the library that wrote the file.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import open_clip
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from ...base.errors import ExtractUsageError, reason_of
from ...base.files import read_text, split_lines
from ...base.jsonio import as_struct, parse_json
from ...base.text import printable
from ...featstore.geometry import Interpolation
from ..planning.recipe import Deviations, Means, Resize
from .architecture import CUSTOM, Architecture, check_config, described_architecture, differences
from .weights_transformers import model_kind, openclip_config

CONFIG_FILE = "open_clip_config.json"
CHECKPOINTS, PARAMS = "checkpoints", "params.txt"  # of a training run: a folder, a file beside it
MAX_BYTES = 1 << 20
TRANSFORMERS, PROCESSOR = "config.json", "preprocessor_config.json"


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

    def check_architecture(self, architecture: Architecture, *, whole: bool) -> None:
        """Raise ExtractUsageError unless `architecture` is the one described.

        The text tower is compared too where the `whole` model is wanted.
        """
        differing = differences(self.model, architecture.config, whole=whole)
        if not differing:
            return
        fitting = [
            self.architecture().name,
            *(
                model
                for model in open_clip.list_models()
                if not differences(self.model, open_clip.get_model_config(model) or {}, whole=whole)
            ),
        ]
        fitting = [name for name in dict.fromkeys(fitting) if name != CUSTOM]
        remedy = f"use --model {' or '.join(fitting[:3])}" if fitting else "drop --model"
        raise self.contradiction(
            f"{architecture.name} differs from it in {', '.join(differing[:5])}; {remedy}"
        )

    def architecture(self) -> Architecture:
        """Return the architecture described."""
        return described_architecture(self.model)

    def warning(self, requested: str | None, used: str) -> str:
        """Return what to tell a user who requested one model, if any, and gets the other."""
        name = "" if used in (requested, CUSTOM) else f"; run as {used}"
        name += ", as they need QuickGELU" if name and requested else ""
        return (
            f"Weights from a file, described by {self.path}: with its mean and deviation (CLIP's if "
            f"it has none), and for --recipe model its resize{name}"
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
    folder = weights.parent
    candidates: list[tuple[Path, Callable[[str], Any]]] = [(folder / CONFIG_FILE, parse_json)]
    if folder.name == CHECKPOINTS:
        candidates.append((folder.parent / PARAMS, _parse_params))
    candidates.append((folder / TRANSFORMERS, partial(_parse_transformers, folder)))
    for path, parse in candidates:
        try:
            content = parse(read_text(path, MAX_BYTES))
            if content is not None:
                return _checked(path, content)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise unusable(path, reason_of(error)) from None
    return None


def read_model_config(path: Path) -> WeightsConfig:
    """Return the architecture in a file of the user's, in one of open_clip's two formats.

    That is the config of a model, as in open_clip's folder `model_configs`, or an
    `open_clip_config.json`, which holds one as `model_cfg`, and the preprocessing. Raises
    ExtractUsageError for a file that open_clip could not read or obey either.
    """
    try:
        content = parse_json(read_text(path, MAX_BYTES))
        if isinstance(content, dict) and "vision_cfg" in content:
            content = {"model_cfg": content}
        return _checked(path, content)
    except (OSError, ValueError) as error:
        raise ExtractUsageError(
            f"--model-config {path}: {printable(reason_of(error))}; pass a model's config in "
            f"open_clip's format (docs/backbones.md shows one)",
            code="E-MODEL-CONFIG",
        ) from None


def unusable(path: Path, reason: str) -> ExtractUsageError:
    """Return the error for a description that cannot be read or obeyed."""
    return ExtractUsageError(
        f"{path}, which describes the weights: {printable(reason)}; correct it, or move it to "
        f"another folder if it is not about them",
        code="E-WEIGHTS-CONFIG",
    )


def _parse_transformers(folder: Path, text: str) -> dict[str, Any] | None:
    """Return the config.json of a model of transformers as the content of the first file.

    None for other files of this name, which many libraries have.
    """
    config = parse_json(text)
    if model_kind(config) is None:
        return None
    try:
        processor = parse_json(read_text(folder / PROCESSOR, MAX_BYTES))
    except FileNotFoundError:
        processor = {}
    if not isinstance(processor, dict):
        raise ValueError(f"{PROCESSOR} beside it is not an object")
    return openclip_config(config, processor)


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
    check_config(model)
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
