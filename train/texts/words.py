"""Texts as whole words: the tokens that stand for them."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
PADDING, UNKNOWN = 0, 1  # the first two tokens
SPECIAL = 2  # how many they are
MIN_WORD_COUNT = 2  # words met once stand in for all the words never met: they train UNKNOWN


def tokenize(text: str) -> list[str]:
    """Return the words of a text.

    >>> tokenize("What's left of the 2 red squares?")
    ["what's", 'left', 'of', 'the', '2', 'red', 'squares']
    """
    return WORD.findall(text.lower())


def build_words(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the words that training texts hold at least `MIN_WORD_COUNT` times, sorted."""
    counts = Counter(word for text in texts for word in tokenize(text))
    return tuple(sorted(word for word, count in counts.items() if count >= MIN_WORD_COUNT))


@dataclass(frozen=True)
class Words:
    """The words that a model reads; the first one is token `SPECIAL`."""

    words: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """How many tokens there are, padding and the unknown word among them."""
        return len(self.words) + SPECIAL

    def encode(self, texts: Iterable[str], *, max_tokens: int) -> Int[np.ndarray, "text token"]:
        """Return the tokens of each text, padded on the right; a text has one at least."""
        numbers = {word: number for number, word in enumerate(self.words, start=SPECIAL)}
        rows = [
            [numbers.get(word, UNKNOWN) for word in tokenize(text)][:max_tokens] for text in texts
        ]
        tokens = np.full((len(rows), max_tokens), PADDING)
        for row, found in zip(tokens, rows, strict=True):
            row[: len(found) or 1] = found or UNKNOWN
        return tokens

    def knows(self, text: str) -> bool:
        """Return whether any word of a text is known."""
        return not set(self.words).isdisjoint(tokenize(text))
