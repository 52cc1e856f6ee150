"""Texts as whole words: the tokens that stand for them."""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")  # of English
# Scripts that put no spaces between words, as ranges of characters: each letter is a word.
UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Burmese
    "\u1780-\u17ff"  # Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f\U0001aff0-\U0001b16f"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
)
# What belongs to the letter before it, besides combining marks: the zero-width joiners of Indic and
# Persian words, the vowel AM of Thai and Lao, the voicing marks of narrow kana.
JOINED = "\u200c\u200d\u0e33\u0eb3\uff9e\uff9f"
# The typographic apostrophe and the one that is a letter are apostrophes; a soft hyphen is nothing.
SPELLED_ONE_WAY = str.maketrans({"\u2019": "'", "\u02bc": "'", "\u00ad": None, "_": " "})
PADDING, UNKNOWN = 0, 1  # the first two tokens
SPECIAL = 2  # how many they are
MIN_WORD_COUNT = 2  # words met once stand in for all the words never met: they train UNKNOWN


def tokenize(text: str) -> list[str]:
    """Return the words of a text, in lower case and in Unicode's composed form (NFC).

    A word is letters and digits of any script with their marks, and what follows one apostrophe.
    Chinese, Japanese, Thai, Lao, Khmer and Burmese have no spaces between words: each of their
    letters, with its marks, is a word.

    >>> tokenize("What's left of the 2 red squares?")
    ["what's", 'left', 'of', 'the', '2', 'red', 'squares']
    >>> tokenize("L'été, 红色的")
    ["l'été", '红', '色', '的']
    """
    lower = text.lower()
    if lower.isascii():
        return WORD.findall(lower)
    alone, word = _any_words()
    plain = unicodedata.normalize("NFC", lower.translate(SPELLED_ONE_WAY))
    return word.findall(" ".join(alone.split(plain)))


@functools.cache
def _any_words() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return what finds the letters that are words, and `WORD` for all scripts."""
    letters = range(0x20000)  # beyond are no marks but variants of Chinese characters
    marks = [n for n in letters if unicodedata.category(chr(n))[0] == "M"]
    # As ranges: each mark beyond 16 bits would be compared to by itself.
    first = [n for n, before in zip(marks, [-1, *marks], strict=False) if n != before + 1]
    last = [n for n, after in zip(marks, [*marks[1:], -1], strict=True) if n != after - 1]
    ranges = "".join(f"{chr(a)}-{chr(b)}" for a, b in zip(first, last, strict=True))
    mark = f"[{ranges}{JOINED}]*+"
    alone = re.compile(rf"([{UNSPACED}](?<=[^\W\d]){mark})")
    word = re.compile(rf"(?:\w++{mark})++(?:'(?:[^\W\d]++{mark})++)?")
    return alone, word


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
        numbers = self._numbers
        rows = [
            [numbers.get(word, UNKNOWN) for word in tokenize(text)][:max_tokens] for text in texts
        ]
        tokens = np.full((len(rows), max_tokens), PADDING)
        for row, found in zip(tokens, rows, strict=True):
            row[: len(found) or 1] = found or UNKNOWN
        return tokens

    def known(self, tokens: Int[np.ndarray, "text token"]) -> Bool[np.ndarray, " text"]:
        """Return which texts, as `encode` gives them, have a word that is known."""
        return np.any(tokens >= SPECIAL, axis=1)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, start=SPECIAL)}
