"""GQA's questions, in its official JSON files."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ...base.errors import ClipfeatError, UsageError
from ...base.jsonio import field, identifier, read_json
from ..metrics.gqa import GqaAnnotation, score_each, score_split
from .ids import VISUAL_GENOME, vg_candidates
from .questions import Leaderboard, Question, QuestionSplit

GQA = Leaderboard("questionId", "prediction", score_each, score_split)


def read_gqa(data: Path, name: str, *, annotated: bool) -> QuestionSplit:
    """Return split `name` of the folder `data`; with `annotated`, it must have the answers.

    It is <split>_questions.json, or a folder <split>_questions of such files, as train_all is.
    Raises UsageError for missing files, ClipfeatError for one that is not in the official format.
    """
    return split_of(name, read_contents(split_path(data, name)), annotated=annotated)


def split_path(data: Path, name: str) -> Path:
    """Return where split `name` is, or should be: one file or, for some splits, a folder."""
    file = data / f"{name}_questions.json"
    folder = data / f"{name}_questions"
    return file if file.is_file() or not folder.is_dir() else folder


def files_of(path: Path) -> list[Path]:
    """Return the file `path`, or the JSON files in the folder; UsageError if there are none."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise UsageError(
            f"no {path}; a split of GQA, such as train_balanced, is a file <split>_questions.json "
            "or a folder <split>_questions of JSON files",
            code="E-DATA-FILE",
        )
    return files


def read_contents(path: Path) -> Iterator[tuple[Path, Any]]:
    """Yield each file of `files_of(path)` with its content.

    One is read at a time: the ten of train_all together exceed a small machine's memory.
    """
    for file in files_of(path):
        yield file, read_json(file)


def split_of(name: str, files: Iterable[tuple[Path, Any]], *, annotated: bool) -> QuestionSplit:
    """Return the split that files of questions, given with their content, make up."""
    questions: dict[str, Question] = {}
    annotations: dict[str, GqaAnnotation] = {}
    paths = []
    for path, content in files:
        paths.append(path)
        if not isinstance(content, dict):
            raise ClipfeatError(
                f"{path}: expected {{question id: question}}; got {content!r:.60}",
                code="E-JSON-TYPE",
            )
        for question_id, record in content.items():
            place = f"{path}: {question_id}"
            if question_id in questions:
                raise ClipfeatError(
                    f"{place}: this question is in another file of the split too",
                    code="E-DATA-TWICE",
                )
            questions[question_id] = _question(question_id, record, place)
            if "answer" in record:
                annotations[question_id] = _annotation(record, place)
    if not questions:
        raise ClipfeatError(f"{paths[0]}: holds no questions", code="E-DATA-EMPTY")
    missing = [question_id for question_id in questions if question_id not in annotations]
    if missing and (annotated or annotations):
        raise ClipfeatError(
            f"{paths[0]}: {len(missing)} of {len(questions)} questions have no answer, such as "
            f"{missing[0]}; the splits test, challenge and submission have none",
            code="E-VQA-ANNOTATIONS",
        )
    return QuestionSplit(
        name, tuple(questions.values()), None if missing else annotations, tuple(paths), GQA
    )


def _question(question_id: str, record: Any, place: str) -> Question:
    image_id = identifier(record, "imageId", place)
    text = field(record, "question", str, place)
    return Question(question_id, image_id, text, VISUAL_GENOME, vg_candidates(image_id))


def _annotation(record: dict[str, Any], place: str) -> GqaAnnotation:
    types = field(record, "types", dict, place)
    entailed = field(record, "entailed", list, place) if "entailed" in record else []
    if not all(isinstance(question_id, str) for question_id in entailed):
        raise ClipfeatError(
            f"{place}: entailed must be question ids; got {entailed!r:.60}", code="E-JSON-TYPE"
        )
    return GqaAnnotation(
        answer=field(record, "answer", str, place),
        balanced=field(record, "isBalanced", bool, place),
        structural=field(types, "structural", str, place),
        semantic=field(types, "semantic", str, place),
        entailed=tuple(entailed),
    )
