"""Folders of Hugging Face transformers, against the features of transformers itself."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from refused import refuses
from towers import relative
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionModelWithProjection,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from clipfeat.base.errors import ExtractUsageError
from clipfeat.extract.backbones.architecture import described_architecture
from clipfeat.extract.backbones.weights import load_backbone, load_model
from clipfeat.extract.backbones.weights_transformers import openclip_config
from clipfeat.extract.planning.plan import BackboneSpec
from clipfeat.extract.planning.recipe import make_recipe

TEXT = {
    "vocab_size": 99, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
    "num_attention_heads": 3, "max_position_embeddings": 12, "eos_token_id": 98,
}  # fmt: skip


def vision(
    side: int, patch: int, width: int, heads: int, inner: int, **more: Any
) -> dict[str, Any]:
    return {
        "image_size": side, "patch_size": patch, "hidden_size": width, "num_hidden_layers": 3,
        "num_attention_heads": heads, "intermediate_size": inner, **more,
    }  # fmt: skip


VISIONS = [
    vision(64, 16, 64, 2, 256),
    vision(48, 8, 96, 4, 219),  # ratios that are no whole numbers, of which one is rounded
    vision(42, 14, 72, 3, 269),
]
ACTIVATIONS = ["quick_gelu", "gelu", "gelu_pytorch_tanh"]


def spread(model: Any) -> Any:
    """Give a model weights that make each part of it matter: transformers' own are nearly zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim > 1:
                scale = 0.5 if "embedding" in name or "probe" in name else tensor[0].numel() ** -0.5
                tensor.normal_(0, scale, generator=generator)
            elif tensor.ndim == 1:
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.2)
    return model.eval()


def clip(size: dict[str, Any], activation: str = "quick_gelu") -> Any:
    config = CLIPConfig(
        vision_config=size | {"hidden_act": activation, "projection_dim": 40},
        text_config=TEXT | {"hidden_act": activation},
        projection_dim=40,
    )
    return spread(CLIPModel(config))


def siglip(size: dict[str, Any], activation: str = "gelu_pytorch_tanh") -> Any:
    text = TEXT | {"hidden_act": activation, "projection_size": size["hidden_size"]}
    config = SiglipConfig(vision_config=size | {"hidden_act": activation}, text_config=text)
    return spread(SiglipModel(config))


def features(output: Any) -> torch.Tensor:
    """Return the features; newer versions of transformers return them with the layers' output."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def load(folder: Path, model: str | None = None) -> tuple[Any, dict[str, Any]]:
    return load_backbone(BackboneSpec(model, str(folder), 0, "float32"), "cpu")


def check(stock: Any, folder: Path) -> dict[str, Any]:
    """Compare the embeddings of images and of texts, and return what a store says."""
    backbone, described = load(folder)
    recipe = make_recipe("model", backbone.native, backbone.cell, vector="embedding")
    side = stock.config.vision_config.image_size
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (2, side, side, 3), generator=generator, dtype=torch.uint8)
    mean, std = torch.tensor(recipe.mean), torch.tensor(recipe.std)
    tokens = torch.randint(1, 97, (3, 12), generator=generator)
    tokens[:, -1] = 98
    with torch.inference_mode():
        images = ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)
        expected = features(stock.get_image_features(pixel_values=images))
        texts = features(stock.get_text_features(input_ids=tokens))
        whole = load_model(BackboneSpec(None, str(folder), 0, "float32"), whole=True).model.eval()
        assert relative(whole.encode_text(tokens), texts) <= 1e-5
    _, found = backbone.grids(pixels, recipe)
    assert found is not None
    assert relative(found, expected) <= 1e-5
    return described


@pytest.mark.parametrize("build", [clip, siglip])
@pytest.mark.parametrize(("size", "activation"), [*zip(VISIONS, ACTIVATIONS, strict=True)])
def test_features_are_those_of_transformers(
    tmp_path: Path, build: Any, size: dict[str, Any], activation: str
) -> None:
    stock = build(size, activation)
    stock.save_pretrained(tmp_path)
    described = check(stock, tmp_path)
    assert described["model"] == "custom"
    assert described["model_config"]["vision_cfg"]["image_size"] == size["image_size"]


@pytest.mark.parametrize("build", [clip, siglip])
@pytest.mark.parametrize("form", ["shards", "bin"])
def test_every_form_of_a_folder_gives_the_same(tmp_path: Path, build: Any, form: str) -> None:
    stock = build(VISIONS[0])
    if form == "shards":
        stock.save_pretrained(tmp_path, max_shard_size="200KB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
    else:
        stock.save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").unlink()
        torch.save(stock.state_dict(), tmp_path / "pytorch_model.bin")
    check(stock, tmp_path)


def test_an_image_tower_alone(tmp_path: Path) -> None:
    stock = clip(VISIONS[0])
    stock.save_pretrained(tmp_path / "whole")
    tower = CLIPVisionModelWithProjection.from_pretrained(tmp_path / "whole")
    tower.save_pretrained(tmp_path / "tower")
    assert load(tmp_path / "tower")[1] == load(tmp_path / "whole")[1]


def test_the_image_processor_decides_the_preprocessing(tmp_path: Path) -> None:
    for build, processor, expected in (
        (clip, CLIPImageProcessor(), ("shortest", "bicubic", open_clip.OPENAI_DATASET_MEAN)),
        (siglip, SiglipImageProcessor(), ("squash", "bicubic", (0.5, 0.5, 0.5))),
        (clip, CLIPImageProcessor(resample=2, image_mean=[0.1, 0.2, 0.3]), ("shortest", "bilinear", (0.1, 0.2, 0.3))),
    ):  # fmt: skip
        build(VISIONS[0]).save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        native = load(tmp_path)[0].native
        assert (native.resize, native.interpolation, native.mean) == expected
        assert native.height_width == (64, 64)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("ViT-B-32-quickgelu", {}),
        ("ViT-L-14-quickgelu", {
            "projection_dim": 768,
            "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
            "vision_config": {"hidden_size": 1024, "intermediate_size": 4096,
                              "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14},
        }),
        ("ViT-bigG-14", {
            "projection_dim": 1280,
            "text_config": {"hidden_size": 1280, "intermediate_size": 5120, "hidden_act": "gelu",
                            "num_attention_heads": 20, "num_hidden_layers": 32},
            "vision_config": {"hidden_size": 1664, "intermediate_size": 8192, "hidden_act": "gelu",
                              "num_attention_heads": 16, "num_hidden_layers": 48, "patch_size": 14},
        }),
    ],
)  # fmt: skip
def test_published_models_get_open_clips_name(name: str, config: dict[str, Any]) -> None:
    """The configs of openai/clip-vit-base-patch32, -large-patch14 and laion's of bigG."""
    described = openclip_config({"model_type": "clip"} | config, {})["model_cfg"]
    assert described_architecture(described).name == name


@pytest.mark.parametrize(
    ("config", "processor"),
    [
        ({"vision_config": {"hidden_act": "swish"}}, {}),
        ({"vision_config": {"hidden_act": "gelu"}}, {}),  # and quick_gelu in the text tower
        ({"vision_config": {"num_channels": 1}}, {}),
        ({"vision_config": []}, {}),
        ({"projection_dim": "512"}, {}),
        ({"model_type": "siglip", "vision_config": {"vision_use_head": False}}, {}),
        ({"model_type": "siglip", "vision_config": {"layer_norm_eps": 1e-5}}, {}),
        ({}, {"resample": 1}),
        ({}, {"rescale_factor": 1}),
        ({}, {"do_resize": False}),
        ({}, {"image_mean": [1, 2]}),
    ],
)
def test_settings_that_cannot_be_obeyed(
    tmp_path: Path, config: dict[str, Any], processor: dict[str, Any]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"} | config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    (tmp_path / "model.safetensors").touch()
    with refuses("E-WEIGHTS-CONFIG", "config.json", kind=ExtractUsageError):
        load(tmp_path)


def test_the_model_must_fit_where_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}')
    (tmp_path / "model.safetensors").touch()
    with refuses("E-WEIGHTS-CONTRADICTED", "drop --model", kind=ExtractUsageError):
        load(tmp_path, "ViT-B-16-SigLIP")
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with refuses("E-WEIGHTS-CONTRADICTED", "--model ViT-B-32", kind=ExtractUsageError):
        load(tmp_path, "ViT-B-16-quickgelu")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with refuses("E-MODEL-MISSING", kind=ExtractUsageError):
        load(tmp_path)
