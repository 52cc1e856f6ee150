"""Predictions as JSON lines: {"pairID": ..., "prediction": ...}."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...base.errors import ClipfeatError
from ...base.files import write_atomically
from ..runs.jsonfile import field, identifier, read_json_lines, require_ids
from .data import LABELS, VeSplit
from .metric import NO_ANSWER


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
