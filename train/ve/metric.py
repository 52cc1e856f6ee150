"""Accuracy of labels: over all pairs, by class, and which class is taken for which."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .data import LABELS, Pair

NO_ANSWER = ""  # of a pair whose image has no features; it is wrong


def score(predictions: Mapping[Any, str], pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return {n, accuracy, by_class, confusion}: percentages with two decimals, and counts.

    `predictions` are by pair id. `confusion[gold][predicted]` counts pairs; a row lacks those
    without an answer. A class that no pair has is not in `by_class`.
    """
    counts = Counter((pair.label, predictions[pair.pair_id]) for pair in pairs)
    of_class = Counter(pair.label for pair in pairs)
    right = {label: counts[label, label] for label in LABELS}
    return {
        "n": len(pairs),
        "accuracy": _percent(sum(right.values()), len(pairs)),
        "by_class": {
            label: _percent(right[label], of_class[label]) for label in LABELS if of_class[label]
        },
        "confusion": {
            gold: {predicted: counts[gold, predicted] for predicted in LABELS} for gold in LABELS
        },
    }


def _percent(right: int, n: int) -> float:
    return round(100 * right / n, 2)
