"""Texts beside the images of a store: as open_clip embeds them, and `--clipscore` as typed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from command_lines import CommandLines, run_here
from PIL import Image
from refused import refuses

from clipfeat.base.errors import ExtractUsageError
from clipfeat.extract.embedding import (
    check_embeddings,
    load_text_tower,
    refuse_code,
    text_embedder,
)
from clipfeat.extract.planning.plan import BackboneSpec
from clipfeat.featstore import FeatureStore, GridShape, pool

TEXTS = ["A photo depicts a dog.", "Two cats", ""]
MODEL = "ViT-S-32-alt"  # has the smallest text tower
NAMES = ("1", "2", "3")


@pytest.fixture(scope="module")
def stock() -> Any:
    torch.manual_seed(1)
    return open_clip.create_model(MODEL, pretrained_text=False).eval()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, stock: Any) -> tuple[Path, Path, Path]:
    """Return a store with embeddings, one without, and the file of weights of both."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "images").mkdir()
    for number, name in enumerate(NAMES):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{name}.jpg")
    weights = folder / "weights.pt"
    torch.save(stock.state_dict(), weights)
    for out, more in (("pooled", ["--pooled"]), ("plain", [])):
        done = run_here(
            *("extract", "--model", MODEL, "--pretrained", weights, "--recipe", "model", *more),
            *("--images", folder / "images", "--out", folder / f"{out}.clipfeat"),
            *("--device", "cpu", "--precision", "float32"),
        )
        assert done.returncode == 0, done.stderr
    return folder / "pooled.clipfeat", folder / "plain.clipfeat", weights


def test_texts_are_embedded_as_open_clip_does(world: tuple[Path, Path, Path], stock: Any) -> None:
    store, _, weights = world
    found = text_embedder(FeatureStore.open(store), pretrained=str(weights), device="cpu")(TEXTS)
    with torch.inference_mode():
        expected = stock.encode_text(open_clip.get_tokenizer(MODEL)(TEXTS), normalize=True)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_openais_resnets_read_texts_with_quickgelu(tmp_path: Path) -> None:
    """Their grids are the same with either activation, so a store names the plain model."""
    torch.manual_seed(1)
    stock: Any = open_clip.create_model("RN50-quickgelu", pretrained_text=False).eval()
    with torch.no_grad():
        for weight in stock.parameters():
            weight.copy_(weight.half())
    torch.save(stock.state_dict(), tmp_path / "rn50.pt")
    spec = BackboneSpec("RN50", str(tmp_path / "rn50.pt"), 0, "float32")
    found = load_text_tower(spec, "cpu")[0].embed(TEXTS)
    with torch.inference_mode():
        expected = stock.encode_text(open_clip.get_tokenizer("RN50")(TEXTS), normalize=True)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_what_has_no_embeddings_or_other_weights_is_refused(
    world: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    store, plain, weights = world
    with refuses("E-TEXTS-EMBEDDINGS", str(plain), "--pooled", kind=ExtractUsageError):
        text_embedder(FeatureStore.open(plain), pretrained=str(weights))
    with refuses("E-WEIGHTS-MISSING", "--pretrained", kind=ExtractUsageError):
        text_embedder(FeatureStore.open(store))
    other = tmp_path / "other.pt"
    torch.manual_seed(2)
    torch.save(open_clip.create_model(MODEL, pretrained_text=False).state_dict(), other)
    with refuses("E-WEIGHTS-OTHER", "sha256", kind=ExtractUsageError):
        text_embedder(FeatureStore.open(store), pretrained=str(other), device="cpu")
    image_half = tmp_path / "half.pt"
    state = torch.load(weights, weights_only=True)
    torch.save({k: t for k, t in state.items() if k.startswith("visual.")}, image_half)
    with refuses("E-WEIGHTS-FIT", "half.pt", "tensors that read texts", kind=ExtractUsageError):
        text_embedder(FeatureStore.open(store), pretrained=str(image_half), device="cpu")


def test_embeddings_stay_where_grids_are_pooled(
    world: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    check_embeddings(pool(FeatureStore.open(world[0]), tmp_path / "p", GridShape(1, 1)))
    with refuses("E-TEXTS-EMBEDDINGS", kind=ExtractUsageError):
        check_embeddings(pool(FeatureStore.open(world[1]), tmp_path / "q", GridShape(1, 1)))


def test_pooled_vectors_are_read_without_their_grids(world: tuple[Path, Path, Path]) -> None:
    store = FeatureStore.open(world[0])
    expected = store.read(["2", "1"]).pooled
    assert expected is not None
    assert np.array_equal(store.pooled(["2", "1"]), expected)


@pytest.mark.slow
def test_clipscore_of_a_file_of_captions(
    world: tuple[Path, Path, Path], stock: Any, tmp_path: Path, clipfeat: CommandLines
) -> None:
    """Against stock open_clip's vectors of images, as stored, and of texts."""
    store, _, weights = world
    said = {"1": "a dog", "2": "two cats", "3": "a dog"}
    results, references = tmp_path / "r.json", tmp_path / "references.json"
    results.write_text(json.dumps([{"image_id": i, "caption": c} for i, c in said.items()]))
    references.write_text(json.dumps({i: ["one dog", c] for i, c in said.items()}))
    files = ("--results", results, "--references", references, "--store", store, "--clipscore")
    words = ["eval", "caption", *files]
    line = clipfeat.run(*words, "--pretrained", weights, "--device", "cpu", "--json")
    assert line.wait() == 0, line.errors
    found = json.loads(line.text)
    images = torch.from_numpy(FeatureStore.open(store).pooled(NAMES).astype(np.float32))
    tokens = open_clip.get_tokenizer(MODEL)([f"A photo depicts {said[i]}" for i in NAMES])
    with torch.inference_mode():
        texts = stock.encode_text(tokens, normalize=True)
    cosines = torch.cosine_similarity(images, texts).clamp(min=0)
    assert found["CLIPScore"] == pytest.approx(2.5 * float(cosines.mean()), abs=1e-4)
    assert found["image_median_rank"] >= 1
    assert "Bleu_4" in found
    line = clipfeat.run(*words[:6], "--clipscore")
    assert (line.wait(), "needs --store" in line.errors) == (2, True)
    line = clipfeat.run(*words[:6], "--pretrained", weights)
    assert (line.wait(), "need --clipscore" in line.errors) == (2, True)


def test_code_of_a_repository_is_refused_and_never_asked_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers.dynamic_module_utils import resolve_trust_remote_code

    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda prompt="": asked.append(prompt) or "n")
    with refuse_code(), pytest.raises(ValueError, match="custom code"):
        resolve_trust_remote_code(None, "owner/name", has_local_code=False, has_remote_code=True)
    assert asked == []
    with pytest.raises(ValueError, match="custom code"):  # as before: a person is asked
        resolve_trust_remote_code(None, "owner/name", has_local_code=False, has_remote_code=True)
    assert len(asked) == 1
