"""Read a split of any of the data sets, by its name or from files that anybody may have."""

from pathlib import Path

from ....base.errors import ClipfeatError, UsageError
from ...runs.jsonfile import read_json
from . import gqa, visual_genome, vqa2
from .split import Split, join

DATASETS = ("vqa2", "gqa")


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
