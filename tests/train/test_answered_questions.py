"""Question files of other data sets: VQA-CP, OK-VQA, VizWiz, TextVQA, A-OKVQA and LXMERT's own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refused import refuses
from vqa_world import make_world, write_visual_genome

from clipfeat.base.errors import UsageError
from clipfeat.train.data.questions import QuestionSplit, write_predictions
from clipfeat.train.data.vqa_files import read_question_files, read_questions
from clipfeat.train.tasks.vqa import choose_answers

Typed = Callable[..., tuple[int, str, str]]
TEN = ("two", "two", "2", "two dogs", "two", "three", "3", "a dog", "2", "dog's")

VIZWIZ = {
    "image": "VizWiz_val_00000000.jpg",
    "question": "How many?",
    "answers": [{"answer": text, "answer_confidence": "yes"} for text in TEN],
    "answer_type": "other",
    "answerable": 1,
}
TEXTVQA = {
    "question_id": 34602,
    "image_id": "0054c91397f2fe05",
    "question": "What is the brand?",
    "answers": list(TEN),
    "set_name": "val",
}
AOKVQA = {
    "split": "val",
    "image_id": 461751,
    "question_id": "22jbM6gDxdaMaunuzgrsBB",
    "question": "What is in the motorcyclist's mouth?",
    "choices": ["toothpick", "two"],
    "correct_choice_idx": 1,
    "direct_answers": list(TEN),
    "difficult_direct_answer": False,
}
LXMERT_VQA = {
    "answer_type": "other",
    "img_id": "COCO_val2014_000000458752",
    "label": {"net": 1, "fence": 0.3},
    "question_id": 458752000,
    "question_type": "what is this",
    "sent": "What is this photo taken looking through?",
}
LXMERT_GQA = {
    "img_id": "2375429",
    "label": {"pipe": 1.0},
    "question_id": "07333408",
    "sent": "What is on the white wall?",
}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def score(split: QuestionSplit, answer: str) -> float:
    """Return the accuracy of one answer to the first question, 0 to 1."""
    answers = dict.fromkeys(split.ids, "") | {split.ids[0]: answer}
    return split.score_each(answers)[split.ids[0]]


def leave_one_out(matches: list[bool]) -> float:
    """Return the mean of min(1, matches / 3) over the sets that leave one annotator out."""
    parts = [min(1, sum(matches[:n] + matches[n + 1 :]) / 3) for n in range(len(matches))]
    return sum(parts) / len(parts)


def test_vizwiz_compares_with_the_answers_as_published(tmp_path: Path) -> None:
    write(tmp_path / "val.json", [VIZWIZ])
    split = read_questions("vqa2", tmp_path, "val", annotated=True)
    assert split.ids == ("VizWiz_val_00000000.jpg",)
    assert split.candidates == (("VizWiz_val_00000000.jpg", "VizWiz_val_00000000"),)
    # "two" becomes "2", which two of the ten wrote, and "a dog" becomes "dog", which nobody did.
    for answer, compared in (("two", "2"), ("2", "2"), ("3", "3"), ("a dog", "dog")):
        expected = leave_one_out([text == compared for text in TEN])
        assert score(split, answer) == pytest.approx(expected)
    write_predictions(tmp_path / "p.json", {split.ids[0]: "2"}, split)
    written = json.loads((tmp_path / "p.json").read_text())
    assert written == [{"image": "VizWiz_val_00000000.jpg", "answer": "2"}]
    assert split.score({split.ids[0]: "2"})["by_answer_type"] == {"other": 60.0}


def test_textvqa_normalises_every_answer(tmp_path: Path) -> None:
    same = TEXTVQA | {"question_id": 1, "answers": ["Two"] * 10}
    write(tmp_path / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": [TEXTVQA, same]})
    split = read_questions("vqa2", tmp_path, "val", annotated=True)
    assert split.ids == (34602, 1)
    assert split.candidates[0] == ("0054c91397f2fe05", "0054c91397f2fe05.jpg")
    # As EvalAI's answer processor leaves them.
    normal = ("2", "2", "2", "2 dogs", "2", "3", "3", "dog", "2", "dog 's")
    for answer, compared in (
        ("two?", "2"),
        ("three", "3"),
        ("the dog", "dog"),
        ("dog's", "dog 's"),
    ):
        expected = leave_one_out([text == compared for text in normal])
        assert score(split, answer) == pytest.approx(expected)
    assert split.score_each({34602: "", 1: "2"}) == {34602: 0.0, 1: 1.0}  # VQA v2 would give 0
    assert split.score({34602: "", 1: "2"})["by_answer_type"] == {}


def test_direct_answers_of_aokvqa_count_as_they_are(tmp_path: Path) -> None:
    hard = AOKVQA | {"question_id": "hard", "difficult_direct_answer": True}
    write(tmp_path / "aokvqa_v1p0_val.json", [AOKVQA, hard])
    split = read_questions("vqa2", tmp_path, "val", annotated=True)
    assert {"000000461751", "COCO_val2014_000000461751"} < set(split.candidates[0])
    for answer in ("two", "2", "3", "Two", "dog's"):
        assert score(split, answer) == min(1, TEN.count(answer) / 3)
    assert split.score(dict.fromkeys(split.ids, "2")) == {
        **{"n": 1, "overall": 66.67, "by_answer_type": {}, "by_question_type": {}}
    }
    assert split.annotations is not None
    assert split.annotations["hard"].soft()["2"] == pytest.approx(2 / 3)
    assert choose_answers(split, min_answer_count=2) == ("two",)
    write(tmp_path / "aokvqa_v1p0_hard.json", [hard])
    only = read_questions("vqa2", tmp_path, "hard", annotated=True)
    with refuses("E-DATA-EMPTY", "none of the 1 questions counts"):
        only.score({"hard": "2"})


def test_lxmerts_files_have_scores(tmp_path: Path) -> None:
    bare = LXMERT_VQA | {"question_id": 5, "label": {}}
    write(tmp_path / "minival.json", [LXMERT_VQA, bare])
    split = read_questions("vqa2", tmp_path, "minival", annotated=True)
    assert split.candidates[0][0] == "COCO_val2014_000000458752"
    # LXMERT's evaluator adds up label.get(answer, 0), and divides by the number of questions.
    assert split.score({458752000: "fence", 5: "net"})["overall"] == 15.0
    assert split.score({458752000: "net", 5: "net"})["by_question_type"] == {"what is this": 50.0}
    assert choose_answers(split, min_answer_count=1) == ("net",)
    assert split.leaderboard.id_key == "question_id"
    write_visual_genome(tmp_path, [1])
    both = read_questions("vqa2", tmp_path, "minival+vg", annotated=True)
    assert both.score(dict.fromkeys(both.ids, "net"))["overall"] == 33.33

    write(tmp_path / "testdev.json", [LXMERT_GQA])
    gqa = read_questions("gqa", tmp_path, "testdev", annotated=True)
    assert gqa.candidates == (("VG_2375429", "2375429"),)
    assert gqa.score({"07333408": "pipe"})["overall"] == 100.0
    assert gqa.leaderboard.answer_key == "prediction"


def test_vqa_cp_names_the_part_of_coco(tmp_path: Path) -> None:
    question = {"image_id": 9, "question": "Why?", "question_id": 90, "coco_split": "train2014"}
    annotation = {
        "question_id": 90,
        "answers": [{"answer": "sun"}] * 10,
        "multiple_choice_answer": "sun",
        "answer_type": "other",
        "question_type": "why",
    }
    paths = [
        write(tmp_path / f"vqacp_v2_test_{kind}.json", [record])
        for kind, record in (("questions", question), ("annotations", annotation))
    ]
    split = read_questions("vqa2", tmp_path, "test", annotated=False)
    assert split.candidates == (("COCO_train2014_000000000009", "000000000009", "9"),)
    assert split.score({90: "sun"})["overall"] == 100.0
    assert read_question_files(*paths).score({90: "sky"})["overall"] == 0.0
    with refuses("E-VQA-OPTION", "without answers", kind=UsageError):
        read_question_files(paths[0], None)


def test_ok_vqa_has_the_names_of_vqa_v1(tmp_path: Path) -> None:
    _, data = make_world(tmp_path, train=2, val=1)
    v2 = read_questions("vqa2", data, "val", annotated=True)
    for file in data.glob("v2_*"):
        file.rename(file.with_name(file.name.removeprefix("v2_")))
    split = read_questions("vqa2", data, "val", annotated=True)
    assert (split.questions, split.annotations) == (v2.questions, v2.annotations)
    assert [file.name for file in split.files] == [
        "OpenEnded_mscoco_val2014_questions.json",
        "mscoco_val2014_annotations.json",
    ]


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        ([], "E-VQA-FORMAT", "docs/vqa.md"),
        ({"data": [3]}, "E-VQA-FORMAT", "docs/vqa.md"),
        ([VIZWIZ, VIZWIZ], "E-DATA-TWICE", "[1]: image 'VizWiz_val_00000000.jpg'"),
        ([VIZWIZ, {"image": "b", "question": "?"}], "E-VQA-ANNOTATIONS", "1 of 2 questions"),
        ([VIZWIZ | {"answers": VIZWIZ["answers"][:3]}], "E-VQA-ANSWERS", "[0]: 3 answers"),
        ([VIZWIZ | {"answer_type": None}], "E-JSON-TYPE", "[0]: answer_type"),
        ({"data": [TEXTVQA | {"answers": [1]}]}, "E-JSON-TYPE", "data[0]: answers must be texts"),
        ({"data": [TEXTVQA | {"question_id": None}]}, "E-JSON-TYPE", "data[0]: question_id"),
        ([AOKVQA | {"direct_answers": []}], "E-VQA-ANSWERS", "[0]: has no answers"),
        ([AOKVQA | {"difficult_direct_answer": "no"}], "E-JSON-TYPE", "difficult_direct_answer"),
        ([LXMERT_VQA | {"label": {"net": 2}}], "E-CORPUS-LABELS", "answer 'net'"),
        ([LXMERT_VQA | {"label": ["net"]}], "E-CORPUS-LABELS", "{answer: score}"),
        ([LXMERT_VQA, 3], "E-JSON-TYPE", "[1]: expected an object"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: Any, code: str, named: str) -> None:
    path = write(tmp_path / "mine.json", content)
    with refuses(code, str(path), named):
        read_questions("vqa2", tmp_path, "mine", annotated=True)


def test_splits_of_other_formats_are_not_scored_together(tmp_path: Path) -> None:
    write(tmp_path / "a.json", [VIZWIZ])
    write(tmp_path / "b.json", [LXMERT_VQA])
    with refuses("E-SPLIT-FORMAT", "'a' and 'b'"):
        read_questions("vqa2", tmp_path, "a+b", annotated=True)


def test_a_file_is_scored_without_a_run(tmp_path: Path, typed: Typed) -> None:
    questions = write(tmp_path / "val.json", [VIZWIZ])
    answers = write(tmp_path / "p.json", [{"image": VIZWIZ["image"], "answer": "2"}])
    words = ("eval", "vqa", "--predictions", answers, "--questions", questions)
    code, out, _ = typed(*words, "--json")
    assert (code, json.loads(out)["overall"]) == (0, 60.0)
    code, _, err = typed(*words, "--annotations", questions)
    assert (code, "[E-VQA-OPTION]" in err) == (2, True)


def test_question_ids_may_be_texts(tmp_path: Path) -> None:
    _, data = make_world(tmp_path, train=1, val=2)
    for file in data.glob("*val2014*"):
        content = json.loads(file.read_text())
        (records,) = content.values()
        for record in records:
            record["question_id"] = f"q-{record['question_id']}"
        file.write_text(json.dumps(content))
    split = read_questions("vqa2", data, "val", annotated=True)
    assert split.ids[0] == "q-20"
    write_predictions(tmp_path / "p.json", dict.fromkeys(split.ids, "yes"), split)
    assert json.loads((tmp_path / "p.json").read_text())[0]["question_id"] == "q-20"
    whole = read_questions("vqa2", data, "train+val", annotated=True)
    assert whole.ids == (10, 11, 12, *(f"q-{n}" for n in (20, 21, 22, 30, 31, 32)))
