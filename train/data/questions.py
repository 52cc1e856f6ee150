"""A split of questions: all that training on it and scoring it take, whatever data set it is of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ...base.errors import ClipfeatError

QuestionId = int | str


@dataclass(frozen=True)
class Question:
    """One question about one image."""

    question_id: QuestionId
    image_id: int | str  # the data set's own
    text: str
    collection: str  # whose numbers its image goes by: "COCO" or "Visual Genome"
    candidates: tuple[str, ...]  # what a store may call its image, the least ambiguous first


@runtime_checkable
class Answered(Protocol):
    """What people answered to one question."""

    def soft(self) -> dict[str, float]:
        """Return {answer: score, 0 to 1} of the answers that count."""
        ...

    def common(self) -> str:
        """Return the one answer that counts when classes are chosen."""
        ...


@dataclass(frozen=True)
class Leaderboard:
    """The form in which a data set takes predictions, and how it scores them.

    Both functions take {question id: answer} and {question id: annotation}.
    """

    id_key: str
    answer_key: str
    score_each: Callable[[Any, Any], dict[Any, float]]  # {question id: score, 0 to 1}
    score: Callable[[Any, Any], dict[str, Any]]  # n, and percentages: overall, by_answer_type, ...


@dataclass(frozen=True)
class Split:
    """The questions of a split and, where it has them, their annotations by question id."""

    name: str
    questions: tuple[Question, ...]
    annotations: Mapping[Any, Answered] | None
    files: tuple[Path, ...]
    leaderboard: Leaderboard

    @property
    def ids(self) -> tuple[QuestionId, ...]:
        """The question ids, in the order of the files."""
        return tuple(question.question_id for question in self.questions)

    def score_each(self, predictions: Mapping[Any, str]) -> dict[Any, float]:
        """Return {question id: score, 0 to 1} of every question that counts."""
        return self.leaderboard.score_each(predictions, self.annotations)

    def score(self, predictions: Mapping[Any, str]) -> dict[str, Any]:
        """Return the leaderboard's numbers: n, and accuracies in percent."""
        return self.leaderboard.score(predictions, self.annotations)


def join(name: str, parts: Sequence[Split]) -> Split:
    """Return the parts as one split; annotated if all of them are.

    Raises ClipfeatError where two parts have a question id in common.
    """
    part_of: dict[QuestionId, str] = {}
    for part in parts:
        clashes = [question_id for question_id in part.ids if question_id in part_of]
        if clashes:
            raise ClipfeatError(
                f"split {name!r}: {len(clashes)} question ids are in part {part_of[clashes[0]]!r} "
                f"and in part {part.name!r} too, such as {clashes[0]!r}; leave one part out"
            )
        part_of |= dict.fromkeys(part.ids, part.name)
    known: dict[QuestionId, Answered] = {}
    for part in parts:
        known |= part.annotations or {}
    return Split(
        name,
        tuple(question for part in parts for question in part.questions),
        known if all(part.annotations is not None for part in parts) else None,
        tuple(file for part in parts for file in part.files),
        parts[0].leaderboard,
    )
