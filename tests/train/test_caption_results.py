"""Files of captions: what is read, what is refused, and `clipfeat eval caption` as typed."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refused import refuses

from clipfeat.base.errors import ClipfeatError, UsageError
from clipfeat.train.data.caption_files import (
    match_references,
    read_references,
    read_results,
    write_results,
)
from clipfeat.train.data.captions import read_captions

Typed = Callable[..., tuple[int, str, str]]

KARPATHY = {
    "dataset": "coco",
    "images": [
        {
            "filename": "COCO_val2014_000000000042.jpg",
            "filepath": "val2014",
            "cocoid": 42,
            "split": "test",
            "sentences": [
                {"raw": "A dog.", "tokens": ["a", "dog"], "imgid": 0, "sentid": 1},
                {"raw": "Dogs", "tokens": ["dogs"], "imgid": 0, "sentid": 2},
            ],
        },
        {"filename": "36979.jpg", "split": "val", "sentences": [{"raw": "Men."}]},
        {"filename": "7.jpg", "split": "test", "sentences": [{"raw": "A cat."}]},
    ],
}
COCO = {
    "info": {},
    "images": [{"id": 42, "file_name": "x.jpg"}, {"id": 7, "file_name": "y.jpg"}],
    "annotations": [
        {"image_id": 42, "id": 1, "caption": "A dog."},
        {"image_id": 7, "id": 2, "caption": "A cat."},
        {"image_id": 42, "id": 3, "caption": "Dogs"},
    ],
}
PLAIN = {"42": ["A dog.", "Dogs"], "7": ["A cat."]}
SAID = [{"image_id": 42, "caption": "a dog"}, {"image_id": "7", "caption": "a cat"}]


def put(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(("content", "split"), [(KARPATHY, "test"), (COCO, None), (PLAIN, None)])
def test_three_formats_hold_the_same(tmp_path: Path, content: Any, split: str | None) -> None:
    assert read_references(put(tmp_path / "r.json", content), split) == PLAIN


def test_flickr30k_images_have_the_names_of_their_files(tmp_path: Path) -> None:
    path = put(tmp_path / "dataset_flickr30k.json", KARPATHY)
    assert read_references(path, "val") == {"36979": ["Men."]}


def test_train_means_the_same_when_a_file_and_when_a_run_is_scored(tmp_path: Path) -> None:
    """Karpathy's train and restval are what papers call COCO's training split."""
    splits = ("train", "restval", "val")
    images = [
        {"filename": f"COCO_val2014_{n:012}.jpg", "cocoid": n, "split": split}
        | {"sentences": [{"raw": "A dog."}]}
        for n, split in enumerate(splits)
    ]
    path = put(tmp_path / "dataset_coco.json", {"images": images})
    for split in ("train", "restval", "val", "train+val"):
        run = read_captions("karpathy_coco", tmp_path, split, training=False)
        file = read_references(path, split)
        assert list(file) == [str(image.image_id) for image in run.images], split
    assert list(read_references(path, "train")) == ["0", "1"]


def test_what_is_written_is_read_and_has_numbers(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    captions = {"42": "é", "0": "\ud800", "007": "c", "a": "d", "²": "e"}
    write_results(path, captions)
    assert [record["image_id"] for record in json.loads(path.read_text())] == [
        42,
        0,
        "007",
        "a",
        "²",
    ]
    assert read_results(path) == captions


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        ("[", "E-JSON-READ", "r.json"),
        ({"42": "a"}, "E-JSON-TYPE", "{'image_id': ..., 'caption': ...}; got {'42'"),
        ([], "E-CAPTIONS-EMPTY", "r.json"),
        ([3], "E-JSON-TYPE", "[0]: expected an object with 'image_id'; got 3"),
        ([{"image_id": True, "caption": ""}], "E-JSON-TYPE", "image_id"),
        ([{"image_id": 1.5, "caption": ""}], "E-JSON-TYPE", "image_id"),
        ([{"image_id": 1}], "E-JSON-KEY", "[0]: no key 'caption'; found 'image_id'"),
        ([{"image_id": 1, "caption": ["a"]}], "E-JSON-TYPE", "caption"),
        ([*SAID, {"image_id": "42", "caption": ""}], "E-DATA-TWICE", "[2]: image_id '42'"),
    ],
)
def test_results_that_are_refused(tmp_path: Path, content: Any, code: str, named: str) -> None:
    with refuses(code, named):
        read_results(put(tmp_path / "r.json", content))


def one_image(**changes: Any) -> dict[str, Any]:
    image = {"filename": "1.jpg", "split": "test", "sentences": [{"raw": "a"}]}
    return {"images": [image, image | {"filename": "2.jpg"} | changes]}


@pytest.mark.parametrize(
    ("content", "split", "error", "code", "named"),
    [
        ([PLAIN], None, ClipfeatError, "E-CAPTIONS-FORMAT", "got [{'42'"),
        ({}, None, ClipfeatError, "E-CAPTIONS-EMPTY", "r.json"),
        ({"42": "a"}, None, ClipfeatError, "E-CAPTIONS-FORMAT", "'42': "),
        ({"42": ["a", 3]}, None, ClipfeatError, "E-CAPTIONS-FORMAT", "got ['a', 3]"),
        ({"42": []}, None, ClipfeatError, "E-CAPTIONS-NONE", "'42': "),
        (PLAIN, "test", UsageError, "E-SPLIT-OPTION", "--split"),
        (COCO, "val", UsageError, "E-SPLIT-OPTION", "--split"),
        ({"annotations": [{"caption": 3}]}, None, ClipfeatError, "E-JSON-KEY", "[0]: no key 'ima"),
        (
            {"annotations": [{"caption": 3, "image_id": 1}]},
            None,
            ClipfeatError,
            "E-JSON-TYPE",
            "annotations[0]: caption",
        ),
        (
            {"annotations": [COCO["annotations"][0], 3]},
            None,
            ClipfeatError,
            "E-JSON-TYPE",
            "annotations[1]: expected an object with 'image_id'; got 3",
        ),
        (KARPATHY, None, UsageError, "E-SPLIT-OPTION", "--split, one of test, val"),
        (KARPATHY, "dev", UsageError, "E-SPLIT-UNKNOWN", "'dev'; its splits: test, val"),
        (one_image(split=3), "test", ClipfeatError, "E-JSON-TYPE", "images[1]: split"),
        (one_image(sentences=[]), "test", ClipfeatError, "E-CAPTIONS-NONE", "images[1]"),
        (one_image(sentences=[3]), "test", ClipfeatError, "E-JSON-TYPE", "images[1].sentences[0]"),
        (one_image(sentences=None), "test", ClipfeatError, "E-JSON-TYPE", "sentences"),
        (one_image(cocoid=1.5), "test", ClipfeatError, "E-JSON-TYPE", "cocoid"),
        (one_image(filename=None), "test", ClipfeatError, "E-JSON-TYPE", "filename"),
        (one_image(filename="a/1.png"), "test", ClipfeatError, "E-DATA-TWICE", "image '1'"),
        (one_image(cocoid=1), "test", ClipfeatError, "E-DATA-TWICE", "image '1'"),
    ],
)
def test_references_that_are_refused(
    tmp_path: Path, content: Any, split: str | None, error: type, code: str, named: str
) -> None:
    with refuses(code, named) as refused:
        read_references(put(tmp_path / "r.json", content), split)
    assert type(refused.value) is error


def test_images_of_results_and_references() -> None:
    references = {"1": ["a"], "2": ["b"], "3": ["c"]}
    assert match_references({"2": "", "1": "", "3": ""}, references, subset=False) == references
    assert match_references({"3": ""}, references, subset=True) == {"3": ["c"]}
    with refuses("E-CAPTIONS-IMAGES", "2 of 3 images", "'1', '2'"):
        match_references({"3": ""}, references, subset=False)
    for subset in (False, True):
        with refuses("E-CAPTIONS-IMAGES", "1 of 2 images", "'03'"):
            match_references({"3": "", "03": ""}, references, subset=subset)


@pytest.fixture
def _no_meteor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let METEOR fail, which takes seconds to start."""
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(
        f'#!/bin/sh\ncase "$*" in *meteor*) exit 1;; esac\nexec {shutil.which("java")} "$@"\n'
    )
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(java.parent), prepend=":")


@pytest.mark.usefixtures("_no_meteor")
def test_captions_are_scored_as_typed(tmp_path: Path, typed: Typed) -> None:
    results = put(tmp_path / "said.json", SAID)
    references = put(tmp_path / "dataset.json", KARPATHY)
    words = ["eval", "caption", "--results", results, "--references", references]
    code, out, err = typed(*words, "--split", "test", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["n"], found["left_out"].keys()) == (2, {"METEOR", "SPICE"})
    # "a dog" and "a cat" are references to the letter.
    assert [found["Bleu_2"], found["ROUGE_L"]] == pytest.approx([1, 1], abs=1e-6)

    code, out, err = typed(*words, "--split", "test")
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == ["2 images", " 1.0000  Bleu_1"]

    code, out, err = typed(*words, "--split", "val", "--subset")
    assert (code, out) == (1, "")
    assert err == (
        "Error: 2 of 2 images of the results have no references, such as '42', '7'; "
        "score a split with its own references [E-CAPTIONS-IMAGES]\n"
    )
    code, out, err = typed(*words)
    assert (code, out) == (2, "")
    assert err == f"Error: {references} needs --split, one of test, val [E-SPLIT-OPTION]\n"


def test_an_extra_that_is_missing_is_named(
    tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "clipfeat.train.metrics.captions", raising=False)
    monkeypatch.setitem(sys.modules, "pycocoevalcap.bleu.bleu", None)
    code, out, err = typed("eval", "caption", "--results", tmp_path, "--references", tmp_path)
    assert (code, out) == (2, "")
    assert "pycocoevalcap.bleu.bleu" in err
    assert "pip install '.[caption]' [E-EXTRA-MISSING]" in err
