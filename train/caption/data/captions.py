"""One caption of a file: as it was written, and as words."""

import unicodedata
from typing import Any

from ....base.errors import ClipfeatError
from ....base.text import is_unicode
from ...runs.jsonfile import field
from ...texts.words import tokenize


def read_caption(record: Any, key: str, where: str) -> tuple[str, str]:
    """Return the caption `record[key]` as written and as words in NFC, one space between two.

    The words are the record's own `tokens`, where it has them. Raises ClipfeatError where either
    is none.
    """
    written = field(record, key, str, where)
    words = field(record, "tokens", list, where) if "tokens" in record else tokenize(written)
    if not all(isinstance(word, str) for word in words):
        raise ClipfeatError(f"{where}: tokens must be texts; got {words!r:.60}")
    text = unicodedata.normalize("NFC", " ".join(" ".join(words).split()))
    for value in (written, text):
        if not is_unicode(value):
            raise ClipfeatError(f"{where}: {key} holds half a surrogate pair: {value!r:.60}")
    return written, text
