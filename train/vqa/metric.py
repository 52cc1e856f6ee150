"""The official VQA accuracy: of one answer, and of a whole split by type."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ...base.errors import ClipfeatError
from .answers import normalize_answer, soft_scores

Id = TypeVar("Id", bound=int | str)
SCORES = ("overall", "by_answer_type", "by_question_type")


class Annotation(NamedTuple):
    """What people said of one question, and how it is filed."""

    answers: tuple[str, ...]  # ten in the official files
    multiple_choice_answer: str  # the commonest
    answer_type: str  # "yes/no", "number", "other"
    question_type: str  # the question's first words, such as "how many"

    def soft(self) -> dict[str, float]:
        """Return {normalised answer: soft score}."""
        return soft_scores(self.answers)

    def common(self) -> str:
        """Return the commonest answer, normalised."""
        return normalize_answer(self.multiple_choice_answer)


def accuracy(answer: str, annotators: Sequence[str]) -> float:
    """Return the accuracy, 0 to 1, of `answer` against what the annotators said.

    As in the published script, answers are normalised only where the annotators differ; where
    they agree to the letter, `answer` must agree to the letter too (spaces at its ends aside).
    """
    said = [_on_one_line(text) for text in annotators]
    given = _on_one_line(answer)
    if len(set(said)) > 1:
        said = [normalize_answer(text) for text in said]
        given = normalize_answer(given)
    matches = said.count(given)
    # `soft_score` is the same but for the last bit, which decides how 30.625 is rounded.
    return sum(min(1, (matches - (text == given)) / 3) for text in said) / len(said)


def score_each(
    predictions: Mapping[Id, str], annotations: Mapping[Id, Annotation]
) -> dict[Id, float]:
    """Return {question id: accuracy, 0 to 1} of every question.

    Raises ClipfeatError unless both mappings hold the same questions.
    """
    require_same_questions(predictions, annotations)
    return {
        question_id: accuracy(predictions[question_id], annotation.answers)
        for question_id, annotation in annotations.items()
    }


def score_split(
    predictions: Mapping[Id, str], annotations: Mapping[Id, Annotation]
) -> dict[str, Any]:
    """Return {n, overall, by_answer_type, by_question_type}: accuracies in percent.

    Both mappings are by question id. Raises ClipfeatError unless they hold the same questions,
    so that every question is scored exactly once.
    """
    scores = score_each(predictions, annotations)
    by_answer_type: dict[str, list[float]] = defaultdict(list)
    by_question_type: dict[str, list[float]] = defaultdict(list)
    for question_id, score in scores.items():
        by_answer_type[annotations[question_id].answer_type].append(score)
        by_question_type[annotations[question_id].question_type].append(score)
    return {
        "n": len(scores),
        "overall": percent(list(scores.values())),
        "by_answer_type": percent_by(by_answer_type),
        "by_question_type": percent_by(by_question_type),
    }


def require_same_questions(predictions: Mapping[Id, str], annotations: Mapping[Id, Any]) -> None:
    """Raise ClipfeatError unless both hold the same questions."""
    if predictions.keys() != annotations.keys():
        strays = sorted(predictions.keys() ^ annotations.keys(), key=str)
        raise ClipfeatError(
            f"predictions and annotations must hold the same questions; {len(strays)} are in "
            f"one alone, such as {strays[:3]}"
        )


def percent(scores: Sequence[float]) -> float:
    """Return the mean of scores in percent, with the two decimals that the field prints."""
    return round(100 * sum(scores) / len(scores), 2)


def percent_by(groups: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return {name: mean score in percent}, sorted by name."""
    return {name: percent(groups[name]) for name in sorted(groups)}


def _on_one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
