"""Read a split of VQA v2 from its official JSON files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.errors import ClipfeatError, UsageError
from ..jsonfile import field, read_json
from .metric import Annotation

# {split: the part of COCO that its official file names carry}; other splits have none.
SUBSETS = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test-dev2015"}
LEAST_ANSWERS = 4  # with fewer, not even what everyone said counts in full: it takes 3 others


@dataclass(frozen=True)
class Question:
    """One question about one image."""

    question_id: int
    image_id: int | str  # the data set's own, not yet an id of a store
    text: str


@dataclass(frozen=True)
class Split:
    """The questions of a split and, where it has them, their annotations by question id."""

    name: str
    questions: tuple[Question, ...]
    annotations: dict[int, Annotation] | None
    files: tuple[Path, ...]


def read_split(data: Path, name: str, *, annotated: bool) -> Split:
    """Return split `name` of the folder `data`; with `annotated`, its annotations must be there.

    Files have their official names or are called questions_<split>.json and
    annotations_<split>.json. Raises UsageError for a missing file, ClipfeatError for one that is
    not in the official format.
    """
    questions_file = _find(data, name, "questions")
    questions = _read_questions(questions_file)
    expected = _file_names(name, "annotations")
    if not annotated and not any((data / name).is_file() for name in expected):
        return Split(name, questions, None, (questions_file,))
    annotations_file = _find(data, name, "annotations")
    annotations = _read_annotations(annotations_file)
    missing = [q.question_id for q in questions if q.question_id not in annotations]
    if missing:
        raise ClipfeatError(
            f"{annotations_file}: {len(missing)} of {len(questions)} questions have no "
            f"annotation, such as question_id {missing[0]}; take both files from one release"
        )
    kept = {question.question_id: annotations[question.question_id] for question in questions}
    return Split(name, questions, kept, (questions_file, annotations_file))


def _file_names(split: str, what: str) -> list[str]:
    """Return the names a split's questions or annotations may have, the official one first."""
    plain = f"{what}_{split}.json"
    if split not in SUBSETS:
        return [plain]
    kind = "OpenEnded_mscoco" if what == "questions" else "mscoco"
    return [f"v2_{kind}_{SUBSETS[split]}_{what}.json", plain]


def _find(data: Path, split: str, what: str) -> Path:
    if not data.is_dir():
        raise UsageError(f"{data} is no folder; --data takes the folder of the VQA v2 JSON files")
    names = _file_names(split, what)
    for name in names:
        if (data / name).is_file():
            return data / name
    raise UsageError(f"{data} has no {what} of split {split!r}: expected {' or '.join(names)}")


def _records(path: Path, key: str) -> list[tuple[str, int, Any]]:
    """Return (where it stands, question_id, record) of each record of a file; ids are unique."""
    records = []
    seen = set()
    for number, record in enumerate(field(read_json(path), key, list, path)):
        where = f"{path}: {key}[{number}]"
        question_id = field(record, "question_id", int, where)
        if question_id in seen:
            raise ClipfeatError(f"{where}: question_id {question_id} is there twice")
        seen.add(question_id)
        records.append((where, question_id, record))
    if not records:
        raise ClipfeatError(f"{path}: {key} is empty")
    return records


def _read_questions(path: Path) -> tuple[Question, ...]:
    questions = []
    for where, question_id, record in _records(path, "questions"):
        image_id = record.get("image_id")
        if type(image_id) not in (int, str):
            raise ClipfeatError(f"{where}: image_id must be a number or text; got {image_id!r:.60}")
        questions.append(Question(question_id, image_id, field(record, "question", str, where)))
    return tuple(questions)


def _read_annotations(path: Path) -> dict[int, Annotation]:
    return {
        question_id: _annotation(record, where)
        for where, question_id, record in _records(path, "annotations")
    }


def _annotation(record: Any, where: str) -> Annotation:
    answers = tuple(
        field(answer, "answer", str, where) for answer in field(record, "answers", list, where)
    )
    if len(answers) < LEAST_ANSWERS:
        raise ClipfeatError(
            f"{where}: {len(answers)} answers; the VQA accuracy needs at least {LEAST_ANSWERS}, "
            "so write an only answer ten times"
        )
    return Annotation(
        answers,
        field(record, "multiple_choice_answer", str, where),
        field(record, "answer_type", str, where),
        field(record, "question_type", str, where),
    )
