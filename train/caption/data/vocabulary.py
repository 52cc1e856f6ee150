"""The vocabulary of a run, as its folder keeps it."""

from pathlib import Path
from typing import Any

from ....base.errors import ClipfeatError
from ....base.text import is_unicode
from ...runs.jsonfile import OF_RUN, field, read_json
from .bpe import BpeVocabulary
from .tokens import CaptionVocabulary
from .words import WordVocabulary


def read_vocabulary(path: Path) -> CaptionVocabulary:
    """Return the vocabulary of a run; ClipfeatError where the file is not one."""
    record = read_json(path, OF_RUN, follow=False)
    kind = field(record, "kind", str, path)
    if kind == "words":
        return WordVocabulary(_texts(field(record, "words", list, path), "words", path))
    if kind == "bpe":
        return _read_bpe(record, path)
    raise ClipfeatError(f"{path}: kind must be words or bpe; got {kind!r:.60}")


def _read_bpe(record: Any, path: Path) -> BpeVocabulary:
    pieces = _texts(field(record, "pieces", list, path), "pieces", path)
    merges = []
    for number, pair in enumerate(field(record, "merges", list, path)):
        if not isinstance(pair, list) or len(pair) != 2:
            raise ClipfeatError(f"{path}: merges[{number}] must be two pieces; got {pair!r:.60}")
        first, second = _texts(pair, "merges", path)
        merges.append((first, second))
    try:
        return BpeVocabulary(pieces, tuple(merges))
    except ValueError as error:
        raise ClipfeatError(f"{path}: {error}") from None


def _texts(values: list[Any], key: str, path: Path) -> tuple[str, ...]:
    if not all(isinstance(text, str) and is_unicode(text) for text in values):
        raise ClipfeatError(f"{path}: {key} must be texts")
    return tuple(values)
