"""VQA v2's questions and annotations, in its official JSON files."""

import logging
from pathlib import Path
from statistics import mode
from typing import Any

from ...base.errors import ClipfeatError, UsageError
from ...base.jsonio import field, identifier, read_json
from ..metrics.vqa import Annotation, score_each, score_split
from .ids import coco_candidates
from .questions import Leaderboard, Question, QuestionId, Split

logger = logging.getLogger(__name__)

# {split: the part of COCO that its official files name}; other splits have no official files.
SUBSETS = {
    "train": "train2014",
    "val": "val2014",
    "test": "test2015",
    "test-std": "test2015",  # is scored on a part of the test set that nobody else knows
    "test-dev": "test-dev2015",
}
IMAGES = ("test2015", "train2014", "val2014")  # the parts that COCO's image files name
LEAST_ANSWERS = 4  # with fewer, not even what everyone said counts in full: it takes 3 others
VQA_V2 = Leaderboard("question_id", "answer", score_each, score_split)


def read_split(data: Path, name: str, *, annotated: bool) -> Split:
    """Return split `name` of the folder `data`; with `annotated`, its annotations must be there.

    Files have their official names or are called questions_<split>.json and
    annotations_<split>.json. Raises UsageError for a missing file, ClipfeatError for one that is
    not in the official format.
    """
    questions = find_file(data, name, "questions")
    expected = _file_names(name, "annotations")
    there = annotated or any((data / name).is_file() for name in expected)
    annotations = find_file(data, name, "annotations") if there else None
    return split_of(name, questions, read_json(questions), annotations)


def split_of(name: str, questions_file: Path, content: Any, annotations_file: Path | None) -> Split:
    """Return the split that a file of questions, read already, and one of annotations hold."""
    subset = SUBSETS.get(name, "").replace("-dev", "")
    # A split of one's own may draw on any part of COCO.
    questions = _questions(questions_file, content, (subset,) if subset else IMAGES)
    if annotations_file is None:
        return Split(name, questions, None, (questions_file,), VQA_V2)
    annotations = _annotations(annotations_file, least=LEAST_ANSWERS)
    return _annotated(name, questions_file, questions, annotations_file, annotations)


def split_to_score(name: str, questions_file: Path, content: Any, annotations_file: Path) -> Split:
    """Return what `split_of` does, for scoring alone: of a question its id is read, and no more."""
    questions = tuple(
        Question(question_id, "", "", "COCO", ())
        for _, question_id, _ in _records(questions_file, content, "questions")
    )
    annotations = _annotations(annotations_file, least=1)
    few = sum(len(annotation.answers) < LEAST_ANSWERS for annotation in annotations.values())
    if few:
        logger.info(
            f"{annotations_file}: {few} of {len(annotations)} questions have fewer than "
            f"{LEAST_ANSWERS} answers; what all n annotators said scores (n-1)/3 there, so 0 where "
            "there is one"
        )
    return _annotated(name, questions_file, questions, annotations_file, annotations)


def _annotated(
    name: str,
    questions_file: Path,
    questions: tuple[Question, ...],
    annotations_file: Path,
    annotations: dict[QuestionId, Annotation],
) -> Split:
    """Return the questions with their annotations; ClipfeatError where some have none."""
    ids = [question.question_id for question in questions]
    missing = [question_id for question_id in ids if question_id not in annotations]
    if missing:
        raise ClipfeatError(
            f"{annotations_file}: {len(missing)} of {len(questions)} questions have no "
            f"annotation, such as question_id {missing[0]}; take both files from one release"
        )
    kept = {question_id: annotations[question_id] for question_id in ids}
    return Split(name, questions, kept, (questions_file, annotations_file), VQA_V2)


def _file_names(split: str, what: str) -> list[str]:
    """Return the names a split's questions or annotations may have, the official one first."""
    plain = f"{what}_{split}.json"
    if split not in SUBSETS:
        return [plain]
    kind = "OpenEnded_mscoco" if what == "questions" else "mscoco"
    return [f"v2_{kind}_{SUBSETS[split]}_{what}.json", plain]


def find_file(data: Path, split: str, what: str) -> Path:
    """Return the file of a split's "questions" or "annotations"; UsageError if there is none."""
    names = _file_names(split, what)
    for name in names:
        if (data / name).is_file():
            return data / name
    raise UsageError(f"{data} has no {what} of split {split!r}: expected {' or '.join(names)}")


def _records(path: Path, content: Any, key: str) -> list[tuple[str, QuestionId, Any]]:
    """Return (where it stands, question_id, record) of each record of a file; ids are unique."""
    records = []
    seen = set()
    for number, record in enumerate(field(content, key, list, path)):
        where = f"{path}: {key}[{number}]"
        question_id = identifier(record, "question_id", where)
        if question_id in seen:
            raise ClipfeatError(f"{where}: question_id {question_id} is there twice")
        seen.add(question_id)
        records.append((where, question_id, record))
    if not records:
        raise ClipfeatError(f"{path}: {key} is empty")
    return records


def _questions(path: Path, content: Any, subsets: tuple[str, ...]) -> tuple[Question, ...]:
    questions = []
    for where, question_id, record in _records(path, content, "questions"):
        image_id = identifier(record, "image_id", where)
        text = field(record, "question", str, where)
        candidates = coco_candidates(image_id, subsets)
        questions.append(Question(question_id, image_id, text, "COCO", candidates))
    return tuple(questions)


def _annotations(path: Path, *, least: int) -> dict[QuestionId, Annotation]:
    content = read_json(path)
    if isinstance(content, dict) and "annotations" not in content and "questions" in content:
        raise UsageError(
            f"{path} holds questions where annotations are needed; their file has the same name "
            "with annotations in it",
            code="E-VQA-SWAPPED",
        )
    return {
        question_id: _annotation(record, where, least)
        for where, question_id, record in _records(path, content, "annotations")
    }


def _annotation(record: Any, where: str, least: int) -> Annotation:
    answers = tuple(
        field(answer, "answer", str, where) for answer in field(record, "answers", list, where)
    )
    if not answers:
        raise ClipfeatError(
            f"{where}: has no answers; leave the question out", code="E-VQA-ANSWERS"
        )
    if len(answers) < least:
        raise ClipfeatError(
            f"{where}: {len(answers)} answers; the VQA accuracy needs at least {least}, "
            "so write an only answer ten times",
            code="E-VQA-ANSWERS",
        )
    # The published script does not look at the commonest answer, and not all files have it.
    given = "multiple_choice_answer" in record
    common = field(record, "multiple_choice_answer", str, where) if given else mode(answers)
    return Annotation(
        answers,
        common,
        field(record, "answer_type", str, where),
        field(record, "question_type", str, where),
    )
