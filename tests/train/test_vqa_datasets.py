"""Visual Genome and GQA in their own files, and splits of several parts."""

import json
from pathlib import Path
from typing import Any

import pytest
from refused import refuses
from vqa_world import make_world, vocabulary_of, write_gqa, write_split, write_visual_genome

from clipfeat.base.errors import ClipfeatError, UsageError
from clipfeat.train.data.gqa import read_gqa
from clipfeat.train.data.vqa2 import read_visual_genome
from clipfeat.train.data.vqa_files import read_question_files, read_questions
from clipfeat.train.tasks.vqa import choose_answers, encode, store_ids


def test_parts_are_joined(tmp_path: Path) -> None:
    _, data = make_world(tmp_path, train=2, val=1)
    write_visual_genome(data, [1, 2])
    split = read_questions("vqa2", data, "train+val+vg", annotated=True)
    assert split.name == "train+val+vg"
    assert split.ids == (*range(10, 13), *range(20, 23), *range(30, 33), "VG_10", "VG_20")
    assert [file.name for file in split.files] == [
        "v2_OpenEnded_mscoco_train2014_questions.json",
        "v2_mscoco_train2014_annotations.json",
        "v2_OpenEnded_mscoco_val2014_questions.json",
        "v2_mscoco_val2014_annotations.json",
        "question_answers.json",
    ]
    candidates = [question.candidates[0] for question in split.questions]
    assert candidates[::3] == [
        *("COCO_train2014_000000000001", "COCO_train2014_000000000002"),
        *("COCO_val2014_000000000003", "VG_1"),
    ]
    assert split.annotations is not None
    assert split.annotations["VG_10"].soft() == {"2 green": 1.0}  # it said "Two green."
    answers = dict.fromkeys(split.ids, "2 green")
    assert split.score(answers)["by_answer_type"]["vg"] == 50.0


def test_parts_without_annotations_leave_the_whole_without(tmp_path: Path) -> None:
    _, data = make_world(tmp_path, train=1, val=1)
    write_split(data, "test2015", [3], annotated=False)
    for name in ("test", "test-std"):
        assert read_questions("vqa2", data, name, annotated=False).ids == (30, 31, 32)
    assert read_questions("vqa2", data, "train+test", annotated=False).annotations is None


def test_question_ids_must_differ_between_parts(tmp_path: Path) -> None:
    _, data = make_world(tmp_path, train=2, val=1)
    with refuses("E-SPLIT-SHARED", "6 question ids are in part 'train'", "10"):
        read_questions("vqa2", data, "train+val+train", annotated=True)


def test_bare_numbers_must_not_mix_coco_and_visual_genome(tmp_path: Path) -> None:
    _, data = make_world(tmp_path, train=2, val=1)
    write_visual_genome(data, [2, 9])
    split = read_questions("vqa2", data, "train+vg", annotated=True)
    with pytest.raises(ClipfeatError, match=r"image 2 of COCO and of Visual Genome.* VG_2"):
        store_ids(split.questions, split.name, {"1", "2", "9"})
    fine = {"COCO_train2014_000000000001": "1", "000000000002": "2"}
    for store in ({*fine, "2", "9"}, {"1", "2", "VG_2", "9"}, {"1", "2", "VG_2", "VG_9"}):
        ids = store_ids(split.questions, split.name, store)
        assert len(set(ids)) == 4


def test_a_bare_number_is_not_cocos_where_the_store_names_coco_by_files(tmp_path: Path) -> None:
    _, data = make_world(tmp_path, train=2, val=1)
    write_visual_genome(data, [2, 9])
    coco = read_questions("vqa2", data, "train", annotated=True)
    # No image of this split is found by its file: another one of the store tells how it names them.
    for known in ("COCO_train2014_000000000001", "COCO_val2014_000000000003.jpg"):
        with refuses("E-IMAGES-MISSING", "COCO_train2014_000000000002", kind=ClipfeatError):
            store_ids(coco.questions, coco.name, {known, "2", "9"}, skip_missing=0)
    assert "2" in store_ids(coco.questions, coco.name, {"1", "2", "9"})


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        ({"questions": []}, "E-JSON-TYPE", "got {'questions'"),
        ([], "E-DATA-EMPTY", ""),
        ([{"id": 1, "qas": []}], "E-DATA-EMPTY", ""),
        ([{"id": 1}], "E-JSON-KEY", "[0]: no key 'qas'; found 'id'"),
        ([{"qas": [3]}], "E-JSON-TYPE", "[0].qas[0]: expected an object with 'qa_id'; got 3"),
        ([{"qas": [{"qa_id": True}]}], "E-JSON-TYPE", "qa_id"),
        ([{"qas": [{"qa_id": 1}]}], "E-JSON-KEY", "no key 'image_id'; found 'qa_id'"),
        ([{"qas": [{"qa_id": 1, "image_id": 1}]}], "E-JSON-KEY", "'question'"),
        ([{"qas": [{"qa_id": 1, "image_id": 1, "question": "?"}]}], "E-JSON-KEY", "'answer'"),
        (
            [{"qas": [{"qa_id": 1, "image_id": 1, "question": "?", "answer": "a"}] * 2}],
            "E-DATA-TWICE",
            "[0].qas[1]: qa_id 'VG_1'",
        ),
    ],
)
def test_other_files_are_not_visual_genomes(
    tmp_path: Path, content: Any, code: str, named: str
) -> None:
    path = tmp_path / "question_answers.json"
    path.write_text(json.dumps(content))
    with refuses(code, str(path), named):
        read_visual_genome(tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with refuses("E-DATA-FILE", "question_answers.json", "'vg'", kind=UsageError):
        read_questions("vqa2", tmp_path, "vg", annotated=True)
    with refuses("E-DATA-FILE", str(tmp_path / "train_questions.json"), kind=UsageError):
        read_questions("gqa", tmp_path, "train", annotated=True)
    (tmp_path / "train_all_questions").mkdir()
    with refuses("E-DATA-FILE", str(tmp_path / "train_all_questions"), kind=UsageError):
        read_questions("gqa", tmp_path, "train_all", annotated=True)


def test_gqa_is_read_from_a_file_or_a_folder(tmp_path: Path) -> None:
    write_gqa(tmp_path / "train_balanced_questions.json", [1, 2])
    for number in (1, 2):
        name = f"train_all_questions/train_all_questions_{number}.json"
        write_gqa(tmp_path / name, [number])
    whole = read_questions("gqa", tmp_path, "train_balanced", annotated=True)
    parts = read_questions("gqa", tmp_path, "train_all", annotated=True)
    assert whole.ids == ("10", "11", "12", "20", "21", "22")
    assert (parts.questions, parts.annotations) == (whole.questions, whole.annotations)
    assert [file.name[-6:] for file in parts.files] == ["1.json", "2.json"]
    assert whole.questions[0].candidates == ("VG_1", "1")
    vocabulary = vocabulary_of(whole)
    examples = encode(whole, vocabulary, {"VG_1", "2"}, max_tokens=5)
    assert examples.image_ids == ("2", "VG_1")
    assert examples.targets is not None
    assert examples.targets.scores.tolist() == [1.0] * 6
    assert examples.targets.first.tolist() == list(range(7))
    write_gqa(tmp_path / "train_all_questions/train_all_questions_3.json", [2])
    with refuses("E-DATA-TWICE", "train_all_questions_3.json: 20: "):
        read_questions("gqa", tmp_path, "train_all", annotated=True)


def test_gqa_answers_are_not_normalised(tmp_path: Path) -> None:
    write_gqa(tmp_path / "mini_questions.json", [1], answer="The one")
    split = read_questions("gqa", tmp_path, "mini", annotated=True)
    assert "The one" in choose_answers(split, min_answer_count=1)


QUESTION = {
    "question": "Why?",
    "imageId": "n161313",
    "answer": "yes",
    "isBalanced": True,
    "types": {"structural": "query", "semantic": "rel", "detailed": "x"},
    "unknown": {"keys": ["are fine"]},
}


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        ("{", "E-JSON-READ", ""),
        ("[" * 100_000, "E-JSON-READ", ""),
        ([QUESTION], "E-JSON-TYPE", "got ["),
        ({}, "E-DATA-EMPTY", ""),
        ({"1": 3}, "E-JSON-TYPE", ": 1: expected an object with 'imageId'; got 3"),
        ({"1": QUESTION | {"imageId": None}}, "E-JSON-TYPE", ": 1: imageId"),
        ({"1": QUESTION | {"question": 1}}, "E-JSON-TYPE", ": 1: question"),
        ({"1": QUESTION | {"answer": 1}}, "E-JSON-TYPE", ": 1: answer"),
        ({"1": QUESTION | {"isBalanced": 1}}, "E-JSON-TYPE", ": 1: isBalanced"),
        ({"1": QUESTION | {"types": []}}, "E-JSON-TYPE", ": 1: types"),
        ({"1": QUESTION | {"types": {}}}, "E-JSON-KEY", ": 1: no key 'structural'"),
        ({"1": QUESTION | {"entailed": [1]}}, "E-JSON-TYPE", ": 1: entailed"),
        (
            {"1": QUESTION, "2": {"question": "Why?", "imageId": "1", "isBalanced": True}},
            "E-VQA-ANNOTATIONS",
            "1 of 2 questions have no answer, such as 2",
        ),
    ],
)
def test_other_files_are_not_gqas(tmp_path: Path, content: Any, code: str, named: str) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    path = tmp_path / "x_questions.json"
    path.write_text(text)
    with refuses(code, str(path), named):
        read_questions("gqa", tmp_path, "x", annotated=False)


def test_gqa_without_answers(tmp_path: Path) -> None:
    path = tmp_path / "test_questions.json"
    path.write_text(json.dumps({"1": {"question": "?", "imageId": "1", "isBalanced": True}}))
    assert read_gqa(tmp_path, "test", annotated=False).annotations is None
    with refuses("E-VQA-ANNOTATIONS", "1 of 1 questions have no answer, such as 1"):
        read_question_files(path, None)
