"""Official files to examples and batches."""

import doctest
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from vqa_world import COLOURS, grid, make_world, questions_of

from clipfeat.base.errors import ClipfeatError, UsageError
from clipfeat.featstore import FeatureStore
from clipfeat.train.examples import read_batch
from clipfeat.train.records import RecordReader
from clipfeat.train.text import encode_tokens
from clipfeat.train.vqa.data import build_vocabulary, encode, store_ids
from clipfeat.train.vqa.files import read_split


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_world(tmp_path_factory.mktemp("world"))


def test_doctests() -> None:
    for name in ("text", "vqa.data"):
        results = doctest.testmod(importlib.import_module(f"clipfeat.train.{name}"))
        assert (results.failed, results.attempted > 0) == (0, True)


def test_a_split_is_read_under_either_name(world: tuple[Path, Path], tmp_path: Path) -> None:
    _, data = world
    official = read_split(data, "train", annotated=True)
    assert len(official.questions) == 3 * 24
    assert official.annotations is not None
    assert official.annotations[11].question_type == "is the"
    plain_names = ("questions_mini.json", "annotations_mini.json")
    for file, name in zip(official.files, plain_names, strict=True):
        (tmp_path / name).write_bytes(file.read_bytes())
    plain = read_split(tmp_path, "mini", annotated=True)
    assert (plain.questions, plain.annotations) == (official.questions, official.annotations)
    (tmp_path / "annotations_mini.json").unlink()
    assert read_split(tmp_path, "mini", annotated=False).annotations is None


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("test-dev", "v2_OpenEnded_mscoco_test-dev2015_questions.json or questions_test-dev.json"),
        ("mini", "has no questions of split 'mini': expected questions_mini.json"),
    ],
)
def test_missing_files_are_named(world: tuple[Path, Path], split: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_split(world[1], split, annotated=False)


def test_missing_annotations_are_named(world: tuple[Path, Path], tmp_path: Path) -> None:
    name = "v2_OpenEnded_mscoco_val2014_questions.json"
    (tmp_path / name).write_bytes((world[1] / name).read_bytes())
    message = "expected v2_mscoco_val2014_annotations.json or annotations_val.json"
    with pytest.raises(UsageError, match=message):
        read_split(tmp_path, "val", annotated=True)


QUESTION = {"question_id": 1, "image_id": 7, "question": "Why?"}
ANNOTATION = {
    "question_id": 1,
    "answers": [{"answer": "yes"}] * 10,
    "multiple_choice_answer": "yes",
    "answer_type": "yes/no",
    "question_type": "why",
}


@pytest.mark.parametrize(
    ("questions", "annotations", "message"),
    [
        ("{", [ANNOTATION], "questions_x.json: not a readable JSON file"),
        ([], [ANNOTATION], "questions_x.json: questions is empty"),
        ("[1]", [ANNOTATION], r"questions_x.json: expected an object with 'questions'; got \[1\]"),
        ([QUESTION | {"question_id": "1"}], [ANNOTATION], r"questions\[0\]: question_id must be"),
        ([QUESTION | {"image_id": None}], [ANNOTATION], r"questions\[0\]: image_id must be a num"),
        ([{"question_id": 1}], [ANNOTATION], r"questions\[0\]: image_id must be a number or text"),
        ([QUESTION, QUESTION], [ANNOTATION], r"questions\[1\]: question_id 1 is there twice"),
        ([QUESTION], [ANNOTATION | {"question_id": 2}], "1 of 1 questions have no annotation"),
        ([QUESTION], [ANNOTATION | {"answers": []}], "0 answers; the VQA accuracy needs at least"),
        ([QUESTION], [ANNOTATION | {"answers": ["yes"] * 10}], "expected an object with 'answer'"),
        ([QUESTION], [{"question_id": 1}], r"annotations\[0\]: no key 'answers'; found"),
    ],
)
def test_files_in_another_format_are_refused(
    tmp_path: Path, questions: Any, annotations: Any, message: str
) -> None:
    for name, content in (("questions", questions), ("annotations", annotations)):
        text = content if isinstance(content, str) else json.dumps({name: content})
        (tmp_path / f"{name}_x.json").write_text(text)
    with pytest.raises(ClipfeatError, match=message):
        read_split(tmp_path, "x", annotated=True)


def test_vocabulary(world: tuple[Path, Path]) -> None:
    split = read_split(world[1], "train", annotated=True)
    vocabulary = build_vocabulary(split, min_answer_count=1)
    assert set(vocabulary.answers) == {*COLOURS, "yes", "no"}
    assert "colour" in vocabulary.words
    assert vocabulary.tokens == len(vocabulary.words) + 2
    with pytest.raises(ClipfeatError, match="occurs 999 times in its 72 questions; pass --set"):
        build_vocabulary(split, min_answer_count=999)


def test_tokens() -> None:
    texts = ["Is it red?", "is is is is red", "", "?!"]
    tokens = encode_tokens(texts, ("is", "red"), max_tokens=4)
    assert tokens.tolist() == [[2, 1, 3, 0], [2, 2, 2, 2], [1, 0, 0, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("stored", "split"),
    [
        ("42", "train"),
        ("COCO_train2014_000000000042", "train"),
        ("COCO_val2014_000000000042", "val"),
        ("COCO_test2015_000000000042", "test"),
        ("COCO_test2015_000000000042", "test-dev"),
        ("COCO_val2014_000000000042", "minival"),
        ("000000000042", "val"),
    ],
)
def test_image_ids_are_found_in_a_store(stored: str, split: str) -> None:
    assert store_ids([42, 42], split, {stored}) == [stored, stored]


def test_images_without_features_are_counted_and_named() -> None:
    message = (
        r"3 of 4 questions of split 'val' ask about 2 images that have no features, such as "
        r"7 or COCO_val2014_000000000007, scan_3; extract these images"
    )
    store = {"COCO_train2014_000000000007", "1"}
    with pytest.raises(ClipfeatError, match=message):
        store_ids([7, 7, "scan_3", 1], "val", store)


def test_a_batch_reads_each_record_once(world: tuple[Path, Path]) -> None:
    store = FeatureStore.open(world[0])
    split = read_split(world[1], "train", annotated=True)
    vocabulary = build_vocabulary(split, min_answer_count=1)
    examples = encode(split, vocabulary, store, max_tokens=20)
    reader = RecordReader(store, torch.device("cpu"))
    numbers = np.array([3, 0, 39, 4])  # of images 2, 1, 14, 2
    batch = read_batch(reader, examples, numbers, answers=len(vocabulary.answers))
    assert batch.features.shape == (3, 9, 8)
    assert batch.image_of_text.tolist() == [1, 0, 2, 1]
    assert batch.grid_shapes.tolist() == [[3, 3], [2, 2], [2, 2]]
    for image, image_id in enumerate((1, 2, 14)):
        real = batch.features[image][batch.mask[image]]
        np.testing.assert_array_equal(real, grid(image_id).reshape(-1, 8))
    assert batch.tokens.shape == (4, 5)  # the longest of the four questions
    for row, number in zip(batch.targets, numbers, strict=True):
        answer = questions_of(1 + number // 3)[number % 3][1]
        assert row[vocabulary.answers.index(answer)] == 1
        assert row.sum() == 1  # "unsure" is no class
