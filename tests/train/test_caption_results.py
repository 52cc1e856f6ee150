"""Files of captions: what is read, what is refused, and `clipfeat eval caption` as typed."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipfeat.base.errors import ClipfeatError, UsageError
from clipfeat.train.data.caption_files import matched, read_references, read_results, write_results
from clipfeat.train.data.coco_captions import read_split

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


def test_flickr30k_goes_by_file_names(tmp_path: Path) -> None:
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
        run = read_split("karpathy_coco", tmp_path, split, training=False)
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
    ("content", "message"),
    [
        ("[", "not a readable JSON file"),
        ({"42": "a"}, "expected a list of {'image_id': ..., 'caption': ...}; got {'42'"),
        ([], "holds no captions"),
        ([3], "[0]: expected an object with 'image_id'; got 3"),
        ([{"image_id": True, "caption": ""}], "image_id must be a number or text; got True"),
        ([{"image_id": 1.5, "caption": ""}], "image_id must be a number or text; got 1.5"),
        ([{"image_id": 1}], "[0]: no key 'caption'; found 'image_id'"),
        ([{"image_id": 1, "caption": ["a"]}], "caption must be of type str; got ['a']"),
        ([*SAID, {"image_id": "42", "caption": ""}], "[2]: image_id '42' is there twice; drop one"),
    ],
)
def test_results_that_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ClipfeatError) as raised:
        read_results(put(tmp_path / "r.json", content))
    assert message in str(raised.value)


def one_image(**changes: Any) -> dict[str, Any]:
    image = {"filename": "1.jpg", "split": "test", "sentences": [{"raw": "a"}]}
    return {"images": [image, image | {"filename": "2.jpg"} | changes]}


@pytest.mark.parametrize(
    ("content", "split", "error", "message"),
    [
        ([PLAIN], None, ClipfeatError, "expected an object, such as {'42': ['a caption']}; got"),
        ({}, None, ClipfeatError, "holds no captions"),
        ({"42": "a"}, None, ClipfeatError, "'42': expected a list of captions, in COCO's"),
        ({"42": ["a", 3]}, None, ClipfeatError, "expected a list of captions, in COCO's"),
        ({"42": []}, None, ClipfeatError, "'42': has no captions; leave the image out"),
        (PLAIN, "test", UsageError, "has no splits, as Karpathy's files do; leave --split out"),
        (COCO, "val", UsageError, "has no splits"),
        ({"annotations": [{"caption": 3}]}, None, ClipfeatError, "[0]: no key 'image_id'; found"),
        (
            {"annotations": [{"caption": 3, "image_id": 1}]},
            None,
            ClipfeatError,
            "annotations[0]: caption must be of type str; got 3",
        ),
        (
            {"annotations": [COCO["annotations"][0], 3]},
            None,
            ClipfeatError,
            "annotations[1]: expected an object with 'image_id'; got 3",
        ),
        (KARPATHY, None, UsageError, "needs --split, one of test, val"),
        (KARPATHY, "dev", UsageError, "no images of split 'dev'; its splits: test, val"),
        (one_image(split=3), "test", ClipfeatError, "images[1]: split must be of type str; got 3"),
        (one_image(sentences=[]), "test", ClipfeatError, "images[1]: has no captions"),
        (one_image(sentences=[3]), "test", ClipfeatError, "images[1].sentences[0]: expected an"),
        (one_image(sentences=None), "test", ClipfeatError, "sentences must be of type list"),
        (one_image(cocoid=1.5), "test", ClipfeatError, "cocoid must be a number or text"),
        (one_image(filename=None), "test", ClipfeatError, "filename must be of type str"),
        (one_image(filename="a/1.png"), "test", ClipfeatError, "image '1' is there twice; drop"),
        (one_image(cocoid=1), "test", ClipfeatError, "image '1' is there twice; drop one"),
    ],
)
def test_references_that_are_refused(
    tmp_path: Path, content: Any, split: str | None, error: type, message: str
) -> None:
    with pytest.raises(ClipfeatError) as raised:
        read_references(put(tmp_path / "r.json", content), split)
    assert message in str(raised.value)
    assert type(raised.value) is error


def test_images_of_results_and_references() -> None:
    references = {"1": ["a"], "2": ["b"], "3": ["c"]}
    assert matched({"2": "", "1": "", "3": ""}, references, subset=False) == references
    assert matched({"3": ""}, references, subset=True) == {"3": ["c"]}
    with pytest.raises(ClipfeatError, match="the results lack 2 of 3 images of the references, "):
        matched({"3": ""}, references, subset=False)
    for subset in (False, True):
        with pytest.raises(ClipfeatError, match=r"1 of 2 images .* no references, such as '03'"):
            matched({"3": "", "03": ""}, references, subset=subset)


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
        "score a split with its own references\n"
    )
    code, out, err = typed(*words)
    assert (code, out) == (2, "")
    assert err == f"Error: {references} needs --split, one of test, val\n"


def test_an_extra_that_is_missing_is_named(
    tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "clipfeat.train.metrics.captions", raising=False)
    monkeypatch.setitem(sys.modules, "pycocoevalcap.bleu.bleu", None)
    code, out, err = typed("eval", "caption", "--results", tmp_path, "--references", tmp_path)
    assert (code, out) == (2, "")
    assert (
        "which is not installed; type in the folder of clipfeat's source: pip install '.[caption]'"
        in err
    )
