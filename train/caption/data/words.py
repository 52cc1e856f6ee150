"""A vocabulary of whole words: those that the training captions use often enough."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ....base.errors import ClipfeatError
from ...texts.words import UNKNOWN
from .tokens import SPECIAL, pieces_of

MIN_COUNT = 6  # Karpathy's threshold: a word counts that is there more than five times


@dataclass(frozen=True)
class WordVocabulary:
    """A token a word; every other word is UNKNOWN."""

    words: tuple[str, ...]  # token SPECIAL is the first

    @property
    def size(self) -> int:
        """How many tokens there are, those that stand for no word among them."""
        return SPECIAL + len(self.words)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without BEGIN and END."""
        return [self._numbers.get(word, UNKNOWN) for word in text.split()]

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens up to the first END; BEGIN and padding are passed over."""
        return " ".join(pieces_of(tokens, self.words))

    def record(self) -> dict[str, Any]:
        """Return the vocabulary as JSON holds it."""
        return {"kind": "words", "words": list(self.words)}

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, start=SPECIAL)}


def build_words(texts: Iterable[str], *, min_count: int = MIN_COUNT) -> WordVocabulary:
    """Return the words that training captions hold at least `min_count` times, sorted.

    Raises ClipfeatError where there is none.
    """
    counts = Counter(word for text in texts for word in text.split())
    words = tuple(sorted(word for word, count in counts.items() if count >= min_count))
    if not words:
        raise ClipfeatError(
            f"none of the {len(counts):,} words of the training captions is there {min_count} "
            "times; pass --set min_count=1"
        )
    return WordVocabulary(words)
