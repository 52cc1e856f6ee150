"""Predictions in the leaderboards' JSON formats, and the scores of a file of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...base.errors import ClipfeatError
from ..runs.jsonfile import field, identifier, read_json, require_ids, write_json
from .datasets.split import QuestionId, Split


def write_predictions(path: Path, predictions: Mapping[Any, str], split: Split) -> None:
    """Write an answer for each question of `split`, in its order and its leaderboard's format."""
    form = split.leaderboard
    records = [
        {form.id_key: question_id, form.answer_key: predictions[question_id]}
        for question_id in split.ids
    ]
    write_json(path, records)


def read_predictions(path: Path, split: Split) -> dict[QuestionId, str]:
    """Return {question id: answer} of a file in the format of the split's leaderboard.

    Raises ClipfeatError for another format, and unless the file answers each question of the
    split once, and no other.
    """
    form = split.leaderboard
    records = read_json(path)
    if not isinstance(records, list):
        raise ClipfeatError(
            f"{path}: expected a list of {{{form.id_key!r}: ..., {form.answer_key!r}: ...}}; "
            f"got {records!r:.60}"
        )
    kinds = {type(question_id) for question_id in split.ids}
    predictions: dict[QuestionId, str] = {}
    for number, record in enumerate(records):
        where = f"{path}: [{number}]"
        question_id = identifier(record, form.id_key, where)
        if type(question_id) not in kinds:
            wanted = " or ".join(sorted(kind.__name__ for kind in kinds))
            raise ClipfeatError(
                f"{where}: {form.id_key} must be of type {wanted}; got {question_id!r:.60}"
            )
        if question_id in predictions:
            raise ClipfeatError(f"{where}: {form.id_key} {question_id!r} is there twice")
        predictions[question_id] = field(record, form.answer_key, str, where)
    require_ids(path, predictions, split.ids, of="questions")
    return predictions


def score_file(path: Path, split: Split) -> dict[str, Any]:
    """Return the scores of a file of predictions of an annotated split."""
    return split.score(read_predictions(path, split))


def describe_scores(result: Mapping[str, Any]) -> list[str]:
    """Return scores as lines for people."""
    lines = [f"{result['overall']:6.2f}  overall"]
    if result.get("consistency") is not None:
        lines.append(f"{result['consistency']:6.2f}  consistency")
    for key in ("by_answer_type", "by_question_type", "by_semantic_type"):
        lines += [f"{score:6.2f}  {name}" for name, score in result.get(key, {}).items()]
    return lines
