"""`clipfeat eval caption RUN` as typed, and its page of examples."""

import base64
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caption_world import (
    FAST,
    TRANSFORMER,
    caption_of,
    make_world,
    name_of,
    row_of,
    train_world,
    write_rows,
)
from PIL import Image
from stores import make_store
from vqa_world import grid

from clipfeat.featstore import FeatureStore
from clipfeat.train.data.caption_vocabulary import WORD_START, BpeVocabulary
from clipfeat.train.metrics import cider_remark
from clipfeat.train.settings import load_settings
from clipfeat.train.tasks.captioning.evaluation import format_result, with_beams
from clipfeat.train.tasks.captioning.model import load_stage
from clipfeat.train.tasks.captioning.page import _find, by_word
from clipfeat.train.tasks.captioning.training import read_data
from clipfeat.train.tasks.settings import CaptionSettings

Typed = Callable[..., tuple[int, str, str]]
World = tuple[Path, Path]
KEYS = {"split", "stage", "epoch", "blind", "beams", "n", "cider_d", "skipped", "predictions"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    train_world(world, out, stages=("xe", "scst"))
    return out


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_where_captions_are_written_is_checked_before_they_are_computed(
    run: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda _, mode: mode == os.R_OK)
    monkeypatch.setattr("clipfeat.train.tasks.captioning.evaluation.write_captions", None)
    code, _, err = typed("eval", "caption", run, "--split", "test")
    assert (code, err.split()[-1]) == (2, "[E-PATH-WRITE]")


def test_a_split_is_captioned_and_scored_as_published(
    run: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published scores are tested elsewhere; here, that they are of the right texts."""
    scored: list[Any] = []

    def score(results: Mapping[str, str], references: Mapping[str, Any]) -> dict[str, Any]:
        scored.append((results, references))
        return {"n": len(results), "Bleu_1": 0.5, "CIDEr": 2.0, "left_out": {"SPICE": "no jar"}}

    monkeypatch.setattr("clipfeat.train.metrics.captions.score", score)
    words = ["eval", "caption", run, "--split", "test", "--beam", "3", "--device", "cpu"]
    code, out, err = typed(*words, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result.keys() == {*KEYS, "Bleu_1", "CIDEr", "left_out"}
    assert (result["split"], result["stage"], result["beams"], result["n"]) == (
        "test",
        "scst",
        3,
        8,
    )
    assert result["cider_d"] == 1000
    assert result["predictions"] == str(run / "predictions_test.json")
    captions = {image: caption_of(image).lower()[:-1] for image in range(41, 49)}
    assert read(run / "predictions_test.json") == [
        {"image_id": image, "caption": caption} for image, caption in captions.items()
    ]
    assert scored == [
        (
            {str(image): caption for image, caption in captions.items()},
            {str(image): (caption_of(image),) * 2 for image in captions},
        )
    ]
    code, out, _ = typed(*words)
    assert out.splitlines() == [
        f"split test: 8 images, stage scst, epoch {result['epoch']}, beams 3",
        "1000.00  CIDEr-D, times 100",
        "  50.00  Bleu_1, times 100",
        " 200.00  CIDEr, times 100",
        "left out: SPICE: no jar",
        str(run / "predictions_test.json"),
    ]


def test_cider_of_one_image_is_told_to_be_0_by_definition() -> None:
    result = {"split": "test", "stage": "xe", "epoch": 1, "beams": 3, "n": 1, "cider_d": 0.0}
    result |= {"CIDEr": 0.0, "skipped": 0, "predictions": "p.json", **cider_remark(1)}
    why = "(0 by definition for one image, since each of its n-grams is in all images)"
    assert format_result(result).splitlines()[1:3] == [
        f"   0.00  CIDEr-D, times 100 {why}",
        f"   0.00  CIDEr, times 100 {why}",
    ]
    assert len(format_result(result).splitlines()) == 4  # the remark of the JSON stands beside them
    assert "by definition" not in format_result(result | {"n": 2})


@pytest.mark.parametrize("val", [1, 2])
def test_training_says_that_one_image_picks_no_checkpoint(
    tmp_path: Path, val: int, capsys: pytest.CaptureFixture[str]
) -> None:
    store, data = make_world(tmp_path, train=2, val=val, test=1)
    settings = load_settings(CaptionSettings, config=None, assignments=[*FAST, TRANSFORMER])
    read_data(settings, FeatureStore.open(store), data)
    assert ("eval_split val has one image: its CIDEr-D" in capsys.readouterr().err) == (val == 1)


@pytest.mark.usefixtures("no_java")
def test_without_java_our_own_score_is_there_and_the_rest_is_told(run: Path, typed: Typed) -> None:
    """The split that trained the run comes to what training said."""
    code, out, err = typed(
        "eval", "caption", run / "xe", "--split", "val", "--json", "--device", "cpu"
    )
    assert (code, err) == (0, "")
    result = json.loads(out)
    left_out = result.pop("left_out")
    (names,) = left_out
    assert names == "BLEU, METEOR, ROUGE-L, CIDEr and SPICE"
    assert "need java on the PATH" in left_out[names]
    path = run / "xe" / "predictions_val.json"
    assert result == read(run / "xe" / "result.json") | {"predictions": str(path)}
    assert path.read_text() == (run / "xe" / "predictions.json").read_text()


@pytest.mark.usefixtures("no_java")
def test_images_without_features_count_with_an_empty_caption(
    world: World, run: Path, tmp_path: Path, typed: Typed
) -> None:
    data = write_rows(tmp_path / "data", [row_of(41, "test"), row_of(999, "test")])
    words = ["eval", "caption", run, "--split", "test", "--data", data, "--device", "cpu"]
    code, _, err = typed(*words)
    assert (code, err.count("\n")) == (1, 1)
    assert "2 of 4 captions of split 'test' are about 1 image without features" in err
    code, out, err = typed(*words, "--skip-missing", "2", "--json")
    assert code == 0
    assert "skipped" in err
    result = json.loads(out)
    assert (result["n"], result["skipped"], result["cider_d"]) == (2, 1, 500)
    assert read(run / "predictions_test.json")[1] == {"image_id": 999, "caption": ""}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["RUN"], 2, "RUN needs --split, such as --split test"),
        (["RUN", "--split", "dev"], 2, "has no images of split 'dev'; its splits: test, train, v"),
        (["RUN", "--split", "bare"], 1, "split 'bare': 1 of 1 images have no caption, such as 7"),
        (["RUN", "--split", "val", "--results", "r.json"], 2, "RUN and --results exclude each"),
        (["RUN", "--split", "val", "--subset"], 2, "RUN and --subset exclude each other"),
        (["RUN", "--split", "val", "--beam", "0"], 2, "--beam"),
        (["RUN", "--split", "val", "--images", "x"], 2, "--images requires --page"),
        (["RUN", "--split", "val", "--page", "--images", "x"], 2, "[E-OPTION-FOLDER]"),
        (["RUN", "--split", "val", "--store", "OTHER"], 2, ": backbone."),
        (["EMPTY", "--split", "val"], 2, "[E-RUN-BEST]"),
        ([], 2, "pass RUN and --split, or --results and --references"),
        (["--results", "r", "--references", "f", "--beam", "2"], 2, "--results and --beam exclude"),
        (["--results", "r", "--references", "f", "--page"], 2, "--results and --page exclude"),
    ],
)
def test_mistakes_get_one_line(
    world: World,
    run: Path,
    tmp_path: Path,
    typed: Typed,
    words: list[str],
    code: int,
    message: str,
) -> None:
    if "bare" in words:
        rows = [*read(world[1] / "dataset_coco.json")["images"], row_of(7, "bare", "?")]
        words = [*words, "--data", str(write_rows(tmp_path / "data", rows))]
    records = {name_of(31, "val"): grid(2)}
    other = make_store(tmp_path / "other.clipfeat", records, backbone={"model": "other"})
    named = {"RUN": run, "OTHER": other, "EMPTY": tmp_path}
    got, out, err = typed("eval", "caption", *(named.get(word, word) for word in words))
    assert (got, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


def test_runs_of_other_tasks_and_stages_that_are_not_done_are_refused(
    run: Path, tmp_path: Path, typed: Typed
) -> None:
    strange = shutil.copytree(run / "xe", tmp_path / "vqa")
    card = read(strange / "settings.json") | {"task": "vqa"}
    (strange / "settings.json").write_text(json.dumps(card))
    code, _, err = typed("eval", "caption", strange, "--split", "val")
    assert (code, err) == (
        2,
        f"Error: {strange} is a run of task 'vqa', not caption [E-RUN-TASK]\n",
    )
    early = shutil.copytree(run / "xe", tmp_path / "early")
    (early / "best.safetensors").unlink()
    code, _, err = typed("eval", "caption", early, "--split", "val")
    assert (code, err.count("\n")) == (2, 1)
    assert "[E-RUN-BEST]" in err


@pytest.mark.usefixtures("no_java")
def test_the_page_shows_images_captions_and_where_the_model_looks(
    world: World, run: Path, tmp_path: Path, typed: Typed
) -> None:
    """Everything that others wrote is escaped; pictures are PNGs in the page."""
    hostile = '<script>alert(1)</script> & "a" red shape'
    rows = [row_of(image, "test", hostile) for image in range(41, 49)]
    data = write_rows(tmp_path / "data", rows)
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (40, 30), "red").save(images / f"{name_of(41, 'test')}.jpg")
    words = ["eval", "caption", run, "--split", "test", "--data", data, "--device", "cpu", "--page"]
    code, out, _ = typed(*words, "--images", images)
    assert (code, out.splitlines()[-1]) == (0, str(run / "examples.html"))
    page = (run / "examples.html").read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;a&quot; red shape") == 8
    assert page.count("<article>") == 8
    assert set(re.findall(r"<h2>(.*?)</h2>", page)) >= {"a red shape here", "a green shape here"}
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == page.count("src=") == 8
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    assert not re.search(r"https?://", page)
    code, _, err = typed(*words, "--images", tmp_path / "data")
    assert (code, "has no file of any image shown, such as COCO_val2014_" in err) == (2, True)


def test_beams_are_those_that_are_asked_for(run: Path) -> None:
    trained = load_stage(run / "xe")
    assert with_beams(trained, 4).settings.decoding.beams == 4
    assert trained.settings.decoding.beams == 1


def test_the_attention_of_a_word_is_the_mean_of_its_parts() -> None:
    vocabulary = BpeVocabulary((f"{WORD_START}", "r", "e", "d", "a"), ())
    spell = {piece: number for number, piece in enumerate(vocabulary.pieces, start=4)}
    tokens = [2, *(spell[p] for p in (WORD_START, "a", WORD_START, "r", "e", "d")), 3, 0]
    maps = np.arange(8.0)[:, None, None] * np.ones((1, 2, 1))
    words = by_word(vocabulary, tokens, maps)
    assert [(word, looked[0, 0]) for word, looked in words] == [("a", 1.0), ("red", 4.0)]


def test_no_file_outside_the_folder_is_an_image(tmp_path: Path) -> None:
    """Image ids come from files of others."""
    images = tmp_path / "images"
    (images / "train").mkdir(parents=True)
    inside, outside = images / "train" / "7.jpg", tmp_path / "secret.jpg"
    inside.touch()
    outside.touch()
    (images / "link.png").symlink_to(outside)  # the user's own
    assert _find(images, "train/7") == _find(images, "train/7.jpg") == inside
    assert _find(images, "link") == images / "link.png"
    for image_id in ("../secret", "train/../../secret", str(tmp_path / "secret"), "7", "train"):
        assert _find(images, image_id) is None
