"""SNLI-VE and e-SNLI-VE: hypotheses about images, their labels, predictions and scores."""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ...base.csvfile import csv_rows
from ...base.errors import ClipfeatError
from ...base.files import write_atomically
from ...base.jsonio import field, identifier, read_json_lines
from .ids import file_candidates, find_file, require_folder, require_ids, require_unique

logger = logging.getLogger(__name__)

ENTAILMENT = "entailment"  # the hypothesis is true of the image
LABELS = (ENTAILMENT, "neutral", "contradiction")
UNDECIDED = "-"  # the annotators had no majority
NO_ANSWER = ""  # to a pair whose image has no features; it counts as wrong
VE_DATASETS = {"snli_ve": "snli_ve_{}.jsonl", "esnlive": "esnlive_{}.csv"}
PUBLISHED = {"train": 529_527, "dev": 17_858, "test": 17_901}  # pairs of SNLI-VE with a label
# The names of fields, in lower case and without underscores. SNLI-VE's own generator and its
# readers do not agree on Flickr30K_ID, Flickr30kID and Flikr30kID.
IMAGE = ("flickr30kid", "flikr30kid")
PAIR = ("pairid",)
HYPOTHESIS = ("sentence2", "hypothesis")
LABEL = ("goldlabel",)
EXPLANATION = ("explanation",)  # of e-SNLI-VE, not read; some have line ends


class Pair(NamedTuple):
    """An image as the premise, and a hypothesis."""

    pair_id: str
    candidates: tuple[str, ...]  # what a store may call its image
    hypothesis: str
    label: str


@dataclass(frozen=True)
class VeSplit:
    """The pairs of a split that have a label."""

    name: str
    pairs: tuple[Pair, ...]
    dropped: int  # pairs without a label
    files: tuple[Path, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """The pair ids, in the order of the file."""
        return tuple(pair.pair_id for pair in self.pairs)

    @property
    def texts(self) -> tuple[str, ...]:
        """The hypotheses, in the order of the file."""
        return tuple(pair.hypothesis for pair in self.pairs)

    @property
    def candidates(self) -> tuple[tuple[str, ...], ...]:
        """What a store may call the image of each pair, the least ambiguous name first."""
        return tuple(pair.candidates for pair in self.pairs)


def read_pairs(dataset: str, data: Path, name: str) -> VeSplit:
    """Return split `name` of the folder `data`.

    Raises UsageError for a missing file, and ClipfeatError as `read_pairs_file` does.
    """
    require_folder(data, "the SNLI-VE files")
    path = find_file(
        data,
        [VE_DATASETS[dataset].format(name)],
        f"the pairs of split {name!r} (dataset=snli_ve has .jsonl files, esnlive .csv)",
    )
    split = read_pairs_file(path, name)
    if dataset == "snli_ve":
        _compare_with_published(path, name, len(split.pairs))
    return split


def read_pairs_file(path: Path, name: str) -> VeSplit:
    """Return split `name`, which is a file of JSON lines (.jsonl) or of CSV.

    Raises ClipfeatError for a file in another format, an unknown label, a pair id that occurs twice,
    and where no pair has a label.
    """
    pairs_by_id: dict[str, Pair] = {}
    for place, record in _records(path):
        pair = _pair(record, place)
        require_unique(pair.pair_id, pairs_by_id, "pairID", place)
        pairs_by_id[pair.pair_id] = pair
    pairs = tuple(pair for pair in pairs_by_id.values() if pair.label != UNDECIDED)
    if not pairs:
        raise ClipfeatError(
            f"{path}: no pair has a label; found {len(pairs_by_id)} without one",
            code="E-DATA-EMPTY",
        )
    return VeSplit(name, pairs, len(pairs_by_id) - len(pairs), (path,))


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (place, record) of each line of JSON or row of CSV."""
    if path.suffix == ".jsonl":
        return read_json_lines(path)
    if path.suffix == ".csv":
        return csv_rows(path, multiline=EXPLANATION)
    raise ClipfeatError(
        f"{path}: pairs are in JSON lines or CSV; pass a file whose name ends in .jsonl or .csv",
        code="E-DATA-FILE",
    )


def _pair(record: Any, place: str) -> Pair:
    if not isinstance(record, dict):
        raise ClipfeatError(f"{place}: expected an object; got {record!r:.60}", code="E-JSON-TYPE")
    plain = {key.lower().replace("_", ""): value for key, value in record.items()}
    image_id = _text(plain, IMAGE, "Flickr30K_ID", place)
    pair_id = _text(plain, PAIR, "pairID", place)
    hypothesis = _text(plain, HYPOTHESIS, "sentence2 or hypothesis", place)
    label = _text(plain, LABEL, "gold_label", place)
    if label not in (*LABELS, UNDECIDED):
        raise ClipfeatError(
            f"{place}: gold_label must be {', '.join(LABELS)} or {UNDECIDED}; got {label!r:.60}",
            code="E-VE-LABEL",
        )
    return Pair(pair_id, file_candidates(image_id), hypothesis, label)


def _text(plain: dict[str, Any], names: tuple[str, ...], usual_name: str, place: str) -> str:
    name = next((name for name in names if name in plain), None)
    if name is None:
        raise ClipfeatError(
            f"{place}: no {usual_name}; found {', '.join(map(repr, plain)):.200}",
            code="E-JSON-KEY",
        )
    value = plain[name]
    if type(value) is int and names in (IMAGE, PAIR):
        return str(value)  # ids are texts, and some files have them as numbers
    if not isinstance(value, str) or not value.strip():
        raise ClipfeatError(
            f"{place}: {usual_name} must be a text; got {value!r:.60}", code="E-JSON-TYPE"
        )
    return value


def _compare_with_published(path: Path, name: str, count: int) -> None:
    """Log where a file is about as long as the published one, and may have been cut off."""
    published = PUBLISHED.get(name, 0)
    if count != published and 2 * count > published > 0 and count < 2 * published:
        logger.info(
            f"{path}: {count:,} pairs with a label; the published file has {published:,}",
        )


def write_labels(path: Path, predictions: Mapping[Any, str], split: VeSplit) -> None:
    """Write a line with the predicted label of each pair of `split`, empty where there is none."""
    lines = [
        json.dumps({"pairID": pair_id, "prediction": predictions.get(pair_id, NO_ANSWER)})
        for pair_id in split.ids
    ]
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def read_labels(path: Path, split: VeSplit) -> dict[str, str]:
    """Return {pair id: predicted label} of a file that `write_labels` wrote.

    Raises ClipfeatError for another format, and unless the file answers each pair of the split
    once, and no other pair.
    """
    predictions: dict[str, str] = {}
    for place, record in read_json_lines(path):
        pair_id = str(identifier(record, "pairID", place))
        label = field(record, "prediction", str, place)
        if label not in (*LABELS, NO_ANSWER):
            raise ClipfeatError(
                f"{place}: prediction must be {', '.join(LABELS)}, or empty; got {label!r:.60}",
                code="E-VE-LABEL",
            )
        require_unique(pair_id, predictions, "pairID", place)
        predictions[pair_id] = label
    require_ids(path, predictions, split.ids, of="pairs")
    return predictions


def score_pairs(predictions: Mapping[Any, str], pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return {n, accuracy, by_class, confusion}: percentages with two decimals, and counts.

    `predictions` are by pair id. `confusion[gold][predicted]` counts pairs; a row does not count
    those without an answer. A class without pairs is not in `by_class`.
    """
    counts = Counter((pair.label, predictions[pair.pair_id]) for pair in pairs)
    size = Counter(pair.label for pair in pairs)
    right = {label: counts[label, label] for label in LABELS}
    return {
        "n": len(pairs),
        "accuracy": _percent(sum(right.values()), len(pairs)),
        "by_class": {label: _percent(right[label], size[label]) for label in LABELS if size[label]},
        "confusion": {
            gold: {predicted: counts[gold, predicted] for predicted in LABELS} for gold in LABELS
        },
    }


def _percent(right: int, n: int) -> float:
    return round(100 * right / n, 2)


def format_scores(result: Mapping[str, Any]) -> list[str]:
    """Return accuracies and the confusion matrix as lines for people."""
    return [
        f"{result['accuracy']:6.2f}  accuracy",
        *(f"{percent:6.2f}  {label}" for label, percent in result["by_class"].items()),
        *_confusion_lines(result["confusion"]),
    ]


def _confusion_lines(confusion: Mapping[str, Mapping[str, int]]) -> list[str]:
    width = max(map(len, confusion))
    head = f"{'gold / predicted':>{width + 3}}" + "".join(f"{label:>15}" for label in confusion)
    rows = [
        f"{gold:>{width + 3}}" + "".join(f"{count:>15}" for count in row.values())
        for gold, row in confusion.items()
    ]
    return [head, *rows]
