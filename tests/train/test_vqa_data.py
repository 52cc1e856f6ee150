"""Official files to examples and batches."""

import dataclasses
import doctest
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refused import refuses
from vqa_world import COLOURS, grid, make_world, questions_of, vocabulary_of

from clipfeat.base.errors import ClipfeatError, UsageError
from clipfeat.featstore import FeatureStore
from clipfeat.train.data import vocabulary as vocabulary_module
from clipfeat.train.data.ids import coco_candidates
from clipfeat.train.data.questions import Question
from clipfeat.train.data.vocabulary import WordVocabulary, read_answer_list
from clipfeat.train.data.vqa2 import IMAGE_PARTS, read_vqa2
from clipfeat.train.metrics.vqa import Annotation
from clipfeat.train.records import RecordReader
from clipfeat.train.tasks.answering import SoftAnswers, read_batch
from clipfeat.train.tasks.vqa import choose_answers, encode, store_ids


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_world(tmp_path_factory.mktemp("world"))


def test_doctests() -> None:
    results = doctest.testmod(vocabulary_module)
    assert (results.failed, results.attempted) == (0, 3)


def test_a_split_is_read_under_either_name(world: tuple[Path, Path], tmp_path: Path) -> None:
    _, data = world
    official = read_vqa2(data, "train", annotated=True)
    assert len(official.questions) == 3 * 24
    assert official.annotations is not None
    annotation = official.annotations[11]
    assert isinstance(annotation, Annotation)
    assert annotation.question_type == "is the"
    plain_names = ("questions_mini.json", "annotations_mini.json")
    for file, name in zip(official.files, plain_names, strict=True):
        (tmp_path / name).write_bytes(file.read_bytes())
    plain = read_vqa2(tmp_path, "mini", annotated=True)
    assert plain.annotations == official.annotations
    for mine, theirs in zip(plain.questions, official.questions, strict=True):
        # Its images may be of any part of COCO.
        assert set(mine.candidates) > set(theirs.candidates)
        assert dataclasses.replace(mine, candidates=theirs.candidates) == theirs
    (tmp_path / "annotations_mini.json").unlink()
    assert read_vqa2(tmp_path, "mini", annotated=False).annotations is None


@pytest.mark.parametrize(
    ("split", "named"),
    [
        ("test-dev", "v2_OpenEnded_mscoco_test-dev2015_questions.json or questions_test-dev.json"),
        ("mini", "questions_mini.json, the questions of split 'mini'"),
    ],
)
def test_missing_files_are_named(world: tuple[Path, Path], split: str, named: str) -> None:
    with refuses("E-DATA-FILE", named, kind=UsageError):
        read_vqa2(world[1], split, annotated=False)


def test_missing_annotations_are_named(world: tuple[Path, Path], tmp_path: Path) -> None:
    name = "v2_OpenEnded_mscoco_val2014_questions.json"
    (tmp_path / name).write_bytes((world[1] / name).read_bytes())
    named = "v2_mscoco_val2014_annotations.json or annotations_val.json"
    with refuses("E-DATA-FILE", named, kind=UsageError):
        read_vqa2(tmp_path, "val", annotated=True)


COCO_42 = "COCO_val2014_000000000042"
QUESTION = {"question_id": 1, "image_id": 7, "question": "Why?"}
ANNOTATION = {
    "question_id": 1,
    "answers": [{"answer": "yes"}] * 10,
    "multiple_choice_answer": "yes",
    "answer_type": "yes/no",
    "question_type": "why",
}


@pytest.mark.parametrize(
    ("questions", "annotations", "code", "named"),
    [
        ("{", [ANNOTATION], "E-JSON-READ", "questions_x.json"),
        ([], [ANNOTATION], "E-DATA-EMPTY", "questions_x.json: questions"),
        ("[1]", [ANNOTATION], "E-JSON-TYPE", "questions_x.json: expected an object with 'questi"),
        ([QUESTION | {"question_id": 1.5}], [ANNOTATION], "E-JSON-TYPE", "[0]: question_id"),
        ([QUESTION | {"image_id": None}], [ANNOTATION], "E-JSON-TYPE", "questions[0]: image_id"),
        ([{"question_id": 1}], [ANNOTATION], "E-JSON-KEY", "[0]: no key 'image_id'; found 'ques"),
        ([QUESTION, QUESTION], [ANNOTATION], "E-DATA-TWICE", "questions[1]: question_id 1 "),
        ([QUESTION], [ANNOTATION | {"question_id": 2}], "E-VQA-ANNOTATIONS", "1 of 1 questions"),
        ([QUESTION], [ANNOTATION | {"answers": []}], "E-VQA-ANSWERS", "annotations[0]"),
        ([QUESTION], [ANNOTATION | {"answers": ["yes"] * 10}], "E-JSON-TYPE", "'answer'"),
        ([QUESTION], [{"question_id": 1}], "E-JSON-KEY", "annotations[0]: no key 'answers'"),
    ],
)
def test_files_in_another_format_are_refused(
    tmp_path: Path, questions: Any, annotations: Any, code: str, named: str
) -> None:
    for name, content in (("questions", questions), ("annotations", annotations)):
        text = content if isinstance(content, str) else json.dumps({name: content})
        (tmp_path / f"{name}_x.json").write_text(text)
    with refuses(code, str(tmp_path), named):
        read_vqa2(tmp_path, "x", annotated=True)


def test_the_most_common_answer_is_counted_where_a_file_lacks_it(tmp_path: Path) -> None:
    answers = [{"answer": text} for text in ["no"] * 3 + ["yes"] * 4 + ["maybe"] * 3]
    annotation = ANNOTATION | {"answers": answers}
    del annotation["multiple_choice_answer"]
    for name, content in (("questions", [QUESTION]), ("annotations", [annotation])):
        (tmp_path / f"{name}_x.json").write_text(json.dumps({name: content}))
    split = read_vqa2(tmp_path, "x", annotated=True)
    assert choose_answers(split, min_answer_count=1) == ("yes",)


def test_vocabulary(world: tuple[Path, Path]) -> None:
    split = read_vqa2(world[1], "train", annotated=True)
    vocabulary = vocabulary_of(split)
    assert set(vocabulary.answers) == {*COLOURS, "yes", "no"}
    assert isinstance(vocabulary.words, WordVocabulary)
    assert "colour" in vocabulary.words.words
    assert vocabulary.words.size == len(vocabulary.words.words) + 2
    with pytest.raises(ClipfeatError, match=r"'train' .* 999 .* 72 questions.* --set min_answer_c"):
        choose_answers(split, min_answer_count=999)


def test_answers_are_counted_over_several_splits(world: tuple[Path, Path]) -> None:
    train, val = (read_vqa2(world[1], name, annotated=True) for name in ("train", "val"))
    count = Counter(answer for image in range(1, 34) for _, answer, *_ in questions_of(image))
    most, *_, least = (number for _, number in count.most_common())
    for minimum in (least, least + 1, most):
        expected = {answer for answer, number in count.items() if number >= minimum}
        assert set(choose_answers(train, val, min_answer_count=minimum)) == expected


@pytest.mark.parametrize("text", ['["red", "yes"]', "<unk>\nred\nyes\n\n", "red\r\n yes"])
def test_answers_can_be_a_given_list(world: tuple[Path, Path], tmp_path: Path, text: str) -> None:
    path = tmp_path / "answers"
    path.write_text(text)
    split = read_vqa2(world[1], "train", annotated=True)
    answers = choose_answers(split, min_answer_count=999, answer_list=str(path))
    assert answers == ("red", "yes")


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        (None, "E-ANSWERS-READ", "No such file"),
        ("[1]", "E-ANSWERS-LIST", "got 1"),
        ('["red"', "E-ANSWERS-READ", ""),
        ("[" * 100_000, "E-ANSWERS-READ", ""),
        ("", "E-ANSWERS-LIST", ""),
        ("<unk>\n", "E-ANSWERS-LIST", ""),
        ("red\nred", "E-ANSWERS-LIST", "'red'"),
    ],
)
def test_other_lists_of_answers_are_refused(
    tmp_path: Path, text: str | None, code: str, named: str
) -> None:
    path = tmp_path / "answers"
    if text is not None:
        path.write_text(text)
    with refuses(code, f"answer_list {path}", named, kind=UsageError):
        read_answer_list(path)


def test_a_list_of_other_answers_is_refused(world: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "answers"
    path.write_text("mauve\npuce")
    split = read_vqa2(world[1], "train", annotated=True)
    with pytest.raises(UsageError, match=r"2 answers, such as 'mauve', .* split 'train'"):
        choose_answers(split, min_answer_count=1, answer_list=str(path))


def test_questions_without_features_are_left_out(world: tuple[Path, Path]) -> None:
    split = read_vqa2(world[1], "train", annotated=True)
    vocabulary = vocabulary_of(split)
    store = set(FeatureStore.open(world[0]).ids) - {"COCO_train2014_000000000002"}
    whole = encode(split, vocabulary, FeatureStore.open(world[0]), max_tokens=20)
    some = encode(split, vocabulary, store, max_tokens=20, skip_missing=3)
    kept = [number for number, question_id in enumerate(whole.ids) if int(question_id) // 10 != 2]
    assert some.ids == tuple(whole.ids[number] for number in kept)
    assert some.targets is not None
    assert whole.targets is not None
    table = whole.targets.table(np.array(kept), len(vocabulary.answers))
    assert torch.equal(some.targets.table(np.arange(len(kept)), len(vocabulary.answers)), table)
    np.testing.assert_array_equal(some.tokens, whole.tokens[kept])
    with pytest.raises(ClipfeatError, match="split 'train'"):
        encode(split, vocabulary, set(), max_tokens=20, skip_missing=999)


def test_tokens() -> None:
    texts = ["Is it red?", "is is is is red", "", "?!"]
    tokens = WordVocabulary(("is", "red")).encode(texts, max_tokens=4)
    assert tokens.tolist() == [[2, 1, 3, 0], [2, 2, 2, 2], [1, 0, 0, 0], [1, 0, 0, 0]]


def ask(image_id: int | str, *subsets: str) -> Question:
    """Return a question about an image of COCO."""
    candidates = coco_candidates(image_id, subsets or IMAGE_PARTS)
    return Question(1, image_id, "Why?", "COCO", candidates)


@pytest.mark.parametrize(
    ("stored", "split"),
    [
        ("42", "train"),
        ("COCO_train2014_000000000042", "train"),
        ("COCO_val2014_000000000042", "val"),
        ("COCO_test2015_000000000042", "test"),
        ("COCO_test2015_000000000042", "test-std"),
        ("COCO_test2015_000000000042", "test-dev"),
        ("COCO_val2014_000000000042", "minival"),
        ("000000000042", "val"),
        ("COCO_val2014_000000000042.jpg", "val"),
        ("000000000042.jpg", "val"),
        ("42.jpg", "minival"),
    ],
)
@pytest.mark.parametrize("image_id", [42, "42"])
def test_image_ids_are_found_in_a_store(
    tmp_path: Path, stored: str, split: str, image_id: int | str
) -> None:
    (tmp_path / f"questions_{split}.json").write_text(
        json.dumps({"questions": [QUESTION | {"image_id": image_id}]})
    )
    questions = read_vqa2(tmp_path, split, annotated=False).questions
    assert store_ids(questions, split, {stored}) == [stored]


@pytest.mark.parametrize(
    ("image_id", "stored", "found"),
    [
        ("042", "42", []),  # another image
        ("scan_3", "scan_3.jpg", ["scan_3.jpg"]),
        ("scan_3.jpg", "scan_3", ["scan_3"]),
        ("COCO_val2014_000000000042.jpg", COCO_42, [COCO_42]),
        (COCO_42, "42", ["42"]),
        (COCO_42, "COCO_train2014_000000000042", []),
        (10**40, str(10**40), [str(10**40)]),
        (-1, "-1", ["-1"]),
    ],
)
def test_other_ids_are_found_unchanged(
    tmp_path: Path, image_id: int | str, stored: str, found: list[str]
) -> None:
    other = QUESTION | {"image_id": "other", "question_id": 99}
    questions = [QUESTION | {"image_id": image_id}, other]
    (tmp_path / "questions_val.json").write_text(json.dumps({"questions": questions}))
    split = read_vqa2(tmp_path, "val", annotated=False)
    ids = store_ids(split.questions, "val", {stored, "other"}, skip_missing=1)
    assert [stored for stored in ids if stored] == [*found, "other"]


def test_the_least_ambiguous_id_comes_first() -> None:
    store = {"42", "000000000042", "COCO_val2014_000000000042"}
    question = ask(42, "val2014")
    found = []
    while store:
        found += store_ids([question], "val", store)
        store.remove(str(found[-1]))
    assert found == ["COCO_val2014_000000000042", "000000000042", "42"]


def test_images_without_features_are_counted_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    told = (
        "3 of 4 questions of split 'val' ask about 2 images without features, such as "
        "COCO_val2014_000000000007 or 000000000007, scan_3; "
    )
    store = {"COCO_train2014_000000000007", "000000000001"}
    questions = [ask(image_id, "val2014") for image_id in (7, 7, "scan_3", 1)]
    for allowed in (0, 2):
        with refuses("E-IMAGES-MISSING", told, "--skip-missing 3"):
            store_ids(questions, "val", store, skip_missing=allowed)
    assert store_ids(questions, "val", store, skip_missing=3) == [None, None, None, "000000000001"]
    assert capsys.readouterr().err == told + "skipped\n"


def test_a_batch_reads_each_record_once(world: tuple[Path, Path]) -> None:
    store = FeatureStore.open(world[0])
    split = read_vqa2(world[1], "train", annotated=True)
    vocabulary = vocabulary_of(split)
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


def test_targets_of_a_batch_are_those_of_its_texts() -> None:
    rng = np.random.default_rng(0)
    rows = [
        dict(zip(rng.permutation(50)[:count].tolist(), rng.random(count).tolist(), strict=True))
        for count in rng.integers(0, 4, 100).tolist()
    ]
    targets = SoftAnswers.of(rows)
    for numbers in ([], [0], [99, 0, 0], rng.integers(0, 100, 64).tolist()):
        expected = torch.zeros(len(numbers), 50)
        for place, number in enumerate(numbers):
            for answer, score in rows[number].items():
                expected[place, answer] = score
        assert torch.equal(targets.table(np.array(numbers, np.int64), 50), expected)
    nothing = SoftAnswers.of([{}, {}])
    assert nothing.table(np.array([1, 0]), 3).tolist() == [[0, 0, 0], [0, 0, 0]]
