"""The official VQA accuracy: of one answer, and of a whole split by type."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...base.errors import ClipfeatError
from .answers import normalize_answer, soft_score

SCORES = ("overall", "by_answer_type", "by_question_type")


class Annotation(NamedTuple):
    """What people said of one question, and how it is filed."""

    answers: tuple[str, ...]  # ten in the official files
    multiple_choice_answer: str  # the commonest
    answer_type: str  # "yes/no", "number", "other"
    question_type: str  # the question's first words, such as "how many"


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
    return soft_score(said.count(given), len(said))


def score_split(
    predictions: Mapping[int, str], annotations: Mapping[int, Annotation]
) -> dict[str, Any]:
    """Return {n, overall, by_answer_type, by_question_type}: accuracies in percent.

    Both mappings are by question id. Raises ClipfeatError unless they hold the same questions,
    so that every question is scored exactly once.
    """
    if predictions.keys() != annotations.keys():
        strays = sorted(predictions.keys() ^ annotations.keys())
        raise ClipfeatError(
            f"predictions and annotations must hold the same questions; {len(strays)} are in "
            f"one alone, such as {strays[:3]}"
        )
    scores: list[float] = []
    by_answer_type: dict[str, list[float]] = defaultdict(list)
    by_question_type: dict[str, list[float]] = defaultdict(list)
    for question_id, annotation in annotations.items():
        score = accuracy(predictions[question_id], annotation.answers)
        scores.append(score)
        by_answer_type[annotation.answer_type].append(score)
        by_question_type[annotation.question_type].append(score)
    return {
        "n": len(scores),
        "overall": _percent(scores),
        "by_answer_type": {name: _percent(by_answer_type[name]) for name in sorted(by_answer_type)},
        "by_question_type": {
            name: _percent(by_question_type[name]) for name in sorted(by_question_type)
        },
    }


def _on_one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _percent(scores: Sequence[float]) -> float:
    return round(100 * sum(scores) / len(scores), 2)
