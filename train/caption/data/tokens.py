"""The tokens that every vocabulary of captions begins with, and what a vocabulary can do.

A caption is BEGIN, its words, END, then padding: in examples, in batches and from a decoder.
"""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from ...texts.words import SPECIAL as PLAIN
from ...texts.words import UNKNOWN

BEGIN, END = PLAIN, PLAIN + 1  # after PADDING and UNKNOWN of train/texts/words.py
SPECIAL = PLAIN + 2  # how many stand for no word; the first word is this token
UNKNOWN_WORD = "<unk>"  # what UNKNOWN is written as


@runtime_checkable
class CaptionVocabulary(Protocol):
    """Captions to tokens and back; a text is words with one space between two."""

    @property
    def size(self) -> int:
        """How many tokens there are, those that stand for no word among them."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without BEGIN and END."""
        ...

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens up to the first END; BEGIN and padding are passed over."""
        ...

    def record(self) -> dict[str, Any]:
        """Return the vocabulary as JSON holds it; `read_vocabulary` makes it again."""
        ...


def pieces_of(tokens: Iterable[int], pieces: tuple[str, ...]) -> list[str]:
    """Return what the tokens before the first END stand for; the first piece is token SPECIAL."""
    found = []
    for token in tokens:
        if token == END:
            break
        if token >= SPECIAL:
            found.append(pieces[token - SPECIAL])
        elif token == UNKNOWN:
            found.append(UNKNOWN_WORD)
    return found
