"""Files of questions that hold their answers: VizWiz, TextVQA, A-OKVQA, and LXMERT's own files.

The format of a file is detected from the keys of its first question.
"""

from collections.abc import Callable
from pathlib import Path
from statistics import mode
from typing import Any

from ...base.errors import ClipfeatError
from ...base.jsonio import field, field_items, identifier, list_items
from ..metrics.vqa import score_each, score_split
from ..metrics.vqa_like import (
    DIFFICULT,
    DirectAnnotation,
    ScoredAnswers,
    TextVqaAnnotation,
    VizWizAnnotation,
)
from .ids import (
    COCO,
    COCO_NAME,
    VISUAL_GENOME,
    coco_candidates,
    file_candidates,
    lxmert_candidates,
    require_unique,
    without_suffix,
)
from .questions import (
    AnswerAnnotation,
    Leaderboard,
    Question,
    QuestionId,
    QuestionSplit,
    read_scores,
)
from .vqa2 import (
    IMAGE_PARTS,
    MIN_ANSWERS,
    VQA_V2,
    answer_texts,
    is_record_list,
    require_answers,
)

NAMES = ("aokvqa_v1p0_{}.json", "TextVQA_0.5.1_{}.json", "{}.json")  # of a split's file
VIZWIZ = Leaderboard("image", "answer", score_each, score_split)
LXMERT_GQA = Leaderboard("questionId", "prediction", score_each, score_split)

# A record and its place to a question and its annotation, None where the file has no answers.
Reader = Callable[[Any, str], tuple[Question, AnswerAnnotation | None]]


def find_answered(data: Path, split: str) -> Path | None:
    """Return the file of a split in the folder `data`, None where it has none of these names."""
    paths = (data / name.format(split) for name in NAMES)
    return next((path for path in paths if path.is_file()), None)


def is_answered(content: Any) -> bool:
    """Return whether the content of a file is in one of the formats."""
    return _format_of(content) is not None


def read_answered(name: str, path: Path, content: Any, *, annotated: bool) -> QuestionSplit:
    """Return the split of a file, which holds `content`; with `annotated`, it must have answers.

    Raises ClipfeatError for a file in another format, and where only some questions have answers.
    """
    form = _format_of(content)
    if form is None:
        raise ClipfeatError(
            f"{path}: not the questions of VizWiz, TextVQA, A-OKVQA or LXMERT; docs/vqa.md lists the "
            "files of each data set",
            code="E-VQA-FORMAT",
        )
    read, leaderboard = form
    items = (
        list_items(content, path, of="questions")
        if isinstance(content, list)
        else field_items(content, "data", path)
    )
    questions: dict[QuestionId, Question] = {}
    annotations: dict[QuestionId, AnswerAnnotation] = {}
    for place, record in items:
        question, annotation = read(record, place)
        require_unique(question.question_id, questions, leaderboard.id_key, place)
        questions[question.question_id] = question
        if annotation is not None:
            annotations[question.question_id] = annotation
    missing = [question_id for question_id in questions if question_id not in annotations]
    if missing and (annotated or annotations):
        raise ClipfeatError(
            f"{path}: {len(missing)} of {len(questions)} questions have no answers, such as "
            f"{missing[0]!r:.60}; test splits are published without them",
            code="E-VQA-ANNOTATIONS",
        )
    return QuestionSplit(
        name, tuple(questions.values()), None if missing else annotations, (path,), leaderboard
    )


def _format_of(content: Any) -> tuple[Reader, Leaderboard] | None:
    if is_record_list(content, "sent", "img_id", "question_id"):
        of_gqa = isinstance(content[0]["question_id"], str)  # those of VQA v2 are numbers
        return _lxmert_question, LXMERT_GQA if of_gqa else VQA_V2
    if is_record_list(content, "question", "question_id", "choices"):
        return _aokvqa_question, VQA_V2
    if is_record_list(content, "question", "image"):
        return _vizwiz_question, VIZWIZ
    if isinstance(content, dict) and is_record_list(content.get("data"), "question", "image_id"):
        return _textvqa_question, VQA_V2
    return None


def _vizwiz_question(record: Any, place: str) -> tuple[Question, AnswerAnnotation | None]:
    image = field(record, "image", str, place)
    text = field(record, "question", str, place)
    question = Question(image, image, text, "VizWiz", file_candidates(image))
    if "answers" not in record:
        return question, None
    answers = answer_texts(record, place, least=MIN_ANSWERS)
    answer_type = field(record, "answer_type", str, place)
    return question, VizWizAnnotation(answers, mode(answers), answer_type, "")


def _textvqa_question(record: Any, place: str) -> tuple[Question, AnswerAnnotation | None]:
    image = field(record, "image_id", str, place)
    question = Question(
        identifier(record, "question_id", place),
        image,
        field(record, "question", str, place),
        "Open Images",
        file_candidates(image),
    )
    if "answers" not in record:
        return question, None
    answers = _texts(record, "answers", place, least=MIN_ANSWERS)
    return question, TextVqaAnnotation(answers, mode(answers), "", "")


def _aokvqa_question(record: Any, place: str) -> tuple[Question, AnswerAnnotation | None]:
    image = identifier(record, "image_id", place)
    question = Question(
        identifier(record, "question_id", place),
        image,
        field(record, "question", str, place),
        COCO,
        coco_candidates(image, IMAGE_PARTS),
    )
    if "direct_answers" not in record:
        return question, None
    answers = _texts(record, "direct_answers", place, least=1)
    difficult = field(record, "difficult_direct_answer", bool, place)
    return question, DirectAnnotation(answers, mode(answers), DIFFICULT if difficult else "", "")


def _lxmert_question(record: Any, place: str) -> tuple[Question, AnswerAnnotation | None]:
    image = str(identifier(record, "img_id", place))
    of_coco = COCO_NAME.fullmatch(without_suffix(image)) is not None
    question = Question(
        identifier(record, "question_id", place),
        image,
        field(record, "sent", str, place),
        COCO if of_coco else VISUAL_GENOME,
        lxmert_candidates(image),
    )
    if "label" not in record:
        return question, None
    answer_type, question_type = (
        field(record, key, str, place) if key in record else ""
        for key in ("answer_type", "question_type")
    )
    scores = read_scores(record["label"], place)
    return question, ScoredAnswers(scores, answer_type, question_type)


def _texts(record: Any, key: str, place: str, *, least: int) -> tuple[str, ...]:
    """Return the texts of the list `record[key]`, which are answers."""
    answers = field(record, key, list, place)
    if not all(isinstance(answer, str) for answer in answers):
        raise ClipfeatError(
            f"{place}: {key} must be texts; got {answers!r:.60}", code="E-JSON-TYPE"
        )
    require_answers(answers, place, least=least)
    return tuple(answers)
