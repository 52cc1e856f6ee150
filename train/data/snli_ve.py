"""Hypotheses about images and their labels, in the files of SNLI-VE and of e-SNLI-VE."""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ...base.csvfile import csv_rows
from ...base.errors import ClipfeatError, UsageError
from ...base.files import write_atomically
from ...base.jsonio import field, identifier, read_json_lines
from .ids import file_candidates, require_ids

logger = logging.getLogger(__name__)

LABELS = ("entailment", "neutral", "contradiction")
UNDECIDED = "-"  # the annotators had no majority
VE_DATASETS = {"snli_ve": "snli_ve_{}.jsonl", "esnlive": "esnlive_{}.csv"}
PUBLISHED = {"train": 529_527, "dev": 17_858, "test": 17_901}  # pairs of SNLI-VE with a label
# The names that fields go by, less case and underscores. SNLI-VE's own generator and its readers
# do not agree on Flickr30K_ID, Flickr30kID and Flikr30kID.
IMAGE = ("flickr30kid", "flikr30kid")
PAIR = ("pairid",)
HYPOTHESIS = ("sentence2", "hypothesis")
LABEL = ("goldlabel",)
EXPLANATION = ("explanation",)  # of e-SNLI-VE, not read; people typed line ends into it


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
    dropped: int  # pairs without one
    file: Path

    @property
    def ids(self) -> tuple[str, ...]:
        """The pair ids, in the order of the file."""
        return tuple(pair.pair_id for pair in self.pairs)


def read_split(dataset: str, data: Path, name: str) -> VeSplit:
    """Return split `name` of the folder `data`.

    Raises UsageError for a missing file, ClipfeatError for one in another format, a label that is
    none, a pair id that is there twice, and where no pair has a label.
    """
    if not data.is_dir():
        raise UsageError(f"{data} is not a folder; --data takes the folder of the SNLI-VE files")
    path = data / VE_DATASETS[dataset].format(name)
    if not path.is_file():
        others = "snli_ve (jsonl) or esnlive (csv)"
        raise UsageError(
            f"{data} has no {path.name} of split {name!r}; add it, or choose --set dataset={others}"
        )
    found: dict[str, Pair] = {}
    for where, record in _records(path):
        pair = _pair(record, where)
        if pair.pair_id in found:
            raise ClipfeatError(f"{where}: pairID {pair.pair_id!r} is there twice; drop one")
        found[pair.pair_id] = pair
    pairs = tuple(pair for pair in found.values() if pair.label != UNDECIDED)
    if not pairs:
        raise ClipfeatError(f"{path}: no pair has a label; found {len(found)} without one")
    if dataset == "snli_ve":
        _remark_on_count(path, name, len(pairs))
    return VeSplit(name, pairs, len(found) - len(pairs), path)


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (where it stands, record) of each line of JSON or row of CSV."""
    yield from (
        read_json_lines(path) if path.suffix == ".jsonl" else csv_rows(path, multiline=EXPLANATION)
    )


def _pair(record: Any, where: str) -> Pair:
    if not isinstance(record, dict):
        raise ClipfeatError(f"{where}: expected an object; got {record!r:.60}")
    plain = {key.lower().replace("_", ""): value for key, value in record.items()}
    image_id = _text(plain, IMAGE, "Flickr30K_ID", where)
    pair_id = _text(plain, PAIR, "pairID", where)
    hypothesis = _text(plain, HYPOTHESIS, "sentence2 or hypothesis", where)
    label = _text(plain, LABEL, "gold_label", where)
    if label not in (*LABELS, UNDECIDED):
        expected = f"{', '.join(LABELS)} or {UNDECIDED}"
        raise ClipfeatError(f"{where}: gold_label must be {expected}; got {label!r:.60}")
    return Pair(pair_id, file_candidates(image_id), hypothesis, label)


def _text(plain: dict[str, Any], names: tuple[str, ...], called: str, where: str) -> str:
    name = next((name for name in names if name in plain), None)
    if name is None:
        raise ClipfeatError(f"{where}: no {called}; found {', '.join(map(repr, plain))}")
    value = plain[name]
    if type(value) is int and names in (IMAGE, PAIR):
        return str(value)  # ids are texts, and some write them as numbers
    if not isinstance(value, str) or not value.strip():
        raise ClipfeatError(f"{where}: {called} must be a text; got {value!r:.60}")
    return value


def _remark_on_count(path: Path, name: str, count: int) -> None:
    """Say where a file that is nearly as long as the published one may have been cut off."""
    published = PUBLISHED.get(name, 0)
    if count != published and 2 * count > published > 0 and count < 2 * published:
        logger.info(
            f"{path}: {count:,} pairs with a label; the published file has {published:,}",
        )


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


def write_predictions(path: Path, predictions: Mapping[Any, str], split: VeSplit) -> None:
    """Write a line for each pair of `split`, in its order; no answer where there is none."""
    lines = [
        json.dumps(
            {"pairID": pair_id, "prediction": predictions.get(pair_id, NO_ANSWER)},
        )
        for pair_id in split.ids
    ]
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def read_predictions(path: Path, split: VeSplit) -> dict[str, str]:
    """Return {pair id: label} of a file.

    Raises ClipfeatError for another format, and unless the file answers each pair of the split
    once, and no other.
    """
    predictions: dict[str, str] = {}
    for where, record in read_json_lines(path):
        pair_id = str(identifier(record, "pairID", where))
        label = field(record, "prediction", str, where)
        if label not in (*LABELS, NO_ANSWER):
            expected = f"{', '.join(LABELS)}, or empty"
            raise ClipfeatError(f"{where}: prediction must be {expected}; got {label!r:.60}")
        if pair_id in predictions:
            raise ClipfeatError(f"{where}: pairID {pair_id!r} is there twice")
        predictions[pair_id] = label
    require_ids(path, predictions, split.ids, of="pairs")
    return predictions
