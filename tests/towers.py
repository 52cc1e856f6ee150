"""Stock open_clip models and the backbones around the same weights."""

import copy
import functools
from typing import Any

import open_clip
import torch

from clipfeat.extract.backbones.backbone import Backbone
from clipfeat.extract.backbones.tower import make_tower
from clipfeat.extract.backbones.weights import preprocess, usual_preprocessing
from clipfeat.extract.planning.recipe import make_recipe

TEXT = {"context_length": 8, "vocab_size": 8, "width": 64, "heads": 1, "layers": 1}


@functools.cache
def stock_model(name, seed=0) -> Any:
    """Return open_clip's model, less most blocks, every parameter away from where it starts.

    Biases, class tokens and layer scales start near 0 or 1, where a mistake would not show. The
    blocks are alike; three of them, or two a stage, make every mistake that all would make.
    """
    torch.manual_seed(seed)
    towers: dict[str, Any] = {"text_cfg": TEXT}
    if "multimodal_cfg" in (open_clip.get_model_config(name) or {}):
        towers["multimodal_cfg"] = TEXT
    model: Any = open_clip.create_model(name, pretrained_text=False, **towers).eval()
    shorten(model.visual)
    with torch.no_grad():
        for parameter in model.visual.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
        for key, buffer in model.visual.named_buffers():
            if key.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            if key.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return model


def shorten(visual):
    if hasattr(visual, "transformer"):
        visual.transformer.resblocks = visual.transformer.resblocks[:3]
    trunk: Any = getattr(visual, "trunk", None)
    if hasattr(trunk, "blocks"):
        trunk.blocks = trunk.blocks[:3]
    for stage in getattr(trunk, "stages", getattr(trunk, "layers", [])):
        stage.blocks = stage.blocks[:2]


def backbone_around(model, name, precision="float32") -> Backbone:
    """Return a backbone with a copy of a stock model's image tower."""
    visual = copy.deepcopy(model.visual)
    native = preprocess(usual_preprocessing(name), visual.image_size)
    config: Any = open_clip.get_model_config(name)
    tower = make_tower(visual, config["embed_dim"])
    assert tower is not None
    return Backbone(tower, native, precision, "cpu")


def recipe_of(backbone, layer: Any = "final", vector: Any = None):
    """Return a recipe with the backbone's mean and deviation, whatever the size of its images."""
    return make_recipe("model", backbone.native, backbone.cell, layer=layer, vector=vector)


def pixels_of(size, images=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (images, *size, 3), generator=generator, dtype=torch.uint8)


def relative(ours, theirs):
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
