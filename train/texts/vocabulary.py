"""The words that a model reads and the answers that it can give, as a run's folder keeps them."""

from dataclasses import dataclass
from pathlib import Path

from ...base.errors import ClipfeatError
from ..runs.jsonfile import field, read_json, write_json
from .words import SPECIAL

VOCABULARY = "vocabulary.json"


@dataclass(frozen=True)
class Vocabulary:
    """The words that a model reads and the answers that it can give."""

    words: tuple[str, ...]  # token 2 is the first
    answers: tuple[str, ...]  # as the data set's annotations have them

    @property
    def tokens(self) -> int:
        """How many tokens there are, padding and the unknown word among them."""
        return len(self.words) + SPECIAL


def write_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    """Write the vocabulary of a run."""
    write_json(path, {"words": vocabulary.words, "answers": vocabulary.answers})


def read_vocabulary(path: Path) -> Vocabulary:
    """Return the vocabulary of a run; ClipfeatError where the file is not one."""
    record = read_json(path)
    words, answers = (field(record, key, list, path) for key in ("words", "answers"))
    if not all(isinstance(text, str) and is_unicode(text) for text in (*words, *answers)):
        raise ClipfeatError(f"{path}: words and answers must be texts")
    return Vocabulary(tuple(words), tuple(answers))


def is_unicode(text: str) -> bool:
    """Return whether a text can be printed and drawn; half a surrogate pair cannot."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)
