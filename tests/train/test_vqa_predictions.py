"""Files of predictions: both formats, and `clipfeat eval vqa --predictions` as typed."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refused import refuses
from vqa_world import make_world, questions_of, write_gqa

from clipfeat.base.errors import UsageError
from clipfeat.train.data.questions import read_predictions, write_predictions
from clipfeat.train.data.vqa_files import read_question_files, read_questions

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with val of VQA v2 and of GQA; images 3 and 4, three questions each."""
    folder = make_world(tmp_path_factory.mktemp("world"), train=2, val=2)[1]
    write_gqa(folder / "val_balanced_questions.json", [3, 4])
    return folder


@pytest.mark.parametrize(
    ("dataset", "name", "first"),
    [
        ("vqa2", "val", {"question_id": 30, "answer": "é"}),
        ("gqa", "val_balanced", {"questionId": "30", "prediction": "é"}),
    ],
)
def test_what_is_written_is_read(
    data: Path, tmp_path: Path, dataset: str, name: str, first: dict[str, Any]
) -> None:
    split = read_questions(dataset, data, name, annotated=True)
    answers = dict.fromkeys(split.ids, "é")
    path = tmp_path / "predictions.json"
    write_predictions(path, answers, split)
    assert json.loads(path.read_text())[0] == first
    assert read_predictions(path, split) == answers


GOOD = [{"question_id": number, "answer": "yes"} for number in (30, 31, 32, 40, 41, 42)]


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        ("[", "E-JSON-READ", ""),
        ("[" * 100_000, "E-JSON-READ", ""),
        ({"answers": GOOD}, "E-JSON-TYPE", "{'question_id': ..., 'answer': ...}; got {'answers'"),
        ([3], "E-JSON-TYPE", "[0]: expected an object with 'question_id'; got 3"),
        ([{"question_id": "30", "answer": ""}], "E-JSON-TYPE", "type int; got '30'"),
        ([{"question_id": True, "answer": ""}], "E-JSON-TYPE", "got True"),
        ([{"question_id": 30}], "E-JSON-KEY", "[0]: no key 'answer'; found 'question_id'"),
        ([{"question_id": 30, "answer": 2}], "E-JSON-TYPE", "[0]: answer"),
        ([*GOOD, GOOD[0]], "E-DATA-TWICE", "[6]: question_id 30 "),
        ([], "E-PREDICTIONS-IDS", "6 questions have no prediction, such as 30, 31, 32"),
        (
            [*GOOD[1:], {"question_id": 7, "answer": ""}],
            "E-PREDICTIONS-IDS",
            "such as 30; 1 predictions are of no question, such as 7",
        ),
    ],
)
def test_other_files_are_refused(
    data: Path, tmp_path: Path, content: Any, code: str, named: str
) -> None:
    path = tmp_path / "p.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with refuses(code, named) as refused:
        read_predictions(path, read_questions("vqa2", data, "val", annotated=True))
    assert str(refused.value).startswith(f"{path}: ")


def eval_file(*words: object) -> subprocess.CompletedProcess[str]:
    """Run `clipfeat eval vqa` where neither torch nor jaxtyping is installed."""
    code = "import sys; sys.modules |= dict.fromkeys(['torch', 'jaxtyping']); "
    code += "from clipfeat.cli.main import main; main()"
    line = [sys.executable, "-c", code, "eval", "vqa", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True)


def test_predictions_of_vqa2_are_scored_without_torch(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps([record | {"extra": [1]} for record in GOOD]))
    files = [
        *("--predictions", path),
        *("--questions", data / "v2_OpenEnded_mscoco_val2014_questions.json"),
        *("--annotations", data / "v2_mscoco_val2014_annotations.json"),
    ]
    done = eval_file(*files, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    right = [answer == "yes" for image in (3, 4) for _, answer, *_ in questions_of(image)]
    result = json.loads(done.stdout)
    assert result["n"] == 6
    assert result["overall"] == round(100 * sum(right) / 6, 2)
    assert result["by_answer_type"]["other"] == 0
    assert result.keys() == {"n", "overall", "by_answer_type", "by_question_type"}
    text = eval_file(*files).stdout
    assert text.startswith(f"{path}: 6 questions\n")
    assert "overall\n" in text


def test_what_a_terminal_would_act_on_is_printed_as_its_escape(
    data: Path, tmp_path: Path, typed: Typed
) -> None:
    predictions, annotations = tmp_path / "p.json", tmp_path / "a.json"
    predictions.write_text(json.dumps(GOOD))
    held = json.loads((data / "v2_mscoco_val2014_annotations.json").read_text())
    held["annotations"][0]["question_type"] = "is\x1b[2J the"
    annotations.write_text(json.dumps(held))
    questions = data / "v2_OpenEnded_mscoco_val2014_questions.json"
    files = ("--predictions", predictions, "--questions", questions, "--annotations", annotations)
    code, out, err = typed("eval", "vqa", *files)
    assert (code, err) == (0, "")
    assert "  is\\x1b[2J the\n" in out
    held["annotations"][0]["question_id"] = "\x1b[2J"
    annotations.write_text(json.dumps(held))
    code, out, err = typed("eval", "vqa", *files)
    assert (code, out, "\x1b" in err) == (1, "", False)


def test_predictions_of_gqa_are_scored(data: Path, tmp_path: Path, typed: Typed) -> None:
    right = {
        f"{10 * image + number}": answer
        for image in (3, 4)
        for number, (_, answer, *_) in enumerate(questions_of(image))
    }
    said = right | {"30": "puce"}
    path = tmp_path / "p.json"
    path.write_text(json.dumps([{"questionId": q, "prediction": a} for q, a in said.items()]))
    questions = data / "val_balanced_questions.json"
    code, out, err = typed("eval", "vqa", "--predictions", path, "--questions", questions, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "n": 6,
        "overall": 83.33,
        "by_answer_type": {"binary": 100.0, "open": 50.0},
        "by_question_type": {"query": 50.0, "verify": 100.0},
        "by_semantic_type": {"attr": 83.33},
        "consistency": 50.0,  # 31 and 41 are right; they entail 30, wrong, and 40, right
    }
    code, out, _ = typed("eval", "vqa", "--predictions", path, "--questions", questions)
    assert (code, " 50.00  consistency\n" in out) == (0, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "pass RUN and --split, or --predictions and --questions"),
        ("run", "RUN needs --split"),
        ("--predictions P", "pass RUN and --split, or --predictions and --questions"),
        ("--questions V", "pass RUN and --split, or --predictions and --questions"),
        ("run --split val --predictions P", "RUN and --predictions exclude each other"),
        ("run --split val --annotations A", "RUN and --annotations exclude each other"),
        ("--predictions P --questions V --split val", "--predictions and --split exclude each"),
        ("--predictions P --questions V --skip-missing 0", "--predictions and --skip-missing"),
        ("--predictions P --questions V", "without answers; pass --annotations too [E-VQA-OPTION]"),
        (
            "--predictions P --questions G --annotations A",
            "with the answers; leave --annotations out [E-VQA-OPTION]",
        ),
        ("run --split val --skip-missing -1", "-1 is not in the range x>=0"),
    ],
)
def test_mixed_up_options_get_one_line(
    data: Path, tmp_path: Path, typed: Typed, words: str, message: str
) -> None:
    (tmp_path / "p.json").write_text("[]")
    paths = {
        "P": tmp_path / "p.json",
        "V": data / "v2_OpenEnded_mscoco_val2014_questions.json",
        "A": data / "v2_mscoco_val2014_annotations.json",
        "G": data / "val_balanced_questions.json",
    }
    code, out, err = typed("eval", "vqa", *(paths.get(word, word) for word in words.split()))
    assert (code, out) == (2, "")
    assert message in err


def test_what_the_published_script_scores_is_scored(tmp_path: Path, typed: Typed) -> None:
    """It reads answers, types and ids; which are texts here, beside three annotators.

    Of three that said yes, yes and no, a yes has 1/3, 1/3 and 2/3 of the others, 4/9 in the mean.
    """
    answers = [{"answer": text, "answer_id": n} for n, text in enumerate(("yes", "yes", "no"))]
    annotation = {"answers": answers, "answer_type": "yes/no", "question_type": "is"}
    contents = {
        "p": [{"question_id": name, "answer": "yes"} for name in ("a", "b")],
        "q": {"questions": [{"question_id": name} for name in ("a", "b")]},
        "a": {"annotations": [annotation | {"question_id": name} for name in ("a", "b")]},
    }
    words: list[Any] = []
    for option, (name, content) in zip(
        ("--predictions", "--questions", "--annotations"), contents.items(), strict=True
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        words += [option, tmp_path / f"{name}.json"]
    code, out, err = typed("eval", "vqa", *words, "--json")
    assert (code, len(err.splitlines())) == (0, 1)
    assert "2 of 2 questions have fewer than 4 answers" in err
    assert json.loads(out)["overall"] == 44.44


@pytest.mark.parametrize("swapped", ["both", "questions", "annotations"])
def test_exchanged_questions_and_annotations_are_refused(data: Path, swapped: str) -> None:
    questions = data / "v2_OpenEnded_mscoco_val2014_questions.json"
    annotations = data / "v2_mscoco_val2014_annotations.json"
    with refuses("E-VQA-SWAPPED", kind=UsageError):
        read_question_files(
            questions if swapped == "annotations" else annotations,
            annotations if swapped == "questions" else questions,
        )


@pytest.mark.parametrize("content", ["[]", '{"1": []}'])
def test_questions_of_neither_kind_get_one_line(tmp_path: Path, typed: Typed, content: str) -> None:
    path = tmp_path / "q.json"
    path.write_text(content)
    code, out, err = typed("eval", "vqa", "--predictions", path, "--questions", path)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"Error: {path}: ")
