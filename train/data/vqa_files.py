"""Read a split of any of the data sets, by its name or from files that anybody may have."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...base.errors import ClipfeatError, UsageError
from ...base.jsonio import field, identifier, read_json, write_json
from . import gqa, visual_genome, vqa2
from .ids import require_ids
from .questions import QuestionId, Split, join

VQA_DATASETS = ("vqa2", "gqa")


def read_split(dataset: str, data: Path, name: str, *, annotated: bool) -> Split:
    """Return split `name` of the folder `data`: one part, or several such as "train+val+vg".

    With `annotated`, its answers must be there. Raises UsageError for missing files,
    ClipfeatError for files in another format and for question ids that two parts share.
    """
    if not data.is_dir():
        raise UsageError(f"{data} is not a folder; --data takes the folder of the JSON files")
    names = name.split("+")
    parts = [_read_part(dataset, data, part, annotated=annotated) for part in names]
    return parts[0] if len(parts) == 1 else join(name, parts)


def _read_part(dataset: str, data: Path, name: str, *, annotated: bool) -> Split:
    if dataset == "gqa":
        return gqa.read_split(data, name, annotated=annotated)
    if name == visual_genome.PART:
        return visual_genome.read_split(data)
    return vqa2.read_split(data, name, annotated=annotated)


def read_files(questions: Path, annotations: Path | None) -> Split:
    """Return the annotated split that files hold, of VQA v2 or of GQA: their keys tell which.

    Raises UsageError where `annotations` is missing, or is there and not needed, ClipfeatError
    where the files are of neither data set.
    """
    name = questions.stem
    if questions.is_dir():
        return gqa.split_of(name, gqa.contents(questions), annotated=True)
    content = read_json(questions)
    if not isinstance(content, dict):
        raise ClipfeatError(f"{questions}: questions of neither VQA v2 nor GQA; a list has no keys")
    if "questions" in content:
        if annotations is None:
            raise UsageError(f"{questions} is VQA v2's and has no answers; pass --annotations too")
        return vqa2.split_to_score(name, questions, content, annotations)
    if "annotations" in content:
        raise UsageError(
            f"{questions} holds annotations; pass it as --annotations, and the file of the "
            "questions as --questions",
            code="E-VQA-SWAPPED",
        )
    if annotations is not None:
        raise UsageError(f"{questions} is GQA's and has the answers; leave --annotations out")
    return gqa.split_of(name, [(questions, content)], annotated=True)


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
