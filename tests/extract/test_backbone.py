"""Grids equal stock open_clip, computed in float32 with the same random weights."""

from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from refused import refuses
from torch.nn import functional
from towers import pixels_of, recipe_of, relative

from clipfeat.base.errors import ExtractUsageError
from clipfeat.extract.backbones.backbone import normalised
from clipfeat.extract.backbones.tower import interpolate_positions
from clipfeat.extract.backbones.weights import load_backbone, preprocess, usual_preprocessing
from clipfeat.extract.planning.plan import BackboneSpec


def stock_model(name, seed=0) -> Any:
    torch.manual_seed(seed)
    return open_clip.create_model(name, pretrained_text=False).eval()


@pytest.mark.parametrize("name", ["RN50", "ViT-B-32"])
@torch.no_grad()
def test_native_grids_and_pooled_equal_open_clips_own_forward(name):
    backbone, described = load_backbone(BackboneSpec(name, "none", 0, "float32"), "cpu")
    recipe = recipe_of(backbone, vector="embedding")
    pixels = pixels_of((224, 224))
    grid, pooled = backbone.grids(pixels, recipe)
    stock = stock_model(name)
    images = normalised(pixels, recipe)
    if name == "RN50":
        seen = []
        stock.visual.layer4.register_forward_hook(lambda *hook: seen.append(hook[2]))
        stock.visual(images)
        expected = seen[0].permute(0, 2, 3, 1)
    else:
        stock.visual.output_tokens = True
        expected = stock.visual(images)[1].reshape(2, 7, 7, 768)
        stock.visual.output_tokens = False
    assert grid.shape == expected.shape == (2, 7, 7, backbone.dim)
    assert relative(grid, expected) <= 1e-5
    assert relative(pooled, stock.encode_image(images)) <= 1e-5
    assert (
        described["weights_sha256"]
        == load_backbone(BackboneSpec(name, "none", 0, "bfloat16"), "cpu")[1]["weights_sha256"]
    )


@torch.no_grad()
def test_a_vit_at_another_size_is_open_clip_built_at_that_size():
    """open_clip resizes the table itself when a checkpoint is loaded into a larger model."""
    backbone, _ = load_backbone(BackboneSpec("ViT-B-32", "none", 0, "float32"), "cpu")
    larger: Any = open_clip.create_model("ViT-B-32", force_image_size=288).eval()
    state = stock_model("ViT-B-32").state_dict()
    open_clip.model.resize_pos_embed(state, larger)
    larger.load_state_dict(state)
    larger.visual.output_tokens = True
    recipe = recipe_of(backbone, vector="embedding")
    pixels = pixels_of((288, 288))
    expected_pooled, expected = larger.visual(normalised(pixels, recipe))
    grid, pooled = backbone.grids(pixels, recipe)
    assert relative(grid, expected.reshape(2, 9, 9, 768)) <= 1e-5
    assert relative(pooled, expected_pooled) <= 1e-5


def test_positions_go_to_explicit_rows_and_cols():
    table = torch.arange(100.0).reshape(50, 2)
    fitted = interpolate_positions(table, (7, 7), (18, 31))
    by_hand = functional.interpolate(
        table[1:].T.reshape(1, 2, 7, 7), (18, 31), mode="bicubic", antialias=True
    )
    assert fitted.shape == (1 + 18 * 31, 2)
    torch.testing.assert_close(fitted[0], table[0])
    torch.testing.assert_close(fitted[1:], by_hand.reshape(2, -1).T)


def test_a_tower_in_train_mode_is_caught():
    backbone, _ = load_backbone(BackboneSpec("RN50", "none", 0, "float32"), "cpu")
    backbone.tower.visual.train()
    with pytest.raises(AssertionError, match="train mode mixes the images of a batch"):
        backbone.grids(pixels_of((32, 32)), recipe_of(backbone))


def test_nothing_is_kept_for_gradients():
    backbone, _ = load_backbone(BackboneSpec("ViT-S-32", "none", 0, "float32"), "cpu")
    grid, vector = backbone.grids(pixels_of((64, 64)), recipe_of(backbone, vector="embedding"))
    assert vector is not None
    assert not grid.requires_grad
    assert not vector.requires_grad
    backbone.grids(pixels_of((96, 64)), recipe_of(backbone))  # new tables, as frozen as the old
    assert not any(parameter.requires_grad for parameter in backbone.tower.visual.parameters())


@pytest.mark.parametrize(
    ("model", "pretrained", "code", "names"),
    [
        ("RN50x5", "none", "E-MODEL-UNKNOWN", ("did you mean RN50x",)),
        ("qqqq", "none", "E-MODEL-UNKNOWN", ("RN50, RN50x4",)),
        ("resnet50.a1_in1k", "none", "E-MODEL-UNKNOWN", ("--model timm/resnet50.a1_in1k",)),
        ("RN50", "openia", "E-WEIGHTS-UNKNOWN", ("tag of RN50", ": openai")),
        ("ViT-H-14", None, "E-WEIGHTS-UNKNOWN", ("ViT-H-14", "laion2b")),
        ("ViT-B-32-quickgelu", "laion2b_s34b_b79k", "E-WEIGHTS-ACTIVATION", ("--model ViT-B-32",)),
    ],
)
def test_refused_before_any_work(model, pretrained, code, names):
    with refuses(code, *names, kind=ExtractUsageError):
        load_backbone(BackboneSpec(model, pretrained, 0, "float32"), "cpu")


@pytest.mark.parametrize("seed", [10**30, 1 << 64, -(1 << 63) - 1])
def test_a_seed_that_torch_does_not_take_is_refused(seed):
    """One that was typed, and one that a store from elsewhere says it was made with."""
    with refuses("E-SEED-RANGE", kind=ExtractUsageError):
        load_backbone(BackboneSpec("RN50", "none", seed, "float32"), "cpu")


def test_a_model_whose_text_tower_would_be_downloaded_needs_no_network():
    backbone, _ = load_backbone(
        BackboneSpec("xlm-roberta-base-ViT-B-32", "none", 0, "float32"), "cpu"
    )
    assert (backbone.cell, backbone.dim, backbone.pooled_dim) == ((32, 32), 768, 512)


def test_pixels_are_normalised_as_the_weights_were_trained():
    """From open_clip's table of weights; a file and random weights carry no such entry."""
    siglip, _ = load_backbone(BackboneSpec("ViT-B-32-SigLIP2-256", "none", 0, "float32"), "cpu")
    assert (siglip.native.mean, siglip.native.resize) == ((0.5, 0.5, 0.5), "squash")
    native = preprocess(usual_preprocessing("ViT-L-14"), 224)
    assert native.mean == open_clip.OPENAI_DATASET_MEAN


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_value_of_a_pixel_is_normalised_in_float32_and_rounded_once(dtype):
    backbone, _ = load_backbone(BackboneSpec("RN50", "none", 0, "float32"), "cpu")
    recipe = recipe_of(backbone)
    values = torch.arange(256, dtype=torch.uint8)
    pixels = values.view(1, 16, 16, 1).repeat(1, 1, 1, 3)
    found = normalised(pixels, recipe, dtype)
    for channel, (mean, std) in enumerate(zip(recipe.mean, recipe.std, strict=True)):
        expected = (
            values.numpy().astype(np.float32) / np.float32(255) - np.float32(mean)
        ) / np.float32(std)
        assert torch.equal(found[0, channel].flatten(), torch.from_numpy(expected).to(dtype))
    assert found.is_contiguous(memory_format=torch.channels_last)
