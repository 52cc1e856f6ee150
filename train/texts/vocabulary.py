"""The words that a model reads and the answers that it can give, as a run's folder keeps them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.errors import ClipfeatError
from ...base.text import is_unicode
from ..runs.jsonfile import OF_RUN, field, read_json
from .pieces import WordPieces, problem_with
from .words import Words


@dataclass(frozen=True)
class Vocabulary:
    """The words, or pieces of words, that a model reads, and the answers that it can give."""

    words: Words | WordPieces
    answers: tuple[str, ...]  # as the data set's annotations have them

    def record(self) -> dict[str, Any]:
        """Return the vocabulary as JSON holds it; `read_vocabulary` makes it again."""
        match self.words:
            case Words(words):
                read = {"words": words}
            case WordPieces(pieces, keeps_marks):
                read = {"pieces": pieces, "keeps_marks": keeps_marks}
        return {**read, "answers": self.answers}


def read_vocabulary(path: Path) -> Vocabulary:
    """Return the vocabulary of a run; ClipfeatError where the file is not one."""
    record = read_json(path, OF_RUN, follow=False)
    answers = _texts(record, "answers", path)
    if isinstance(record, dict) and "pieces" in record:
        pieces = _texts(record, "pieces", path)
        problem = problem_with(pieces)
        if problem:
            raise ClipfeatError(f"{path}: {problem}")
        # Runs from before pieces could keep marks do not say so.
        keeps = "keeps_marks" in record and field(record, "keeps_marks", bool, path)
        return Vocabulary(WordPieces(pieces, keeps), answers)
    return Vocabulary(Words(_texts(record, "words", path)), answers)


def _texts(record: Any, key: str, path: Path) -> tuple[str, ...]:
    texts = field(record, key, list, path)
    if not all(isinstance(text, str) and is_unicode(text) for text in texts):
        raise ClipfeatError(f"{path}: {key} must be texts")
    return tuple(texts)
