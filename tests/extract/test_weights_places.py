"""Folders, repositories, shards and architectures of a user's own, against stock open_clip."""

import copy
import json
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import pytest
import torch
from pictures import write_photographs
from refused import refuses
from safetensors.torch import save_file
from towers import TEXT, relative

from clipfeat.base.errors import ExtractUsageError, UsageError
from clipfeat.extract import ExtractConfig, extract_images
from clipfeat.extract.backbones.weights import load_backbone
from clipfeat.extract.embedding import text_embedder
from clipfeat.extract.planning.plan import BackboneSpec
from clipfeat.extract.planning.recipe import make_recipe
from clipfeat.extract.recompute import recompute
from clipfeat.manifests import folder_manifest

TIMM = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "map"}
VISION = {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16}
# open_clip has no such model.
OWN = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT}
PREPROCESSING = {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.6, 0.7], "resize_mode": "squash"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as open_clip publishes a model."""
    folder = tmp_path_factory.mktemp("published")
    content = {"model_cfg": OWN, "preprocess_cfg": PREPROCESSING}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    torch.manual_seed(1)
    model: Any = open_clip.create_model(f"local-dir:{folder}")
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (2, 64, 64, 3), generator=generator, dtype=torch.uint8)


def check(spec: BackboneSpec, folder: Path) -> dict[str, Any]:
    """Compare the features with those of open_clip's own model, and return what a store says."""
    stock: Any = open_clip.create_model(f"local-dir:{folder}").eval()
    backbone, described = load_backbone(spec, "cpu")
    assert list(backbone.native.mean) == PREPROCESSING["mean"]
    recipe = make_recipe("model", backbone.native, backbone.cell, vector="embedding")
    _, found = backbone.grids(images(), recipe)
    mean, std = (torch.tensor(PREPROCESSING[key]) for key in ("mean", "std"))
    with torch.inference_mode():
        expected = stock.encode_image(((images() / 255 - mean) / std).permute(0, 3, 1, 2))
    assert found is not None
    assert relative(found, expected) <= 1e-5
    return described


def spec(model: str | None, pretrained: str | None, **more: Any) -> BackboneSpec:
    return BackboneSpec(model, pretrained, 0, "float32", **more)


def test_a_folder_is_a_model_with_its_weights(folder: Path) -> None:
    described = [
        check(spec(None, str(folder)), folder),
        check(spec(None, f"local-dir:{folder}"), folder),
        check(spec(f"local-dir:{folder}", None), folder),
        check(spec(None, str(folder / "open_clip_model.safetensors")), folder),
    ]
    assert all(each == described[0] for each in described)
    assert described[0]["model"] == "custom"
    assert described[0]["pretrained"] == "file"
    assert described[0]["model_config"] == {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 64},
    }
    with refuses("E-WEIGHTS-TWICE", kind=ExtractUsageError):
        load_backbone(spec(f"local-dir:{folder}", "none"), "cpu")
    with refuses("E-WEIGHTS-CONTRADICTED", "embed_dim", "drop --model", kind=ExtractUsageError):
        load_backbone(spec("ViT-B-32", str(folder)), "cpu")


def test_an_architecture_that_open_clip_has_keeps_its_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-quickgelu", copy.deepcopy(OWN))
    described = check(spec(None, str(folder)), folder)
    assert described["model"] == "tiny-quickgelu"
    assert "model_config" not in described
    assert check(spec("tiny-quickgelu", str(folder)), folder) == described


def shards_in(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Write the weights in two files and an index, as huggingface_hub does."""
    keys = sorted(state)
    parts = (keys[: len(keys) // 2], keys[len(keys) // 2 :])
    names = [f"model-{number}-of-2.safetensors" for number in (1, 2)]
    for name, part in zip(names, parts, strict=True):
        save_file({key: state[key] for key in part}, folder / name)
    weight_map = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    content = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def test_weights_in_several_files(folder: Path, tmp_path: Path) -> None:
    state = open_clip.create_model(f"local-dir:{folder}").state_dict()
    (tmp_path / "open_clip_config.json").write_bytes(
        (folder / "open_clip_config.json").read_bytes()
    )
    shards_in(tmp_path, state)
    expected = check(spec(None, str(folder)), folder)
    assert check(spec(None, str(tmp_path)), folder) == expected
    index = tmp_path / "model.safetensors.index.json"
    assert check(spec(None, str(index)), folder) == expected
    content = json.loads(index.read_text())
    for wrong, said in (("../w.safetensors", "not a file name"), (index.name, "JSON")):
        key = next(iter(content["weight_map"]))
        other = {"weight_map": content["weight_map"] | {key: wrong}}
        index.write_text(json.dumps(other))
        with pytest.raises(ExtractUsageError, match=said):
            load_backbone(spec(None, str(tmp_path)), "cpu")
    index.write_text(json.dumps({"weight_map": content["weight_map"] | {"absent": wrong}}))
    (tmp_path / "model-2-of-2.safetensors").unlink()
    index.write_text(json.dumps(content))
    with refuses("E-WEIGHTS-FILE", "model-2-of-2", kind=ExtractUsageError):
        load_backbone(spec(None, str(tmp_path)), "cpu")


def test_a_repository_of_the_hub_is_taken_from_its_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network: a cache as the hub's client leaves it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    place = tmp_path / "models--some--model"
    snapshot = place / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs/main").write_text("0" * 40)
    for file in folder.iterdir():
        (snapshot / file.name).hardlink_to(file)
    for names in (("hf-hub:some/model", None), (None, "hf-hub:some/model")):
        assert check(spec(*names), folder)["model"] == "custom"
    with refuses("E-WEIGHTS-DOWNLOAD", "other/model", "does not answer", "--pretrained FOLDER"):
        load_backbone(spec(None, "hf-hub:other/model"), "cpu")


@pytest.mark.parametrize("form", ["model", "published"])
def test_an_architecture_of_the_users_own(folder: Path, tmp_path: Path, form: str) -> None:
    (tmp_path / "weights.safetensors").hardlink_to(folder / "open_clip_model.safetensors")
    content = {"model_cfg": OWN, "preprocess_cfg": PREPROCESSING}
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps(OWN if form == "model" else content))
    given = spec(None, str(tmp_path / "weights.safetensors"), model_config=str(mine))
    if form == "model":  # without preprocessing it has CLIP's
        backbone, described = load_backbone(given, "cpu")
        assert backbone.native.mean == open_clip.OPENAI_DATASET_MEAN
    else:
        described = check(given, folder)
    assert described == check(spec(None, str(folder)), folder)
    spelled_out = OWN | {"vision_cfg": VISION | {"head_width": 64, "mlp_ratio": 4.0}}
    (tmp_path / "other name.json").write_text(json.dumps(spelled_out))
    given = spec(None, "none", model_config=str(tmp_path / "other name.json"))
    assert load_backbone(given, "cpu")[1]["model_config"] == described["model_config"]


def test_models_that_are_not_named_or_named_twice(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").hardlink_to(folder / "open_clip_model.safetensors")
    (tmp_path / "mine.json").write_text(json.dumps(OWN))
    mine = str(tmp_path / "mine.json")
    for code, given in (
        ("E-MODEL-MISSING", spec(None, None)),
        ("E-MODEL-MISSING", spec(None, "none")),
        ("E-MODEL-MISSING", spec(None, str(tmp_path / "w.safetensors"))),
        ("E-MODEL-TWICE", spec("RN50", "none", model_config=mine)),
        ("E-WEIGHTS-UNKNOWN", spec(None, None, model_config=mine)),
        ("E-WEIGHTS-KIND", spec("RN50", str(tmp_path))),
        ("E-WEIGHTS-KIND", spec(None, str(tmp_path))),
        ("E-WEIGHTS-FILE", spec(f"local-dir:{tmp_path}/none", None)),
        ("E-PATH-URL", spec(None, "none", model_config="https://example.org/mine.json")),
        ("E-WEIGHTS-AVERAGE", spec("RN50", "none", ema=True)),
        (
            "E-WEIGHTS-AVERAGE",
            spec(None, str(tmp_path / "w.safetensors"), model_config=mine, ema=True),
        ),
    ):
        with refuses(code, kind=UsageError):
            load_backbone(given, "cpu")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        json.dumps({"embed_dim": 8, "vision_cfg": [], "text_cfg": {}}),
        json.dumps(OWN | {"embed_dim": "8"}),
        json.dumps(OWN | {"vision_cfg": VISION | {"layers": 10**9}}),
        json.dumps(OWN | {"vision_cfg": VISION | {"layers": 0}}),
        json.dumps(OWN | {"vision_cfg": VISION | {"layers": [1, 1, -1, 1]}}),
        json.dumps(OWN | {"vision_cfg": VISION | {"pool_type": "none that exists"}}),
        json.dumps(OWN | {"vision_cfg": VISION | {"width": 1e300}}),
        json.dumps(OWN | {"vision_cfg": VISION | {"wings": 2}}),
        json.dumps(OWN | {"vision_cfg": {"timm_model_name": "hf-hub:some/model"}}),
        json.dumps(OWN | {"vision_cfg": {"timm_model_name": "no such model"}}),
        json.dumps(OWN | {"vision_cfg": TIMM | {"timm_model_args": {"checkpoint_path": "w.pt"}}}),
        json.dumps(OWN | {"vision_cfg": TIMM | {"timm_model_args": {"depth": 10**9}}}),
        json.dumps(OWN | {"vision_cfg": TIMM | {"timm_model_args": []}}),
        json.dumps(OWN | {"vision_cfg": TIMM | {"timm_model_args": {"pretrained_cfg": {}}}}),
        json.dumps(OWN | {"vision_cfg": VISION | {"width": 65, "head_width": 2}}),
    ],
)
def test_an_architecture_that_cannot_be_built(tmp_path: Path, content: str) -> None:
    (tmp_path / "mine.json").write_text(content)
    with refuses("E-MODEL-CONFIG", kind=ExtractUsageError) as refused:
        load_backbone(spec(None, "none", model_config=str(tmp_path / "mine.json")), "cpu")
    if "timm_model_args" in content:  # before timm opens a file or an address
        assert "timm_model_args may have" in str(refused.value) or "depth" in str(refused.value)
    assert ": ;" not in str(refused.value)  # some of open_clip's own errors have no text


def test_a_store_of_ones_own_architecture_is_verified_with_it(folder: Path, tmp_path: Path) -> None:
    """Extracted again from the same weights, given in another form; texts too."""
    pictures = tmp_path / "images"
    pictures.mkdir()
    write_photographs(pictures, 2)
    config = ExtractConfig(
        pretrained=str(folder), recipe="square:32", vector="embedding", device="cpu"
    )
    store = extract_images(folder_manifest(pictures), tmp_path / "store", config).store
    weights = str(tmp_path / "weights.pt")
    stock: Any = open_clip.create_model(f"local-dir:{folder}").eval()
    torch.save({"state_dict": {}, "model_ema": stock.state_dict()}, weights)
    (tmp_path / "mine.json").write_text(json.dumps(OWN))
    given: Any = {"pretrained": weights, "model_config": str(tmp_path / "mine.json"), "ema": True}
    again = recompute(store, str(pictures), 2, device="cpu", **given)
    assert again.verdict == "same bits"
    other = OWN | {"quick_gelu": False}
    (tmp_path / "mine.json").write_text(json.dumps(other))
    with refuses("E-MODEL-OTHER", "--model-config", kind=ExtractUsageError):
        recompute(store, str(pictures), 2, device="cpu", **given)
    with refuses("E-MODEL-MISSING", kind=ExtractUsageError):
        recompute(store, str(pictures), 2, device="cpu", pretrained=weights, ema=True)
    (tmp_path / "mine.json").write_text(json.dumps(OWN))
    tokens = open_clip.SimpleTokenizer(context_length=TEXT["context_length"])(["a cat"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_clip, "SimpleTokenizer", lambda **_: lambda texts: tokens % 8)
        found = text_embedder(store, device="cpu", **given)(["a cat"])
    with torch.inference_mode():
        expected = stock.encode_text(tokens % 8, normalize=True)
    assert relative(torch.from_numpy(found), expected) <= 1e-5
