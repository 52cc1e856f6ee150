"""Texts as word pieces, in the manner of BERT (Devlin et al. 2019, section 3)."""

import logging
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer

from ...base.errors import ClipfeatError, UsageError
from ...base.files import read_text
from ...base.jsonio import MAX_RUN_BYTES, field, read_json
from ...base.text import is_unicode
from .words import JOINED, UNSPACED, Words

logger = logging.getLogger(__name__)

PAD, UNK, BEGIN, END, MASK = SPECIAL = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
INSIDE = "##"  # before a piece that begins no word
MIN_PIECE_COUNT = 2
AT_ONCE = 10_000  # texts
ALONE = Regex(rf"[{UNSPACED}][\p{{M}}{JOINED}]*")  # a letter of a script without spaces
LARGEST = 1 << 26  # bytes of a vocab.txt; that of the largest BERT has 5 MB


@dataclass(frozen=True)
class WordPieces:
    """The pieces that a model reads, in lower case; a piece's token is its place.

    `[PAD]` is the first. A text is `[CLS]`, its pieces, `[SEP]`.
    """

    pieces: tuple[str, ...]
    # Whether accents, and the vowel signs of Indic scripts, are read. An uncased BERT drops them;
    # and it has Thai, Lao, Khmer and Burmese sentences whole, where here a letter is a word.
    keeps_marks: bool = False

    @property
    def tokens(self) -> int:
        """How many tokens there are."""
        return len(self.pieces)

    def encode(self, texts: Iterable[str], *, max_tokens: int) -> Int[np.ndarray, "text token"]:
        """Return the tokens of each text, `[CLS]` and `[SEP]` among them, padded on the right."""
        texts = [_printable(text) for text in texts]
        begin, end = self.number(BEGIN), self.number(END)
        tokens = np.zeros((len(texts), max_tokens), dtype=np.int32)
        for start in range(0, len(texts), AT_ONCE):
            found = self._tokenizer.encode_batch_fast(texts[start : start + AT_ONCE])
            for row, text in zip(tokens[start:], found, strict=False):
                inner = text.ids[: max_tokens - 2]
                row[: len(inner) + 2] = [begin, *inner, end]
        return tokens

    def known(self, tokens: Int[np.ndarray, "text token"]) -> Bool[np.ndarray, " text"]:
        """Return which texts, as `encode` gives them, have a piece of a word: no punctuation."""
        special = np.array([piece in SPECIAL for piece in self.pieces])
        return np.any((self.of_words & ~special)[tokens], axis=1)

    def number(self, piece: str) -> int:
        """Return the token of a piece."""
        return self._numbers[piece]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {piece: number for number, piece in enumerate(self.pieces)}

    @cached_property
    def of_words(self) -> Bool[np.ndarray, " piece"]:
        """Which pieces hold a letter, a digit or a combining mark, and are no mere punctuation."""
        return np.array(
            [any(unicodedata.category(c)[0] in "LMN" for c in piece) for piece in self.pieces]
        )

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        tokenizer = Tokenizer(WordPiece(self._numbers, unk_token=UNK))
        return _splits_words(tokenizer, keeps_marks=self.keeps_marks)


def train_pieces(texts: Sequence[str], *, size: int) -> WordPieces:
    """Return at most `size` pieces that training texts are made of, the same ones every time.

    Raises UsageError where `size` does not hold all letters of the texts.
    """
    tokenizer = _splits_words(Tokenizer(WordPiece(unk_token=UNK)), keeps_marks=True)
    printable = [_printable(text) for text in texts]
    normalize = tokenizer.normalizer.normalize_str
    letters = sorted(set(chain.from_iterable(map(normalize, printable))) - {" "})
    # Given beforehand, as the trainer numbers the letters that it meets in an order of chance,
    # and breaks ties of later pieces by these numbers.
    given = [*SPECIAL, *letters, *(INSIDE + letter for letter in letters)]
    if size < len(given):
        raise UsageError(
            f"model.pieces must be at least {len(given)} for the {len(letters)} different letters "
            f"of these texts; got {size}"
        )
    trainer = WordPieceTrainer(
        vocab_size=size,
        min_frequency=MIN_PIECE_COUNT,
        special_tokens=given,
        continuing_subword_prefix=INSIDE,
        show_progress=False,
    )
    tokenizer.train_from_iterator(printable, trainer)
    numbers = tokenizer.get_vocab()
    return WordPieces(tuple(sorted(numbers, key=numbers.__getitem__)), keeps_marks=True)


def read_pieces(path: Path) -> WordPieces:
    """Return the pieces of a BERT's vocab.txt, one a line; UsageError where it is none."""
    try:
        text = read_text(path, LARGEST).replace("\r\n", "\n")
    except OSError as error:
        raise UsageError(
            f"{path}: not a readable vocabulary ({error.strerror})", code="E-PIECES-READ"
        ) from None
    pieces = tuple(text.removesuffix("\n").split("\n"))
    problem = problem_with(pieces)
    if problem:
        raise UsageError(f"{path}: {problem}; pass the folder of an uncased BERT")
    return WordPieces(pieces)


def problem_with(pieces: Sequence[str]) -> str:
    """Return what keeps pieces from being a vocabulary, "" where nothing does."""
    missing = [piece for piece in SPECIAL if piece not in pieces]
    if missing:
        return f"has no piece {missing[0]}"
    if pieces[0] != PAD:
        return f"its first piece must be {PAD}; got {pieces[0]!r:.60}"
    if len(set(pieces)) < len(pieces):
        return "has a piece twice"
    return ""


def _splits_words(tokenizer: Tokenizer, *, keeps_marks: bool) -> Tokenizer:
    normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=not keeps_marks)
    words = pre_tokenizers.BertPreTokenizer()
    if keeps_marks:
        normalizer = normalizers.Sequence([normalizer, normalizers.NFC()])
        words = pre_tokenizers.Sequence([words, pre_tokenizers.Split(ALONE, "isolated")])
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, words
    return tokenizer


def _printable(text: str) -> str:
    """Return a text without halves of surrogate pairs, which the tokenizer does not take."""
    return text.encode(errors="replace").decode()


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
    record = read_json(path, MAX_RUN_BYTES, follow=False)
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


def require_known(
    known: Bool[np.ndarray, " text"], texts: Sequence[str], *, of: str, what: str
) -> None:
    """Say on stderr how many texts have no word of the vocabulary; `known` are those with one.

    `of` and `what` say in errors what they are, as "split 'val'" and "questions". Raises
    ClipfeatError where most have none: training and scoring would not notice.
    """
    unknown = np.flatnonzero(~known)
    if not len(unknown):
        return
    told = f"{of}: {len(unknown)} of {len(known)} {what} have no word of the vocabulary"
    if 2 * len(unknown) > len(known):
        raise ClipfeatError(
            f"{told}, such as {texts[int(unknown[0])]!r:.60}; it has the words that come more "
            "than once in the training texts: are these in another language, or without words?",
            code="E-TEXT-UNKNOWN",
        )
    logger.info(told)
