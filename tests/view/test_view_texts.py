"""Texts beside cells, against the image embeddings and the text embeddings of stock open_clip."""

import numpy as np
import open_clip
import pytest
import torch
from command_lines import run_here
from explorers import client_of
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from PIL import Image
from stores import make_store

from clipfeat.base.errors import StoreUsageError
from clipfeat.extract.backbones.tower import make_tower
from clipfeat.view.texts import WeightFiles, projection

MODEL = "ViT-S-32-alt"  # has the smallest text tower


def stirred(module):
    """Move every parameter away from where it starts, where a mistake would not show."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return module.eval()


@pytest.mark.parametrize("layer", ["final", "final-no-norm"])
@pytest.mark.parametrize("norm_after_pool", [False, True])
@torch.inference_mode()
def test_the_class_token_of_a_vit_goes_to_its_embedding(layer, norm_after_pool):
    torch.manual_seed(0)
    visual = stirred(
        VisionTransformer(32, 16, 24, 2, 2, 4.0, output_dim=8, final_ln_after_pool=norm_after_pool)
    )
    images = torch.randn(3, 3, 32, 32)
    tower = make_tower(visual, 8)
    assert tower is not None
    _, tokens = tower(images, layer, "class_token")
    assert tokens is not None
    project, says = projection(visual, layer)
    np.testing.assert_allclose(project(tokens.numpy()), visual(images).numpy(), atol=1e-5)
    assert "projection" in says


@torch.inference_mode()
def test_a_single_cell_of_a_resnet_goes_to_its_embedding_up_to_positions():
    torch.manual_seed(0)
    visual = stirred(ModifiedResNet([1, 1, 1, 1], 8, 2, image_size=32, width=8))
    visual.attnpool.positional_embedding.zero_()
    images = torch.randn(3, 3, 32, 32)
    expected = visual(images).numpy()
    grids = visual.forward_intermediates(images, indices=[4])["image_intermediates"][0]
    project, says = projection(visual, "final")
    np.testing.assert_allclose(project(grids.flatten(1).numpy()), expected, atol=1e-5)
    assert "attention pool" in says


@torch.inference_mode()
def test_with_equal_attention_a_resnets_embedding_is_the_mean_over_its_cells():
    torch.manual_seed(0)
    visual = stirred(ModifiedResNet([1, 1, 1, 1], 8, 2, image_size=96, width=8))
    pool = visual.attnpool
    for parameter in (pool.positional_embedding, pool.q_proj.weight, pool.q_proj.bias):
        parameter.zero_()
    images = torch.randn(2, 3, 96, 96)
    grids = visual.forward_intermediates(images, indices=[4])["image_intermediates"][0]
    project, _ = projection(visual, "final")
    for grid, expected in zip(grids, visual(images), strict=True):
        cells = grid.flatten(1).T.numpy()
        assert len(cells) == 9
        np.testing.assert_allclose(project(cells).mean(axis=0), expected.numpy(), atol=1e-5)


def test_a_tower_with_another_pooling_is_refused():
    visual = VisionTransformer(
        32, 16, 24, 1, 2, 4.0, output_dim=8, attentional_pool=True, attn_pooler_heads=1
    )
    with pytest.raises(StoreUsageError) as error:
        projection(visual, "final")
    assert error.value.code == "E-VIEW-TEXT"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store of one image, its pixels, the file of its weights, and stock open_clip with them."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "images" / "a.png")
    torch.manual_seed(1)
    stock = open_clip.create_model(MODEL, pretrained_text=False).eval()
    torch.save(stock.state_dict(), folder / "weights.pt")
    done = run_here(
        *("extract", "--model", MODEL, "--pretrained", folder / "weights.pt", "--recipe", "model"),
        *("--images", folder / "images", "--out", folder / "s", "--device", "cpu"),
        *("--precision", "float32", "--dtype", "float32"),
    )
    assert done.returncode == 0, done.stderr
    return folder, pixels, stock


@torch.inference_mode()
def test_a_heat_map_over_http_is_that_of_stock_open_clip(world):
    folder, pixels, stock = world
    client = client_of(folder / "s", weights=WeightFiles(str(folder / "weights.pt")))
    assert client.get("session")["stores"][0]["text"] == {"can": True, "why": ""}
    found = client.get("text", store="a", id="a", text="two caf\u00e9s & a dog")
    mean, std = (torch.tensor(v) for v in (stock.visual.image_mean, stock.visual.image_std))
    image = ((torch.tensor(pixels) / 255 - mean) / std).permute(2, 0, 1)[None]
    stock.visual.output_tokens = True
    _, tokens = stock.visual(image)
    stock.visual.output_tokens = False
    cells = torch.nn.functional.normalize(tokens[0] @ stock.visual.proj, dim=1)
    texts = open_clip.get_tokenizer(MODEL)(["two caf\u00e9s & a dog"])
    expected = cells @ stock.encode_text(texts, normalize=True)[0]
    np.testing.assert_allclose(found["heat"], expected.numpy(), atol=2e-4)
    assert "projection" in found["says"]
    again = client.get("text", store="a", id="a", text="two caf\u00e9s & a dog")
    assert again == found
    for text in ("", " ", "x" * 301):
        assert client.refused("text", 400, store="a", id="a", text=text)


def test_weights_that_are_absent_or_others_are_said(world, tmp_path):
    folder, _, _ = world
    client = client_of(folder / "s")
    text = client.get("session")["stores"][0]["text"]
    assert text["can"] is False
    assert "--pretrained" in text["why"]
    assert client.refused("text", 400, store="a", id="a", text="x") == "E-VIEW-TEXT"
    torch.manual_seed(2)
    torch.save(open_clip.create_model(MODEL, pretrained_text=False).state_dict(), tmp_path / "o.pt")
    client = client_of(folder / "s", weights=WeightFiles(str(tmp_path / "o.pt")))
    assert client.refused("text", 400, store="a", id="a", text="x") == "E-WEIGHTS-OTHER"


@pytest.mark.parametrize(
    ("backbone", "recipe", "word"),
    [
        ({"model": "imported", "format": "npy"}, {"name": "x"}, "another program"),
        ({"model": "timm/resnet50"}, {"name": "x"}, "without texts"),
        ({"model": "RN50"}, {"name": "x"}, "which weights"),
        ({"model": ["RN50"]}, {"name": "x"}, "another program"),
        ({"model": "ViT-B-32", "pretrained": "openai", "weights_sha256": "0" * 64},
         {"name": "x", "layer": "penultimate"}, "last layer but one"),
    ],
)  # fmt: skip
def test_stores_that_cannot_be_compared_say_why(tmp_path, backbone, recipe, word):
    path = make_store(tmp_path / "s", {"i": np.ones((1, 1, 4))}, backbone=backbone, recipe=recipe)
    client = client_of(path)
    assert word in client.get("session")["stores"][0]["text"]["why"]
    assert client.refused("text", 400, store="a", id="i", text="x") == "E-VIEW-TEXT"


def test_the_image_of_an_extracted_record_is_found_by_the_path_in_the_store(world):
    folder, _, _ = world
    client = client_of(folder / "s", images=str(folder / "images"))
    record = client.get("record", store="a", id="a")
    assert (record["has_image"], record["image_size"]) == (True, [224, 224])
    assert (record["shape"], record["crop"]) == ([7, 7], [0, 0, 1, 1])
    answer = client.http.get("/api/image", params={"store": "a", "id": "a"})
    assert answer.content == (folder / "images" / "a.png").read_bytes()
