"""A split of questions of any data set, with its answers, and files of predictions for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ...base.errors import ClipfeatError
from ...base.jsonio import (
    field,
    identifier,
    list_items,
    read_json,
    require_unicode,
    write_json,
)
from .ids import require_ids, require_unique

QuestionId = int | str


@dataclass(frozen=True)
class Question:
    """One question about one image."""

    question_id: QuestionId
    image_id: int | str  # of the data set
    text: str
    collection: str  # that the image is of, such as ids.COCO: each has its own numbers
    candidates: tuple[str, ...]  # what a store may call its image, the least ambiguous first


@runtime_checkable
class AnswerAnnotation(Protocol):
    """The answers that people gave to one question."""

    def soft(self) -> dict[str, float]:
        """Return {answer: score, 0 to 1} of the answers that count."""
        ...

    def common(self) -> str | None:
        """Return the one answer that counts when classes are chosen, None where none does."""
        ...


@dataclass(frozen=True)
class Leaderboard:
    """The format of a data set's predictions, and how it scores them.

    Both functions take {question id: answer} and {question id: annotation}.
    """

    id_key: str
    answer_key: str
    score_each: Callable[[Any, Any], dict[Any, float]]  # {question id: score, 0 to 1}
    score: Callable[[Any, Any], dict[str, Any]]  # n, and percentages: overall, by_answer_type, ...


@dataclass(frozen=True)
class QuestionSplit:
    """The questions of a split and, where it has them, their annotations by question id."""

    name: str
    questions: tuple[Question, ...]
    annotations: Mapping[Any, AnswerAnnotation] | None
    files: tuple[Path, ...]
    leaderboard: Leaderboard

    @property
    def ids(self) -> tuple[QuestionId, ...]:
        """The question ids, in the order of the files."""
        return tuple(question.question_id for question in self.questions)

    @property
    def texts(self) -> tuple[str, ...]:
        """The questions as texts, in the order of the files."""
        return tuple(question.text for question in self.questions)

    @property
    def candidates(self) -> tuple[tuple[str, ...], ...]:
        """What a store may call the image of each question, the least ambiguous name first."""
        return tuple(question.candidates for question in self.questions)

    def score_each(self, predictions: Mapping[Any, str]) -> dict[Any, float]:
        """Return {question id: score, 0 to 1} of every question that counts."""
        return self.leaderboard.score_each(predictions, self.annotations)

    def score(self, predictions: Mapping[Any, str]) -> dict[str, Any]:
        """Return the leaderboard's numbers: n, and accuracies in percent."""
        return self.leaderboard.score(predictions, self.annotations)


def read_scores(label: Any, place: str) -> dict[str, float]:
    """Return {answer: score} of a question's label; empty where no answer of it counts.

    Raises ClipfeatError for anything but an object of scores from 0 to 1.
    """
    if not isinstance(label, dict):
        raise ClipfeatError(
            f"{place}: its label must be {{answer: score}}; got {label!r:.60}",
            code="E-CORPUS-LABELS",
        )
    for answer, score in label.items():
        require_unicode(answer, "answer", place)
        if type(score) not in (int, float) or not 0 <= score <= 1:  # false for NaN, too
            raise ClipfeatError(
                f"{place}: the score of answer {answer!r:.60} must be 0 to 1; got {score!r:.60}",
                code="E-CORPUS-LABELS",
            )
    return {answer: float(score) for answer, score in label.items()}


def join_splits(name: str, parts: Sequence[QuestionSplit]) -> QuestionSplit:
    """Return the parts as one split, which has annotations if all of them have.

    Raises ClipfeatError where two parts have a question id in common (E-SPLIT-SHARED), and where
    their predictions have different formats (E-SPLIT-FORMAT).
    """
    for part in parts:
        if part.leaderboard != parts[0].leaderboard:
            raise ClipfeatError(
                f"split {name!r}: the predictions of parts {parts[0].name!r} and {part.name!r} have "
                "different formats, and are not scored together; leave one part out",
                code="E-SPLIT-FORMAT",
            )
    part_of: dict[QuestionId, str] = {}
    annotations: dict[QuestionId, AnswerAnnotation] = {}
    for part in parts:
        shared = [question_id for question_id in part.ids if question_id in part_of]
        if shared:
            raise ClipfeatError(
                f"split {name!r}: {len(shared)} question ids are in part {part_of[shared[0]]!r} "
                f"and in part {part.name!r} too, such as {shared[0]!r}; leave one part out",
                code="E-SPLIT-SHARED",
            )
        part_of |= dict.fromkeys(part.ids, part.name)
        annotations |= part.annotations or {}
    return QuestionSplit(
        name,
        tuple(question for part in parts for question in part.questions),
        annotations if all(part.annotations is not None for part in parts) else None,
        tuple(file for part in parts for file in part.files),
        parts[0].leaderboard,
    )


def write_predictions(path: Path, predictions: Mapping[Any, str], split: QuestionSplit) -> None:
    """Write an answer for each question of `split`, in its order and its leaderboard's format."""
    form = split.leaderboard
    write_json(
        path,
        [
            {form.id_key: question_id, form.answer_key: predictions[question_id]}
            for question_id in split.ids
        ],
    )


def read_predictions(path: Path, split: QuestionSplit) -> dict[QuestionId, str]:
    """Return {question id: answer} of a file in the format of the split's leaderboard.

    Raises ClipfeatError for another format, and unless the file answers each question of the
    split once, and no other question.
    """
    form = split.leaderboard
    id_types = {type(question_id) for question_id in split.ids}
    predictions: dict[QuestionId, str] = {}
    expected = f"{{{form.id_key!r}: ..., {form.answer_key!r}: ...}}"
    for place, record in list_items(read_json(path), path, of=expected):
        question_id = identifier(record, form.id_key, place)
        if type(question_id) not in id_types:
            names = " or ".join(sorted(id_type.__name__ for id_type in id_types))
            raise ClipfeatError(
                f"{place}: {form.id_key} must be of type {names}; got {question_id!r:.60}",
                code="E-JSON-TYPE",
            )
        require_unique(question_id, predictions, form.id_key, place)
        predictions[question_id] = field(record, form.answer_key, str, place)
    require_ids(path, predictions, split.ids, of="questions")
    return predictions


def score_file(path: Path, split: QuestionSplit) -> dict[str, Any]:
    """Return the scores of a file of predictions of an annotated split."""
    return split.score(read_predictions(path, split))


def format_scores(result: Mapping[str, Any]) -> list[str]:
    """Return scores as lines for people."""
    lines = [f"{result['overall']:6.2f}  overall"]
    if result.get("consistency") is not None:
        lines.append(f"{result['consistency']:6.2f}  consistency")
    for key in ("by_answer_type", "by_question_type", "by_semantic_type"):
        lines += [f"{score:6.2f}  {name}" for name, score in result.get(key, {}).items()]
    return lines
