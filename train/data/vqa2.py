"""VQA v2's questions and annotations, and Visual Genome's questions as more training data.

Both are in their official JSON files and share the leaderboard of VQA v2. VQA v1 and OK-VQA have the
same two files, and VQA-CP has their records in two lists.
"""

import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from statistics import mode
from typing import Any

from ...base.errors import ClipfeatError, UsageError
from ...base.jsonio import field, field_items, identifier, list_items, read_json
from ..metrics.vqa import Annotation, normalize_answer, score_each, score_split
from .ids import (
    COCO,
    COCO_SPLITS,
    VISUAL_GENOME,
    coco_candidates,
    find_file,
    require_unique,
    vg_candidates,
)
from .questions import Leaderboard, Question, QuestionId, QuestionSplit

logger = logging.getLogger(__name__)

# {split: the part of COCO that its official files name}; other splits have no official files.
OFFICIAL_PARTS = {
    **COCO_SPLITS,
    "test": "test2015",
    "test-std": "test2015",  # is scored on a secret part of the test set
    "test-dev": "test-dev2015",
}
IMAGE_PARTS = ("test2015", *COCO_SPLITS.values())  # of COCO, that questions are about
# With fewer answers, not even the answer of all annotators counts in full: it takes 3 others.
MIN_ANSWERS = 4
VQA_V2 = Leaderboard("question_id", "answer", score_each, score_split)


def read_vqa2(data: Path, name: str, *, annotated: bool) -> QuestionSplit:
    """Return split `name` of the folder `data`; with `annotated`, it must have annotations.

    Files have their official names or are called questions_<split>.json and
    annotations_<split>.json. Raises UsageError for a missing file, ClipfeatError for one that is
    not in the official format.
    """
    questions_file = find_vqa2(data, name, "questions")
    names = [*chain(*_file_names(name, "annotations"))]
    has_annotations = annotated or any((data / name).is_file() for name in names)
    annotations_file = find_vqa2(data, name, "annotations") if has_annotations else None
    part = OFFICIAL_PARTS.get(name, "").replace("-dev", "")
    # A split of the user's own may have images of any part of COCO.
    questions = _questions(questions_file, (part,) if part else IMAGE_PARTS)
    if annotations_file is None:
        return QuestionSplit(name, questions, None, (questions_file,), VQA_V2)
    annotations = _annotations(annotations_file, min_answers=MIN_ANSWERS)
    return _annotated(name, questions_file, questions, annotations_file, annotations)


def split_to_score(
    name: str, questions_file: Path, content: Any, annotations_file: Path
) -> QuestionSplit:
    """Return the split of a file of questions, which holds `content`, and one of annotations.

    For scoring alone: only the ids of the questions are read.
    """
    questions = tuple(
        Question(question_id, "", "", COCO, ())
        for _, question_id, _ in _records(questions_file, content, "questions")
    )
    annotations = _annotations(annotations_file, min_answers=1)
    few = sum(len(annotation.answers) < MIN_ANSWERS for annotation in annotations.values())
    if few:
        logger.info(
            f"{annotations_file}: {few} of {len(annotations)} questions have fewer than "
            f"{MIN_ANSWERS} answers; what all n annotators said scores (n-1)/3 there, so 0 where "
            "there is only one"
        )
    return _annotated(name, questions_file, questions, annotations_file, annotations)


def find_vqa2(data: Path, split: str, kind: str) -> Path:
    """Return the file of a split's "questions" or "annotations"; UsageError if there is none.

    The files of VQA v2 come first, then those of VQA v1 and OK-VQA, then those of VQA-CP.
    """
    usual, others = _file_names(split, kind)
    if not any((data / name).is_file() for name in usual):
        for name in others:
            if (data / name).is_file():
                return data / name
    of = f"the {kind} of split {split!r} (docs/vqa.md names those of other data sets)"
    return find_file(data, usual, of)


def has_questions(data: Path, split: str) -> bool:
    """Return whether a folder has the questions of a split in this format."""
    return any(
        (data / name).is_file() for names in _file_names(split, "questions") for name in names
    )


def _file_names(split: str, kind: str) -> tuple[list[str], list[str]]:
    """Return the names of a split's questions or annotations: VQA v2's, and of other data sets."""
    usual, others = [f"{kind}_{split}.json"], [f"vqacp_v{n}_{split}_{kind}.json" for n in (2, 1)]
    if split in OFFICIAL_PARTS:
        form = "OpenEnded_mscoco" if kind == "questions" else "mscoco"
        name = f"{form}_{OFFICIAL_PARTS[split]}_{kind}.json"
        usual, others = [f"v2_{name}", *usual], [name, *others]
    return usual, others


def _annotated(
    name: str,
    questions_file: Path,
    questions: tuple[Question, ...],
    annotations_file: Path,
    annotations: dict[QuestionId, Annotation],
) -> QuestionSplit:
    """Return the questions with their annotations; ClipfeatError where some have none."""
    ids = [question.question_id for question in questions]
    missing = [question_id for question_id in ids if question_id not in annotations]
    if missing:
        raise ClipfeatError(
            f"{annotations_file}: {len(missing)} of {len(questions)} questions have no "
            f"annotation, such as question_id {missing[0]}; take both files from one release",
            code="E-VQA-ANNOTATIONS",
        )
    kept = {question_id: annotations[question_id] for question_id in ids}
    return QuestionSplit(name, questions, kept, (questions_file, annotations_file), VQA_V2)


def _records(path: Path, content: Any, key: str) -> list[tuple[str, QuestionId, Any]]:
    """Return (place, question_id, record) of each record of a file; ids are unique."""
    records = []
    seen = set()
    items = (
        list_items(content, path, of=key)
        if is_record_list(content, "question_id")
        else field_items(content, key, path)
    )
    for place, record in items:
        question_id = identifier(record, "question_id", place)
        require_unique(question_id, seen, "question_id", place)
        seen.add(question_id)
        records.append((place, question_id, record))
    if not records:
        raise ClipfeatError(f"{path}: {key} is empty", code="E-DATA-EMPTY")
    return records


def is_record_list(content: Any, *keys: str) -> bool:
    """Return whether the content of a file is a list, and its first item an object with `keys`."""
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and all(key in first for key in keys)


def _questions(path: Path, parts: tuple[str, ...]) -> tuple[Question, ...]:
    questions = []
    for place, question_id, record in _records(path, read_json(path), "questions"):
        image_id = identifier(record, "image_id", place)
        text = field(record, "question", str, place)
        has_part = "coco_split" in record  # in VQA-CP, whose splits mix the parts of COCO
        own_parts = (field(record, "coco_split", str, place),) if has_part else parts
        candidates = coco_candidates(image_id, own_parts)
        questions.append(Question(question_id, image_id, text, COCO, candidates))
    return tuple(questions)


def _annotations(path: Path, *, min_answers: int) -> dict[QuestionId, Annotation]:
    content = read_json(path)
    if isinstance(content, dict) and "annotations" not in content and "questions" in content:
        raise UsageError(
            f"{path} holds questions where annotations are needed; their file has the same name "
            "with annotations in it",
            code="E-VQA-SWAPPED",
        )
    return {
        question_id: _annotation(record, place, min_answers)
        for place, question_id, record in _records(path, content, "annotations")
    }


def _annotation(record: Any, place: str, min_answers: int) -> Annotation:
    answers = answer_texts(record, place, least=min_answers)
    # The published script does not use the most common answer, and not all files have it.
    has_common = "multiple_choice_answer" in record
    common = field(record, "multiple_choice_answer", str, place) if has_common else mode(answers)
    return Annotation(
        answers,
        common,
        field(record, "answer_type", str, place),
        field(record, "question_type", str, place),
    )


def answer_texts(record: Any, place: str, *, least: int) -> tuple[str, ...]:
    """Return the answers of a record, each in an object of the list `answers`.

    Raises ClipfeatError where there are fewer than `least`.
    """
    answers = tuple(
        field(answer, "answer", str, place) for answer in field(record, "answers", list, place)
    )
    require_answers(answers, place, least=least)
    return answers


def require_answers(answers: Sequence[str], place: str, *, least: int) -> None:
    """Raise ClipfeatError (E-VQA-ANSWERS) for a question with fewer answers than `least`."""
    if not answers:
        raise ClipfeatError(
            f"{place}: has no answers; leave the question out", code="E-VQA-ANSWERS"
        )
    if len(answers) < least:
        raise ClipfeatError(
            f"{place}: {len(answers)} answers; the VQA accuracy needs at least {least}, "
            "so write a single answer ten times",
            code="E-VQA-ANSWERS",
        )


VG_PART = "vg"
VG_FILE = "question_answers.json"
VG_ANNOTATORS = 10  # one person answered, and counts in full: as if ten had given this answer


def read_visual_genome(data: Path) -> QuestionSplit:
    """Return all questions of `data`/question_answers.json.

    Raises UsageError where that file is missing, ClipfeatError where it has another format.
    """
    path = find_file(data, [VG_FILE], f"which part {VG_PART!r} of a split reads")
    questions: list[Question] = []
    annotations: dict[str, Annotation] = {}
    for image_at, image in list_items(read_json(path), path, of="images"):
        for place, record in field_items(image, "qas", image_at):
            # The ids of both data sets are counted from small numbers: unchanged, some would clash.
            question_id = f"VG_{identifier(record, 'qa_id', place)}"
            require_unique(question_id, annotations, "qa_id", place)
            image_id = identifier(record, "image_id", place)
            text = field(record, "question", str, place)
            questions.append(
                Question(question_id, image_id, text, VISUAL_GENOME, vg_candidates(image_id))
            )
            answer = normalize_answer(field(record, "answer", str, place))
            annotations[question_id] = Annotation(
                (answer,) * VG_ANNOTATORS, answer, VG_PART, VG_PART
            )
    if not questions:
        raise ClipfeatError(f"{path}: holds no questions", code="E-DATA-EMPTY")
    return QuestionSplit(VG_PART, tuple(questions), annotations, (path,), VQA_V2)
