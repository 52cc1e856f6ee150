"""GQA's questions, in its official JSON files."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ...base.errors import ClipfeatError, UsageError
from ...base.jsonio import field, identifier, read_json
from ..metrics.gqa import GqaAnnotation, score_each, score_split
from .ids import vg_candidates
from .questions import Leaderboard, Question, Split
from .visual_genome import COLLECTION

GQA = Leaderboard("questionId", "prediction", score_each, score_split)


def read_split(data: Path, name: str, *, annotated: bool) -> Split:
    """Return split `name` of the folder `data`; with `annotated`, its answers must be there.

    It is <split>_questions.json, or a folder <split>_questions of such files, as train_all is.
    Raises UsageError for missing files, ClipfeatError for one that is not in the official format.
    """
    return split_of(name, contents(split_path(data, name)), annotated=annotated)


def split_path(data: Path, name: str) -> Path:
    """Return where split `name` is, or should be: one file or, for some splits, a folder."""
    whole = data / f"{name}_questions.json"
    parts = data / f"{name}_questions"
    return whole if whole.is_file() or not parts.is_dir() else parts


def files_of(path: Path) -> list[Path]:
    """Return the files that `path` is, or has in it as a folder; UsageError if there are none."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise UsageError(
            f"no {path}; a split of GQA, such as train_balanced, is a file <split>_questions.json "
            "or a folder <split>_questions of JSON files"
        )
    return files


def contents(path: Path) -> Iterator[tuple[Path, Any]]:
    """Yield each file that `path` is, or has in it as a folder, with what it holds.

    One is read at a time: the ten of train_all do not fit a small machine's memory together.
    """
    for file in files_of(path):
        yield file, read_json(file)


def split_of(name: str, files: Iterable[tuple[Path, Any]], *, annotated: bool) -> Split:
    """Return the split that files of questions, with what they hold, make up."""
    questions: dict[str, Question] = {}
    annotations: dict[str, GqaAnnotation] = {}
    paths = []
    for path, content in files:
        paths.append(path)
        if not isinstance(content, dict):
            raise ClipfeatError(f"{path}: expected {{question id: question}}; got {content!r:.60}")
        for question_id, record in content.items():
            where = f"{path}: {question_id}"
            if question_id in questions:
                raise ClipfeatError(f"{where}: this question is in another file of the split too")
            questions[question_id] = _question(question_id, record, where)
            if "answer" in record:
                annotations[question_id] = _annotation(record, where)
    if not questions:
        raise ClipfeatError(f"{paths[0]}: holds no questions")
    missing = [question_id for question_id in questions if question_id not in annotations]
    if missing and (annotated or annotations):
        raise ClipfeatError(
            f"{paths[0]}: {len(missing)} of {len(questions)} questions have no answer, such as "
            f"{missing[0]}; the splits test, challenge and submission have none"
        )
    known = None if missing else annotations
    return Split(name, tuple(questions.values()), known, tuple(paths), GQA)


def _question(question_id: str, record: Any, where: str) -> Question:
    image_id = identifier(record, "imageId", where)
    text = field(record, "question", str, where)
    return Question(question_id, image_id, text, COLLECTION, vg_candidates(image_id))


def _annotation(record: dict[str, Any], where: str) -> GqaAnnotation:
    types = field(record, "types", dict, where)
    entailed = field(record, "entailed", list, where) if "entailed" in record else []
    if not all(isinstance(question_id, str) for question_id in entailed):
        raise ClipfeatError(f"{where}: entailed must be question ids; got {entailed!r:.60}")
    return GqaAnnotation(
        answer=field(record, "answer", str, where),
        balanced=field(record, "isBalanced", bool, where),
        structural=field(types, "structural", str, where),
        semantic=field(types, "semantic", str, where),
        entailed=tuple(entailed),
    )
