"""GQA's accuracy and consistency, by the rules of its published eval.py."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

from ...base.errors import ClipfeatError
from .vqa import percent, percent_by, require_same_questions

QUERY = "query"  # the one structural type whose questions are open; yes/no and choices are binary


class GqaAnnotation(NamedTuple):
    """The answer to one question, and its types."""

    answer: str
    balanced: bool  # only balanced questions are scored
    structural: str  # "query", "verify", "logical", "choose", "compare"
    semantic: str  # "attr", "cat", "global", "obj", "rel"
    entailed: tuple[str, ...]  # ids of questions whose answers follow from this one

    def soft(self) -> dict[str, float]:
        """Return the answer, which counts in full; GQA compares answers exactly."""
        return {self.answer: 1.0}

    def common(self) -> str:
        """Return the answer."""
        return self.answer


def score_each(
    predictions: Mapping[str, str], annotations: Mapping[str, GqaAnnotation]
) -> dict[str, float]:
    """Return {question id: 1 or 0} of every balanced question.

    Raises ClipfeatError unless both mappings hold the same questions, a balanced one among them.
    """
    require_same_questions(predictions, annotations)
    scores = {
        question_id: float(predictions[question_id] == annotation.answer)
        for question_id, annotation in annotations.items()
        if annotation.balanced
    }
    if not scores:
        raise ClipfeatError(
            f"none of the {len(annotations)} questions is balanced, and GQA scores only those; "
            "take the files of a balanced split",
            code="E-GQA-BALANCED",
        )
    return scores


def score_split(
    predictions: Mapping[str, str], annotations: Mapping[str, GqaAnnotation]
) -> dict[str, Any]:
    """Return n and, in percent, accuracies (overall, by three kinds of type) and consistency.

    `by_question_type` is by structural type. `consistency` is None where `annotations` lack
    entailed questions: those of a balanced split mostly lie in its "all" split.
    """
    scores = score_each(predictions, annotations)
    groups: dict[str, dict[str, list[float]]] = {
        name: defaultdict(list) for name in ("answer", "question", "semantic")
    }
    for question_id, score in scores.items():
        annotation = annotations[question_id]
        kind = "open" if annotation.structural == QUERY else "binary"
        groups["answer"][kind].append(score)
        groups["question"][annotation.structural].append(score)
        groups["semantic"][annotation.semantic].append(score)
    return {
        "n": len(scores),
        "overall": percent(list(scores.values())),
        **{f"by_{name}_type": percent_by(group) for name, group in groups.items()},
        "consistency": _consistency(predictions, annotations),
    }


def _consistency(
    predictions: Mapping[str, str], annotations: Mapping[str, GqaAnnotation]
) -> float | None:
    """Return the mean, over the questions answered rightly, of the accuracy on what they entail."""
    shares = []
    for question_id, annotation in annotations.items():
        others = [other for other in annotation.entailed if other != question_id]
        if not annotation.balanced or not others:
            continue
        if any(other not in annotations for other in others):
            return None
        if predictions[question_id] == annotation.answer:
            right = [predictions[other] == annotations[other].answer for other in others]
            shares.append(sum(right) / len(right))
    return percent(shares) if shares else None
