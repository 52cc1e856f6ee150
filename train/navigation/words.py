"""The words of instructions, as agents for R2R and RxR read and write them.

`WordVocabulary` of ../data/vocabulary.py serves models that only read: it drops punctuation and has
no token for begin and end. A speaker writes sentences, and published followers read punctuation.
Agents without a speaker may read word pieces (`WordPieces` there), which are encoded by the same call.
"""

import functools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from ...base.errors import ClipfeatError
from ...base.jsonio import MAX_RUN_BYTES, read_json
from ..data.vocabulary import JOINED, WordPieces, mark_ranges, pieces_of, texts_of

PADDING, UNKNOWN, END = 0, 1, 2  # BEGIN comes after the words
FIRST_WORD = 3  # the token of the first word
MIN_COUNT = 5  # of a word in the training texts: R2R's have 991 tokens before BEGIN
MAX_TOKENS = 80  # of a text, with begin and end


def split_words(text: str) -> list[str]:
    """Return the words and the punctuation of a text, in lower case.

    As the tokenizer of R2R's published agents (Anderson et al. 2018): punctuation that stands
    together is split into characters, except full stops and marks with a space between. Combining
    marks belong to the letter before them, so that words of Hindi and Telugu stay whole; they need
    Unicode's composed form (NFC).

    >>> split_words("Turn left, and wait by the o'clock_sign...")
    ['turn', 'left', ',', 'and', 'wait', 'by', 'the', 'o', "'", 'clock_sign', '...']
    >>> split_words("कमरे की ओर")
    ['कमरे', 'की', 'ओर']
    """
    lower = unicodedata.normalize("NFC", text.lower())
    words: list[str] = []
    for piece in map(str.strip, _between_words().split(lower)):
        if all(letter in string.punctuation for letter in piece) and piece.strip("."):
            words += piece
        elif piece:
            words.append(piece)
    return words


@functools.cache
def _between_words() -> re.Pattern[str]:
    """Return the pattern of what is between words, as a group, so that a split keeps it."""
    return re.compile(rf"([^\w{mark_ranges()}{JOINED}]+)")


@dataclass(frozen=True)
class InstructionWords:
    """The words that a follower reads and a speaker writes; `words[0]` is token FIRST_WORD."""

    words: tuple[str, ...]

    @property
    def begin(self) -> int:
        """The token before the first word."""
        return FIRST_WORD + len(self.words)

    @property
    def size(self) -> int:
        """The number of tokens."""
        return self.begin + 1

    @property
    def spelled(self) -> tuple[str, ...]:
        """The text of each token; "" for those that are no words."""
        return ("",) * FIRST_WORD + self.words + ("",)

    def encode(
        self, texts: Iterable[str], *, max_tokens: int = MAX_TOKENS
    ) -> Int[np.ndarray, "text token"]:
        """Return the tokens of each text: begin, words, end, then padding.

        Of a longer text the first `max_tokens` - 2 words are kept.
        """
        token_of = self._token_of
        texts = list(texts)
        tokens = np.full((len(texts), max_tokens), PADDING)
        for row, text in zip(tokens, texts, strict=True):
            inner = [token_of.get(word, UNKNOWN) for word in split_words(text)][: max_tokens - 2]
            row[: len(inner) + 2] = [self.begin, *inner, END]
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the words of tokens up to the first end, with spaces between them."""
        spelled, words = self.spelled, []
        for token in tokens:
            if token == END:
                break
            words.append(spelled[token])
        return " ".join(filter(None, words))

    def known(self, tokens: Int[np.ndarray, "text token"]) -> Bool[np.ndarray, " text"]:
        """Return which texts, as `encode` returns them, have a word that is not punctuation."""
        of_words = [any(letter.isalnum() for letter in word) for word in self.spelled]
        return np.any(np.array(of_words)[tokens], axis=1)

    def record(self) -> dict[str, list[str]]:
        """Return the words for RUN/vocabulary.json."""
        return {"words": list(self.words)}

    @cached_property
    def _token_of(self) -> dict[str, int]:
        return {word: token for token, word in enumerate(self.words, start=FIRST_WORD)}


def build_words(texts: Iterable[str], *, min_count: int = MIN_COUNT) -> InstructionWords:
    """Return the words that training texts have often enough, the most frequent first.

    Of equally frequent ones the first to occur comes first, so that the same texts give the same
    tokens. Raises ClipfeatError (E-VOCAB-EMPTY) where no word occurs so often.
    """
    counts = Counter(word for text in texts for word in split_words(text))
    words = tuple(word for word, count in counts.most_common() if count >= min_count)
    if not words:
        raise ClipfeatError(
            f"none of the {len(counts):,} words of the training instructions occurs {min_count} "
            "times; pass --set min_count=1",
            code="E-VOCAB-EMPTY",
        )
    return InstructionWords(words)


InstructionVocabulary = InstructionWords | WordPieces  # padding is token PADDING of both


def read_instruction_vocabulary(path: Path) -> InstructionVocabulary:
    """Return the words or pieces of a run's file; ClipfeatError for a file without either."""
    record = read_json(path, MAX_RUN_BYTES, follow=False)
    return pieces_of(record, path) or InstructionWords(texts_of(record, "words", path))


def read_instruction_words(path: Path) -> InstructionWords:
    """Return the words of a run's file; ClipfeatError for a file that does not hold them."""
    return InstructionWords(texts_of(read_json(path, MAX_RUN_BYTES, follow=False), "words", path))
