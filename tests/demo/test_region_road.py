"""From a detector's TSV file to trained models, by the commands as typed, on the demo's data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipfeat.cli.main import main
from clipfeat.demo.regions import find_regions
from clipfeat.demo.scenes import make_scene
from clipfeat.demo.write import write_demo_data
from clipfeat.featstore import FeatureStore
from clipfeat.train.run import RunManifest, features_of, require_features

QUICK = ("updates=3", "batch_size=32", "min_answer_count=1", "model.hidden=16")
TINY_BERT = ("model.layers=1", "model.heads=2", "model.vocab_size=120", "model.bert=")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("demo") / "data"
    write_demo_data(folder, 40, seed=0)
    return folder


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(*words: object) -> None:
        monkeypatch.setattr("sys.argv", ["clipfeat", *map(str, words)])
        with pytest.raises(SystemExit) as done:
            main()
        assert done.value.code in (None, 0), words

    return run


@pytest.fixture
def store(data: Path, typed: Any) -> Path:
    path = data / "regions.clipfeat"
    typed("import", data / "regions.tsv", "--as", "bottom-up-tsv", "-o", path)
    return path


def test_the_store_has_what_the_detector_found(store: Path) -> None:
    opened = FeatureStore.open(store)
    assert sorted(map(int, opened.ids)) == list(range(1, 41))
    for image_id in (1, 17, 40):
        scene = make_scene(0, image_id)
        found = find_regions(scene, 0)
        batch = opened.read([image_id])
        assert opened.image_sizes([image_id]).tolist() == [[scene.width, scene.height]]
        assert batch.boxes is not None
        np.testing.assert_array_equal(batch.boxes[0], np.array([r.box for r in found], np.float32))
        np.testing.assert_array_equal(batch.features[0], [r.features for r in found])


def train(typed: Any, task: str, paths: tuple[Path, Path, Path], *words: str) -> None:
    store, data, out = paths
    typed("train", task, *words, "--store", store, "--data", data, "--out", out, "--device", "cpu")


def changes(*settings: str) -> list[str]:
    return [f"--set={setting}" for setting in settings]


def test_vqa_trains_on_imported_regions_and_shows_them(
    data: Path, store: Path, typed: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(typed, "vqa", (store, data / "vqa", run), *changes(*QUICK))
    picture = sorted((data / "images").iterdir())[0]
    image_id = int(picture.stem[-12:])
    with Image.open(picture) as opened:
        assert opened.size == tuple(FeatureStore.open(store).image_sizes([image_id])[0])
    question = ["--image-id", image_id, "--question", "what color is the star?"]
    typed("predict", "vqa", run, *question, "--image", picture, "--device", "cpu")
    assert (run / "answer.png").stat().st_size > 1000


@pytest.mark.slow
def test_the_other_tasks_train_on_imported_regions(
    data: Path, store: Path, typed: Any, tmp_path: Path
) -> None:
    of_words = [change for change in changes(*QUICK) if "min_answer" not in change]
    train(typed, "ve", (store, data / "snli_ve", tmp_path / "ve"), *of_words)
    captions = (store, data / "captions", tmp_path / "caption")
    train(typed, "caption", captions, "--stage=xe", *changes("updates=2", "model.hidden=16"))
    corpus = data / "corpus"
    typed("corpus", "--captions", data / "captions", "--vqa", data / "vqa", "--out", corpus)
    bert = changes(*QUICK, *TINY_BERT)
    train(typed, "pretrain", (store, corpus, tmp_path / "pretrain"), "demo", *bert)
    for run in ("ve", "caption/xe", "pretrain"):
        assert json.loads((tmp_path / run / "result.json").read_text())["epoch"] == 1


def test_a_model_reads_regions_that_came_in_other_files(
    data: Path, typed: Any, tmp_path: Path
) -> None:
    """As those of a test split do."""
    lines = (data / "regions.tsv").read_text().splitlines(keepends=True)
    stores = []
    for name, part in (("train", lines[:30]), ("test", lines[30:])):
        (tmp_path / f"{name}.tsv").write_text("".join(part))
        path = tmp_path / f"{name}.clipfeat"
        typed("import", tmp_path / f"{name}.tsv", "--as", "bottom-up-tsv", "-o", path)
        stores.append(FeatureStore.open(path))
    one, other = stores
    assert one.identity != other.identity  # each names its file
    assert features_of(one) == features_of(other)
    manifest = RunManifest.of("vqa", {}, store=one, data=tmp_path, files=())
    require_features(other, manifest)
