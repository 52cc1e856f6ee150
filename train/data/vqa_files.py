"""Read a split of questions of any data set, by its name or from files that a user has."""

from pathlib import Path

from ...base.errors import ClipfeatError, UsageError
from ...base.jsonio import read_json
from . import gqa, vqa2
from .ids import require_folder
from .questions import QuestionSplit, join_splits

VQA_DATASETS = ("vqa2", "gqa")


def read_questions(dataset: str, data: Path, name: str, *, annotated: bool) -> QuestionSplit:
    """Return split `name` of the folder `data`: one part, or several such as "train+val+vg".

    With `annotated`, it must have answers. Raises UsageError for missing files, ClipfeatError for
    files in another format and for question ids that two parts share.
    """
    require_folder(data, "the JSON files")
    parts = [_read_part(dataset, data, part, annotated=annotated) for part in name.split("+")]
    return parts[0] if len(parts) == 1 else join_splits(name, parts)


def _read_part(dataset: str, data: Path, name: str, *, annotated: bool) -> QuestionSplit:
    if dataset == "gqa":
        return gqa.read_gqa(data, name, annotated=annotated)
    if name == vqa2.VG_PART:
        return vqa2.read_visual_genome(data)
    return vqa2.read_vqa2(data, name, annotated=annotated)


def read_question_files(questions: Path, annotations: Path | None) -> QuestionSplit:
    """Return the annotated split that files hold, of VQA v2 or of GQA: their keys tell which.

    Raises UsageError where `annotations` is missing, or given and not needed, ClipfeatError where
    the files are of neither data set.
    """
    name = questions.stem
    if questions.is_dir():
        return gqa.split_of(name, gqa.read_contents(questions), annotated=True)
    content = read_json(questions)
    if not isinstance(content, dict):
        raise ClipfeatError(
            f"{questions}: questions of neither VQA v2 nor GQA; expected an object, got "
            f"{content!r:.60}",
            code="E-JSON-TYPE",
        )
    if "questions" in content:
        if annotations is None:
            raise UsageError(
                f"{questions} is a file of VQA v2, without answers; pass --annotations too",
                code="E-VQA-OPTION",
            )
        return vqa2.split_to_score(name, questions, content, annotations)
    if "annotations" in content:
        raise UsageError(
            f"{questions} holds annotations; pass it as --annotations, and the file of the "
            "questions as --questions",
            code="E-VQA-SWAPPED",
        )
    if annotations is not None:
        raise UsageError(
            f"{questions} is a file of GQA, with the answers; leave --annotations out",
            code="E-VQA-OPTION",
        )
    return gqa.split_of(name, [(questions, content)], annotated=True)
