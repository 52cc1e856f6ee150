"""Grids equal stock open_clip, computed in float32 with the same random weights."""

import os
import subprocess
import sys
import warnings
from typing import Any

import open_clip
import pytest
import torch
from torch.nn import functional

from clipfeat.extract.backbone import Backbone, interpolate_positions, normalised
from clipfeat.extract.errors import ExtractUsageError
from clipfeat.extract.job import BackboneSpec
from clipfeat.extract.recipe import make_recipe
from clipfeat.extract.weights import load_backbone, remark


def stock_model(name, seed=0) -> Any:
    torch.manual_seed(seed)
    return open_clip.create_model(name, pretrained_text=False).eval()


def pixels_of(recipe, images=2):
    generator = torch.Generator().manual_seed(1)
    shape = (images, recipe.height, recipe.width, 3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def relative(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("name", ["RN50", "ViT-B-32"])
@torch.no_grad()
def test_native_grids_and_pooled_equal_open_clips_own_forward(name):
    backbone, described = load_backbone(BackboneSpec(name, "none", 0, "float32"), "cpu")
    recipe = make_recipe("model", backbone.native)
    pixels = pixels_of(recipe)
    grid, pooled = backbone.grids(pixels, recipe, pooled=True)
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
def test_a_larger_resnet_grid_is_layer_4_at_that_size():
    backbone, _ = load_backbone(BackboneSpec("RN50", "none", 0, "float32"), "cpu")
    recipe = make_recipe("square:160", backbone.native)
    pixels = pixels_of(recipe, 1)
    stock = stock_model("RN50").visual
    x = stock.stem(normalised(pixels, recipe))
    expected = stock.layer4(stock.layer3(stock.layer2(stock.layer1(x)))).permute(0, 2, 3, 1)
    grid, pooled = backbone.grids(pixels, recipe, pooled=False)
    assert grid.shape == (1, 5, 5, 2048)
    assert relative(grid, expected) <= 1e-5
    assert pooled is None


@torch.no_grad()
def test_a_vit_at_another_size_is_open_clip_built_at_that_size():
    """open_clip resizes the table itself when a checkpoint is loaded into a larger model."""
    backbone, _ = load_backbone(BackboneSpec("ViT-B-32", "none", 0, "float32"), "cpu")
    larger: Any = open_clip.create_model("ViT-B-32", force_image_size=288).eval()
    state = stock_model("ViT-B-32").state_dict()
    open_clip.model.resize_pos_embed(state, larger)
    larger.load_state_dict(state)
    larger.visual.output_tokens = True
    recipe = make_recipe("square:288", backbone.native)
    pixels = pixels_of(recipe)
    expected_pooled, expected = larger.visual(normalised(pixels, recipe))
    grid, pooled = backbone.grids(pixels, recipe, pooled=True)
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
    backbone._visual.train()
    recipe = make_recipe("square:32", backbone.native)
    with pytest.raises(AssertionError, match="train mode mixes the images of a batch"):
        backbone.grids(pixels_of(recipe), recipe, pooled=False)


class TestWeights:
    def test_a_checkpoint_file_gives_the_weights_it_holds(self, tmp_path):
        model = stock_model("RN50", seed=5)
        torch.save(model.state_dict(), tmp_path / "rn50.pt")
        spec = BackboneSpec("RN50", str(tmp_path / "rn50.pt"), 0, "float32")
        loaded, described = load_backbone(spec, "cpu")
        assert isinstance(loaded, Backbone)
        seeded = load_backbone(BackboneSpec("RN50", "none", 5, "float32"), "cpu")[1]
        assert described["pretrained"] == "file"
        assert described["weights_sha256"] == seeded["weights_sha256"]

    def test_a_vit_from_a_file_is_run_with_gelu_and_that_is_said(self, tmp_path):
        torch.save(stock_model("ViT-B-32").state_dict(), tmp_path / "vit.pt")
        spec = BackboneSpec("ViT-B-32", str(tmp_path / "vit.pt"), 0, "float32")
        assert "use --model ViT-B-32-quickgelu" in (remark(load_backbone(spec, "cpu")[1]) or "")

    def test_a_torchscript_archive_is_never_executed(self, tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated; OpenAI's files are not
            torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "jit.pt")
        with pytest.raises(ExtractUsageError, match="a TorchScript archive, which would be exec"):
            load_backbone(BackboneSpec("RN50", str(tmp_path / "jit.pt"), 0, "float32"), "cpu")

    def test_weights_that_cannot_be_downloaded(self, tmp_path):
        code = (
            "from clipfeat.extract.job import BackboneSpec\n"
            "from clipfeat.extract.weights import load_backbone\n"
            "load_backbone(BackboneSpec('RN50', None, 0, 'float32'), 'cpu')"
        )
        offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=offline, capture_output=True, text=True
        )
        line = done.stderr.strip().splitlines()[-1]
        assert "ExtractUsageError: --pretrained openai: the weights of RN50 cannot be" in line
        assert "pass a file: --pretrained PATH" in line

    def test_weights_of_another_model(self, tmp_path):
        torch.save({"visual.conv1.weight": torch.zeros(2)}, tmp_path / "w.pt")
        with pytest.raises(ExtractUsageError, match="the file does not fit RN50"):
            load_backbone(BackboneSpec("RN50", str(tmp_path / "w.pt"), 0, "float32"), "cpu")

    def test_a_pickle_is_never_executed(self, tmp_path):
        class Trap:
            def __reduce__(self):
                return (tmp_path / "sprung").write_text, ("!",)

        torch.save({"state_dict": Trap()}, tmp_path / "w.pt")
        with pytest.raises(ExtractUsageError, match="the file does not fit RN50"):
            load_backbone(BackboneSpec("RN50", str(tmp_path / "w.pt"), 0, "float32"), "cpu")
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.parametrize(
        ("model", "pretrained", "why"),
        [
            ("RN50x5", "none", "no such model; did you mean RN50x"),
            ("qqqq", "none", "no such model; RN50, RN50x4"),
            ("RN50", "openia", "neither a file nor a tag of RN50; its tags: openai"),
            ("ViT-H-14", None, "ViT-H-14 has no openai weights; choose from laion2b"),
            ("coca_ViT-B-32", "none", "has no grid that clipfeat can read yet"),
            ("convnext_base", "none", "has no grid that clipfeat can read yet"),
        ],
    )
    def test_refused(self, model, pretrained, why):
        with pytest.raises(ExtractUsageError, match=why):
            load_backbone(BackboneSpec(model, pretrained, 0, "float32"), "cpu")
