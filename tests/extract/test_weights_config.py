"""The files that describe weights, against stock open_clip given the folder or the options."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from logged import logged
from open_clip_train.params import parse_args
from pictures import photograph, write_photographs
from PIL import Image
from refused import refuses
from towers import TEXT, relative

from clipfeat.base.errors import ExtractUsageError
from clipfeat.extract import ExtractConfig, extract_images
from clipfeat.extract.backbones.backbone import normalised
from clipfeat.extract.backbones.weights import load_backbone
from clipfeat.extract.embedding import load_text_tower
from clipfeat.extract.pixels.images import load_picture
from clipfeat.extract.planning.plan import BackboneSpec
from clipfeat.extract.planning.recipe import make_recipe
from clipfeat.extract.recompute import recompute
from clipfeat.manifests import folder_manifest

VISION = {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16}
TINY = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT}
LARGER = {**TINY, "vision_cfg": {**VISION, "image_size": 96}}
SIGLIPS = {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.6, 0.7]}


@pytest.fixture(autouse=True)
def _small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have open_clip know models that take no time, one of them with a twin."""
    known = open_clip.factory._MODEL_CONFIGS
    for name, config in {
        "tiny": TINY,
        "tiny-quickgelu": {**TINY, "quick_gelu": True},
        "tiny-96": LARGER,
    }.items():
        monkeypatch.setitem(known, name, config)


def stock_weights() -> dict[str, Any]:
    torch.manual_seed(1)
    return open_clip.create_model("tiny").state_dict()


def published(folder: Path, config: dict[str, Any]) -> Any:
    """Write weights into a folder as open_clip publishes them; return open_clip's own model."""
    torch.save(stock_weights(), folder / "open_clip_pytorch_model.bin")
    describe(folder, config)
    stock, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return stock.eval(), transform


def describe(folder: Path, config: dict[str, Any]) -> None:
    (folder / "open_clip_config.json").write_text(json.dumps(config))


def spec_of(folder: Path, model: str = "tiny") -> BackboneSpec:
    return BackboneSpec(model, str(folder / "open_clip_pytorch_model.bin"), 0, "float32")


@pytest.mark.parametrize(
    ("model", "preprocessing"),
    [
        ({}, {**SIGLIPS, "interpolation": "bilinear", "resize_mode": "squash"}),
        ({}, {**SIGLIPS, "resize_mode": "longest", "size": 224, "fill_color": 0}),
        ({}, {"mean": 0.25, "std": [0.5, 0.5, 0.5], "interpolation": None}),
        ({}, {}),
        ({"quick_gelu": True}, SIGLIPS),
    ],
)
def test_features_are_stock_open_clips(
    tmp_path: Path, model: dict[str, Any], preprocessing: dict[str, Any]
) -> None:
    config = {"model_cfg": {**copy.deepcopy(TINY), **model}, "preprocess_cfg": preprocessing}
    stock, transform = published(tmp_path, config)
    photograph(5, 100, 75).save(tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image, torch.inference_mode():
        expected = stock.encode_image(transform(image)[None])
    with logged() as messages:
        backbone, described = load_backbone(spec_of(tmp_path), "cpu")
    recipe = make_recipe("model", backbone.native, backbone.cell, vector="embedding")
    pixels = load_picture("p.png", str(tmp_path), recipe).pixels
    assert pixels is not None
    _, found = backbone.grids(torch.tensor(pixels)[None], recipe)
    assert found is not None
    assert relative(found, expected) <= 1e-5
    assert described["model"] == ("tiny-quickgelu" if model else "tiny")
    assert len(messages) == 1
    assert "open_clip_config.json" in messages[0]


def test_a_training_run_says_what_its_checkpoints_need(tmp_path: Path) -> None:
    """As open_clip_train writes `params.txt`, against open_clip with the same options."""
    (tmp_path / "checkpoints").mkdir()
    stock = stock_weights()
    torch.save({"state_dict": stock, "epoch": 1}, tmp_path / "checkpoints/epoch_1.pt")
    options = (
        "--model tiny --force-quick-gelu --image-resize-mode squash "
        "--image-mean 0.5 0.4 0.3 --image-std 0.5 0.6 0.7"
    )
    args = parse_args(options.split())
    (tmp_path / "params.txt").write_text(
        "".join(f"{key}: {value}\n" for key, value in sorted(vars(args).items()))
    )
    transform: Any = open_clip.create_model_and_transforms(
        "tiny",
        force_quick_gelu=args.force_quick_gelu,
        image_mean=args.image_mean,
        image_std=args.image_std,
        image_resize_mode=args.image_resize_mode,
    )[2]
    spec = BackboneSpec("tiny", str(tmp_path / "checkpoints/epoch_1.pt"), 0, "float32")
    backbone, described = load_backbone(spec, "cpu")
    recipe = make_recipe("model", backbone.native, backbone.cell)
    photograph(5, 100, 75).save(tmp_path / "p.png")
    pixels = load_picture("p.png", str(tmp_path), recipe).pixels
    assert pixels is not None
    with Image.open(tmp_path / "p.png") as image:
        expected = transform(image)
    torch.testing.assert_close(normalised(torch.tensor(pixels)[None], recipe)[0], expected)
    assert described["model"] == "tiny-quickgelu"
    (tmp_path / "params.txt").write_text("model: tiny\nforce_image_size: [96]\n")
    with refuses("E-WEIGHTS-CONTRADICTED", "use --model tiny-96", kind=ExtractUsageError):
        load_backbone(spec, "cpu")
    (tmp_path / "params.txt").write_text("model: hf-hub:somebody/model\n")
    with refuses("E-WEIGHTS-CONFIG", kind=ExtractUsageError):
        load_backbone(spec, "cpu")


def test_texts_are_embedded_with_the_described_activation(tmp_path: Path) -> None:
    config = copy.deepcopy(TINY) | {"quick_gelu": True}
    stock, _ = published(tmp_path, {"model_cfg": config, "preprocess_cfg": SIGLIPS})
    tower, described = load_text_tower(spec_of(tmp_path), "cpu")
    tokens = torch.ones(1, TEXT["context_length"], dtype=torch.long)
    tower._tokenizer = lambda texts: tokens
    with torch.inference_mode():
        expected = stock.encode_text(tokens, normalize=True)
    assert relative(torch.from_numpy(tower.embed([""])), expected) <= 1e-5
    assert described["model"] == "tiny-quickgelu"


@pytest.mark.parametrize(
    ("model", "config", "remedy"),
    [
        ("tiny", {"model_cfg": LARGER}, "use --model tiny-96;"),
        ("tiny-96", {"model_cfg": TINY}, "use --model tiny or tiny-quickgelu;"),
        ("tiny", {"model_cfg": {**TINY, "embed_dim": 48}}, "drop --model"),
        ("tiny", {"model_cfg": {**TINY, "vision_cfg": {**VISION, "layers": 3}}}, "drop --model"),
        ("tiny-quickgelu", {"model_cfg": TINY}, "use --model tiny;"),
        ("tiny-96", {"model_cfg": {**LARGER, "quick_gelu": True}}, "no tiny-96-quickgelu"),
    ],
)
def test_a_model_that_is_not_the_one_described_is_refused(
    tmp_path: Path, model: str, config: dict[str, Any], remedy: str
) -> None:
    (tmp_path / "open_clip_pytorch_model.bin").touch()
    describe(tmp_path, config)
    with refuses("E-WEIGHTS-CONTRADICTED", remedy, kind=ExtractUsageError):
        load_backbone(spec_of(tmp_path, model), "cpu")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        "[" * 100_000,
        '{"model_cfg": []}',
        '{"model_cfg": {}}',
        json.dumps({"model_cfg": TINY, "preprocess_cfg": [1]}),
        *(
            json.dumps({"model_cfg": TINY, "preprocess_cfg": wrong})
            for wrong in (
                {"mean": ["a", 0, 0]},
                {"mean": [0.5, 0.5]},
                {"std": [0, 0.5, 0.5]},
                {"std": 1e400},
                {"interpolation": "lanczos"},
                {"resize_mode": ["shortest"]},
                {"mode": "L"},
                {"fill_color": 255},
            )
        ),
        " " * (2 << 20),
        None,
    ],
)
def test_a_description_that_cannot_be_obeyed_is_refused(
    tmp_path: Path, content: str | None
) -> None:
    (tmp_path / "open_clip_pytorch_model.bin").touch()
    if content is None:
        os.mkfifo(tmp_path / "open_clip_config.json")
    else:
        (tmp_path / "open_clip_config.json").write_text(content)
    with refuses("E-WEIGHTS-CONFIG", kind=ExtractUsageError):
        load_backbone(spec_of(tmp_path), "cpu")


def test_a_store_says_which_model_was_used(tmp_path: Path) -> None:
    """A store that was made without the description is not accepted as right."""
    published(tmp_path, {"model_cfg": TINY})
    described = tmp_path / "open_clip_config.json"
    content = json.loads(described.read_text())
    described.unlink()
    images = tmp_path / "images"
    images.mkdir()
    write_photographs(images, 3)

    def extract(name: str) -> Any:
        config = ExtractConfig(
            model="tiny", pretrained=spec_of(tmp_path).pretrained, recipe="square:32", device="cpu"
        )
        return extract_images(folder_manifest(images), tmp_path / name, config).store

    def again(store: Any) -> str:
        pretrained = spec_of(tmp_path).pretrained
        return recompute(store, str(images), 3, pretrained=pretrained, device="cpu").verdict

    before = extract("before")
    assert before.identity.backbone["model"] == "tiny"
    assert again(before) == "same bits"
    content["model_cfg"]["quick_gelu"] = True
    describe(tmp_path, {**content, "preprocess_cfg": SIGLIPS})
    after = extract("after")
    assert after.identity.backbone["model"] == "tiny-quickgelu"
    assert after.identity.recipe["mean"] == SIGLIPS["mean"]
    assert again(after) == "same bits"
    with refuses("E-WEIGHTS-CONTRADICTED", kind=ExtractUsageError):
        again(before)
