"""Texts beside the images of a store: as open_clip embeds them, and `--clipscore` as typed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clipfeat.extract.errors import ExtractUsageError
from clipfeat.extract.texts import text_embedder
from clipfeat.featstore import FeatureStore

TEXTS = ["A photo depicts a dog.", "Two cats", ""]
NAMES = ("1", "2", "3")


def clipfeat(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clipfeat.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def stock() -> Any:
    torch.manual_seed(1)
    return open_clip.create_model("RN50", pretrained_text=False).eval()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, stock: Any) -> tuple[Path, Path, Path]:
    """Return a store with embeddings, one without, and the file of weights of both."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "images").mkdir()
    for number, name in enumerate(NAMES):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{name}.jpg")
    weights = folder / "RN50.pt"
    torch.save(stock.state_dict(), weights)
    for out, more in (("pooled", ["--pooled"]), ("plain", [])):
        done = clipfeat(
            *("extract", "--model", "RN50", "--pretrained", weights, "--recipe", "model", *more),
            *("--images", folder / "images", "--out", folder / f"{out}.clipfeat"),
            *("--device", "cpu", "--precision", "float32"),
        )
        assert done.returncode == 0, done.stderr
    return folder / "pooled.clipfeat", folder / "plain.clipfeat", weights


def test_texts_are_embedded_as_open_clip_does(world: tuple[Path, Path, Path], stock: Any) -> None:
    store, _, weights = world
    found = text_embedder(FeatureStore.open(store), pretrained=str(weights), device="cpu")(TEXTS)
    with torch.inference_mode():
        expected = stock.encode_text(open_clip.get_tokenizer("RN50")(TEXTS), normalize=True)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_what_has_no_embeddings_or_other_weights_is_refused(
    world: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    store, plain, weights = world
    with pytest.raises(ExtractUsageError, match=r"no embeddings of whole images; .* --pooled"):
        text_embedder(FeatureStore.open(plain), pretrained=str(weights))
    with pytest.raises(ExtractUsageError, match=r"came from a file: give it with --pretrained"):
        text_embedder(FeatureStore.open(store))
    other = tmp_path / "other.pt"
    torch.manual_seed(2)
    torch.save(open_clip.create_model("RN50", pretrained_text=False).state_dict(), other)
    with pytest.raises(ExtractUsageError, match=r"are not those of the store: sha256"):
        text_embedder(FeatureStore.open(store), pretrained=str(other), device="cpu")
    image_half = tmp_path / "half.pt"
    state = torch.load(weights, weights_only=True)
    torch.save({k: t for k, t in state.items() if k.startswith("visual.")}, image_half)
    with pytest.raises(ExtractUsageError, match=r"lacks \d+ tensors that read texts"):
        text_embedder(FeatureStore.open(store), pretrained=str(image_half), device="cpu")


def test_pooled_vectors_are_read_without_their_grids(world: tuple[Path, Path, Path]) -> None:
    store = FeatureStore.open(world[0])
    expected = store.read(["2", "1"]).pooled
    assert expected is not None
    assert np.array_equal(store.pooled(["2", "1"]), expected)


def test_clipscore_of_a_file_of_captions(
    world: tuple[Path, Path, Path], stock: Any, tmp_path: Path
) -> None:
    """Against stock open_clip's vectors of images, as stored, and of texts."""
    store, _, weights = world
    said = {"1": "a dog", "2": "two cats", "3": "a dog"}
    results, references = tmp_path / "r.json", tmp_path / "references.json"
    results.write_text(json.dumps([{"image_id": i, "caption": c} for i, c in said.items()]))
    references.write_text(json.dumps({i: ["one dog", c] for i, c in said.items()}))
    files = ("--results", results, "--references", references, "--store", store, "--clipscore")
    done = clipfeat("eval", "caption", *files, "--pretrained", weights, "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    images = torch.from_numpy(FeatureStore.open(store).pooled(NAMES).astype(np.float32))
    tokens = open_clip.get_tokenizer("RN50")([f"A photo depicts {said[i]}" for i in NAMES])
    with torch.inference_mode():
        texts = stock.encode_text(tokens, normalize=True)
    cosines = torch.cosine_similarity(images, texts).clamp(min=0)
    assert found["CLIPScore"] == pytest.approx(2.5 * float(cosines.mean()), abs=1e-4)
    assert found["image_median_rank"] >= 1
    assert "Bleu_4" in found
    without = clipfeat("eval", "caption", *files[:4], "--clipscore")
    assert (without.returncode, "need --store" in without.stderr) == (2, True)
    alone = clipfeat("eval", "caption", *files[:4], "--pretrained", weights)
    assert (alone.returncode, "goes with --clipscore" in alone.stderr) == (2, True)
