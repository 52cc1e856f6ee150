"""Read a split of questions of any data set, by its name or from files that a user has."""

from pathlib import Path

from ...base.errors import ClipfeatError, UsageError
from ...base.jsonio import read_json
from . import answered, gqa, vqa2
from .ids import require_folder
from .questions import QuestionSplit, join_splits

VQA_DATASETS = ("vqa2", "gqa")  # by their metrics: several data sets share that of VQA v2


def read_questions(dataset: str, data: Path, name: str, *, annotated: bool) -> QuestionSplit:
    """Return split `name` of the folder `data`: one part, or several such as "train+val+vg".

    With `annotated`, it must have answers. Raises UsageError for missing files, ClipfeatError for
    files in another format and for question ids that two parts share.
    """
    require_folder(data, "the JSON files")
    parts = [_read_part(dataset, data, part, annotated=annotated) for part in name.split("+")]
    return parts[0] if len(parts) == 1 else join_splits(name, parts)


def _read_part(dataset: str, data: Path, name: str, *, annotated: bool) -> QuestionSplit:
    of_gqa = dataset == "gqa"
    if name == vqa2.VG_PART and not of_gqa:
        return vqa2.read_visual_genome(data)
    is_own = gqa.split_path(data, name).exists() if of_gqa else vqa2.has_questions(data, name)
    if not is_own and (path := answered.find_answered(data, name)):
        return answered.read_answered(name, path, read_json(path), annotated=annotated)
    read = gqa.read_gqa if of_gqa else vqa2.read_vqa2
    return read(data, name, annotated=annotated)


def read_question_files(questions: Path, annotations: Path | None) -> QuestionSplit:
    """Return the annotated split that files hold, of any data set: their keys tell which.

    Raises UsageError where `annotations` is missing, or given and not needed, ClipfeatError where
    the files are of neither data set.
    """
    name = questions.stem
    if questions.is_dir():
        return gqa.split_of(name, gqa.read_contents(questions), annotated=True)
    content = read_json(questions)
    if answered.is_answered(content):
        _refuse_annotations(questions, annotations)
        return answered.read_answered(name, questions, content, annotated=True)
    is_list = vqa2.is_record_list(content, "question_id", "question")  # as of VQA-CP
    if not isinstance(content, dict) and not is_list:
        raise ClipfeatError(
            f"{questions}: questions of neither VQA v2 nor GQA nor of another data set that "
            f"docs/vqa.md lists; expected an object, got {content!r:.60}",
            code="E-JSON-TYPE",
        )
    if is_list or "questions" in content:
        if annotations is None:
            raise UsageError(
                f"{questions} has, as files of VQA v2, questions without answers; pass --annotations too",
                code="E-VQA-OPTION",
            )
        return vqa2.split_to_score(name, questions, content, annotations)
    if "annotations" in content:
        raise UsageError(
            f"{questions} holds annotations; pass it as --annotations, and the file of the "
            "questions as --questions",
            code="E-VQA-SWAPPED",
        )
    _refuse_annotations(questions, annotations)
    return gqa.split_of(name, [(questions, content)], annotated=True)


def _refuse_annotations(questions: Path, annotations: Path | None) -> None:
    if annotations is not None:
        raise UsageError(
            f"{questions} holds questions with the answers; leave --annotations out",
            code="E-VQA-OPTION",
        )
