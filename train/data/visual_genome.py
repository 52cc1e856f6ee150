"""Visual Genome's questions, as further training data beside VQA v2's."""

from pathlib import Path
from typing import Any

from ...base.errors import ClipfeatError, UsageError
from ...base.jsonio import field, identifier, read_json
from ..metrics.vqa import Annotation, normalize_answer
from .ids import vg_candidates
from .questions import Question, Split
from .vqa2 import VQA_V2

PART = "vg"
FILE = "question_answers.json"
COLLECTION = "Visual Genome"
ANNOTATORS = 10  # one person answered, and counts in full: as if ten had said the same


def read_split(data: Path) -> Split:
    """Return all questions of `data`/question_answers.json.

    Raises UsageError where that file is missing, ClipfeatError where it is another's.
    """
    path = data / FILE
    if not path.is_file():
        raise UsageError(f"{data} has no {FILE}, which is what part {PART!r} of a split reads")
    images = read_json(path)
    if not isinstance(images, list):
        raise ClipfeatError(f"{path}: expected a list of images; got {images!r:.60}")
    questions: list[Question] = []
    annotations: dict[str, Annotation] = {}
    for number, image in enumerate(images):
        for place, record in enumerate(field(image, "qas", list, f"{path}: [{number}]")):
            where = f"{path}: [{number}].qas[{place}]"
            question = _question(record, where)
            if question.question_id in annotations:
                raise ClipfeatError(f"{where}: qa_id {record['qa_id']} is there twice")
            questions.append(question)
            annotations[str(question.question_id)] = _annotation(record, where)
    if not questions:
        raise ClipfeatError(f"{path}: holds no questions")
    return Split(PART, tuple(questions), annotations, (path,), VQA_V2)


def _question(record: Any, where: str) -> Question:
    # Its ids and VQA v2's are counted from small numbers both: as they are, some would clash.
    question_id = f"VG_{identifier(record, 'qa_id', where)}"
    image_id = identifier(record, "image_id", where)
    text = field(record, "question", str, where)
    return Question(question_id, image_id, text, COLLECTION, vg_candidates(image_id))


def _annotation(record: Any, where: str) -> Annotation:
    answer = normalize_answer(field(record, "answer", str, where))
    return Annotation((answer,) * ANNOTATORS, answer, PART, PART)
