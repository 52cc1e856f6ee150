"""What a model can read and answer: words or word pieces as tokens, and the answer classes."""

import functools
import logging
import re
import unicodedata
from collections import Counter
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

from ...base.errors import ClipfeatError, UsageError, reason_of
from ...base.files import read_text, split_lines
from ...base.jsonio import MAX_RUN_BYTES, field, parse_json, read_json
from ...base.text import is_unicode

logger = logging.getLogger(__name__)

PADDING, UNKNOWN = 0, 1  # the first two tokens of every vocabulary of words
SPECIAL_TOKENS = 2  # their number; the first word has this token
MIN_WORD_COUNT = 2  # words that occur once train UNKNOWN, which later stands for all new words

WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")  # of English
# Scripts without spaces between words, as ranges of characters: each letter is a word.
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
# The typographic apostrophe and the modifier letter become apostrophes; soft hyphens are removed.
SPELLED_ONE_WAY = str.maketrans({"\u2019": "'", "\u02bc": "'", "\u00ad": None, "_": " "})


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
    unspaced, word = _word_patterns()
    normalized = unicodedata.normalize("NFC", lower.translate(SPELLED_ONE_WAY))
    return word.findall(" ".join(unspaced.split(normalized)))


@functools.cache
def _word_patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the pattern of letters that are words, and `WORD` for all scripts."""
    mark = f"[{mark_ranges()}{JOINED}]*+"
    unspaced = re.compile(rf"([{UNSPACED}](?<=[^\W\d]){mark})")
    word = re.compile(rf"(?:\w++{mark})++(?:'(?:[^\W\d]++{mark})++)?")
    return unspaced, word


@functools.cache
def mark_ranges() -> str:
    """Return Unicode's combining marks, for a set of characters in a pattern."""
    codes = range(0x20000)  # beyond these, the only marks are variants of Chinese characters
    marks = [code for code in codes if unicodedata.category(chr(code))[0] == "M"]
    # As ranges: the engine would compare to each single mark beyond 16 bits by itself.
    first = [code for code, before in zip(marks, [-1, *marks], strict=False) if code != before + 1]
    last = [code for code, after in zip(marks, [*marks[1:], -1], strict=True) if code != after - 1]
    return "".join(f"{chr(a)}-{chr(b)}" for a, b in zip(first, last, strict=True))


POSSESSIVE = "'s"


def read_words(text: str) -> list[str]:
    """Return the words of a text as models read them: those of `tokenize`, with "'s" split off.

    GloVe has vectors of "what" and of "'s", and none of "what's".

    >>> read_words("What's on the cat's head?")
    ['what', "'s", 'on', 'the', 'cat', "'s", 'head']
    """
    words = []
    for word in tokenize(text):
        stem = word.removesuffix(POSSESSIVE)
        words += [word] if stem == word else [stem, POSSESSIVE]
    return words


@dataclass(frozen=True)
class WordVocabulary:
    """The words that a model reads; the first one is token `SPECIAL_TOKENS`."""

    words: tuple[str, ...]

    @property
    def size(self) -> int:
        """The number of tokens, including padding and the unknown word."""
        return len(self.words) + SPECIAL_TOKENS

    @property
    def spelled(self) -> tuple[str, ...]:
        """The text of each token; "" for padding and the unknown word."""
        return ("",) * SPECIAL_TOKENS + self.words

    @property
    def mask(self) -> int:
        """The token that stands for a hidden word: to a model it is an unknown one."""
        return UNKNOWN

    def encode(self, texts: Iterable[str], *, max_tokens: int) -> Int[np.ndarray, "text token"]:
        """Return the tokens of each text, padded on the right; a text has at least one."""
        token_of = self._token_of
        rows = [
            [token_of.get(word, UNKNOWN) for word in read_words(text)][:max_tokens]
            for text in texts
        ]
        tokens = np.full((len(rows), max_tokens), PADDING)
        for padded, row in zip(tokens, rows, strict=True):
            padded[: len(row) or 1] = row or UNKNOWN
        return tokens

    def known(self, tokens: Int[np.ndarray, "text token"]) -> Bool[np.ndarray, " text"]:
        """Return which texts, as `encode` returns them, have a word of the vocabulary."""
        return np.any(tokens >= SPECIAL_TOKENS, axis=1)

    @cached_property
    def _token_of(self) -> dict[str, int]:
        return {word: token for token, word in enumerate(self.words, start=SPECIAL_TOKENS)}


def build_words(texts: Iterable[str]) -> WordVocabulary:
    """Return the words that training texts have at least `MIN_WORD_COUNT` times, sorted."""
    counts = Counter(word for text in texts for word in read_words(text))
    return WordVocabulary(
        tuple(sorted(word for word, count in counts.items() if count >= MIN_WORD_COUNT))
    )


PAD, UNK, CLS, SEP, MASK = SPECIAL_PIECES = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
INSIDE = "##"  # stands before a piece that does not begin a word
MIN_PIECE_COUNT = 2
TEXTS_AT_ONCE = 10_000
# A letter of a script without spaces, with its marks.
UNSPACED_LETTER = Regex(rf"[{UNSPACED}][\p{{M}}{JOINED}]*")
MAX_PIECES_BYTES = 1 << 26  # of a vocab.txt; the largest BERT's has 5 MB


@dataclass(frozen=True)
class WordPieces:
    """The word pieces that a model reads (Devlin et al. 2019, BERT, section 3).

    The token of a piece is its position; `[PAD]` is the first. A text is `[CLS]`, its pieces,
    `[SEP]`.
    """

    pieces: tuple[str, ...]
    # Whether accents, and the vowel signs of Indic scripts, are read. An uncased BERT drops them,
    # and splits no sentence of Thai, Lao, Khmer and Burmese, where here each letter is a word.
    keeps_marks: bool = False
    is_cased: bool = False  # a cased BERT's: texts are read as they are, with case and accents

    @property
    def size(self) -> int:
        """The number of tokens."""
        return len(self.pieces)

    @property
    def spelled(self) -> tuple[str, ...]:
        """The text of each token."""
        return self.pieces

    @property
    def mask(self) -> int:
        """The token that stands for a hidden word."""
        return self.number(MASK)

    def encode(self, texts: Iterable[str], *, max_tokens: int) -> Int[np.ndarray, "text token"]:
        """Return the tokens of each text, including `[CLS]` and `[SEP]`, padded on the right."""
        texts = [_encodable(text) for text in texts]
        begin, end = self.number(CLS), self.number(SEP)
        tokens = np.zeros((len(texts), max_tokens), dtype=np.int32)
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            encodings = self._tokenizer.encode_batch_fast(texts[start : start + TEXTS_AT_ONCE])
            for row, encoding in zip(tokens[start:], encodings, strict=False):
                inner = encoding.ids[: max_tokens - 2]
                row[: len(inner) + 2] = [begin, *inner, end]
        return tokens

    def known(self, tokens: Int[np.ndarray, "text token"]) -> Bool[np.ndarray, " text"]:
        """Return which texts, as `encode` returns them, have a piece that is not punctuation."""
        special = np.array([piece in SPECIAL_PIECES for piece in self.pieces])
        return np.any((self.of_words & ~special)[tokens], axis=1)

    def record(self) -> dict[str, Any]:
        """Return the pieces as a JSON record; `pieces_of` reads it."""
        cased = {"is_cased": True} if self.is_cased else {}
        return {"pieces": self.pieces, "keeps_marks": self.keeps_marks, **cased}

    def number(self, piece: str) -> int:
        """Return the token of a piece."""
        return self._token_of[piece]

    @cached_property
    def of_words(self) -> Bool[np.ndarray, " piece"]:
        """Which pieces have a letter, a digit or a combining mark; the others are punctuation."""
        return np.array(
            [any(unicodedata.category(c)[0] in "LMN" for c in piece) for piece in self.pieces]
        )

    @cached_property
    def _token_of(self) -> dict[str, int]:
        return {piece: token for token, piece in enumerate(self.pieces)}

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        tokenizer = Tokenizer(WordPiece(self._token_of, unk_token=UNK))
        return _splits_words(tokenizer, keeps_marks=self.keeps_marks, is_cased=self.is_cased)


def train_pieces(texts: Sequence[str], *, size: int) -> WordPieces:
    """Return at most `size` pieces of training texts, the same ones every time.

    Raises UsageError where `size` is smaller than the number of letters in the texts.
    """
    tokenizer = _splits_words(Tokenizer(WordPiece(unk_token=UNK)), keeps_marks=True)
    encodable = [_encodable(text) for text in texts]
    normalize = tokenizer.normalizer.normalize_str
    letters = sorted(set(chain.from_iterable(map(normalize, encodable))) - {" "})
    # Passed as special tokens: the trainer numbers letters in a random order, and breaks ties
    # between later pieces by these numbers.
    first = [*SPECIAL_PIECES, *letters, *(INSIDE + letter for letter in letters)]
    if size < len(first):
        raise UsageError(
            f"model.vocab_size must be at least {len(first)} for the {len(letters)} different "
            f"letters of these texts; got {size}",
            code="E-VOCAB-SIZE",
        )
    trainer = WordPieceTrainer(
        vocab_size=size,
        min_frequency=MIN_PIECE_COUNT,
        special_tokens=first,
        continuing_subword_prefix=INSIDE,
        show_progress=False,
    )
    tokenizer.train_from_iterator(encodable, trainer)
    token_of = tokenizer.get_vocab()
    return WordPieces(tuple(sorted(token_of, key=token_of.__getitem__)), keeps_marks=True)


def read_pieces(path: Path) -> WordPieces:
    """Return the pieces of a BERT's vocab.txt, one a line; UsageError for any other file.

    A cased BERT's have the letter A, an uncased one's have no capital letter.
    """
    try:
        text = read_text(path, MAX_PIECES_BYTES).replace("\r\n", "\n")
    except OSError as error:
        raise UsageError(
            f"{path}: not a readable vocabulary ({reason_of(error)})", code="E-PIECES-READ"
        ) from None
    pieces = tuple(text.removesuffix("\n").split("\n"))
    if problem := problem_with(pieces):
        raise UsageError(
            f"{path}: {problem}; pass the vocab.txt of a BERT, or its folder",
            code="E-VOCAB-PIECES",
        )
    return WordPieces(pieces, is_cased="A" in pieces)


def problem_with(pieces: Sequence[str]) -> str:
    """Return why pieces are not a vocabulary, "" where they are one."""
    missing = [piece for piece in SPECIAL_PIECES if piece not in pieces]
    if missing:
        return f"has no piece {missing[0]}"
    if pieces[0] != PAD:
        return f"its first piece must be {PAD}; got {pieces[0]!r:.60}"
    if len(set(pieces)) < len(pieces):
        return "has a piece twice"
    return ""


def _splits_words(tokenizer: Tokenizer, *, keeps_marks: bool, is_cased: bool = False) -> Tokenizer:
    """Return the tokenizer, set to split words as BERT does."""
    normalizer = normalizers.BertNormalizer(
        lowercase=not is_cased, strip_accents=not (keeps_marks or is_cased)
    )
    splitter = pre_tokenizers.BertPreTokenizer()
    if keeps_marks:
        normalizer = normalizers.Sequence([normalizer, normalizers.NFC()])
        letters = pre_tokenizers.Split(UNSPACED_LETTER, "isolated")
        splitter = pre_tokenizers.Sequence([splitter, letters])
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    return tokenizer


def _encodable(text: str) -> str:
    """Return a text with "?" for halves of surrogate pairs, which the tokenizer rejects."""
    return text.encode(errors="replace").decode()


TextVocabulary = WordVocabulary | WordPieces


def add_words(words: TextVocabulary, texts: Iterable[str]) -> TextVocabulary:
    """Return a vocabulary, followed by other words that training texts have often enough.

    Word pieces spell every word, and stay as they are.
    """
    if isinstance(words, WordPieces):
        return words
    known = set(words.words)
    new = (word for word in build_words(texts).words if word not in known)
    return WordVocabulary((*words.words, *new))


def require_known(
    known: Bool[np.ndarray, " text"], texts: Sequence[str], *, of: str, noun: str
) -> None:
    """Log how many texts have no word of the vocabulary; `known` are those that have one.

    `of` and `noun` say in errors what they are, as "split 'val'" and "questions". Raises
    ClipfeatError (E-TEXT-UNKNOWN) where most texts have none: training and scoring would not
    notice.
    """
    unknown = np.flatnonzero(~known)
    if not len(unknown):
        return
    message = f"{of}: {len(unknown)} of {len(known)} {noun} have no word of the vocabulary"
    if 2 * len(unknown) > len(known):
        raise ClipfeatError(
            f"{message}, such as {texts[int(unknown[0])]!r:.60}; the vocabulary has the words that "
            "occur more than once in the training texts: are these texts in another language, or "
            "without words?",
            code="E-TEXT-UNKNOWN",
        )
    logger.info(message)


@dataclass(frozen=True)
class Vocabulary:
    """The words or word pieces that a model reads, and the classes that it chooses from.

    These are the answers and, after them, the words that it learns to name where they are hidden.
    """

    words: TextVocabulary
    answers: tuple[str, ...]  # as the data set's annotations have them
    hideable: tuple[str, ...] = ()  # some of `words`

    @property
    def classes(self) -> int:
        """The number of answers and of words that can be hidden."""
        return len(self.answers) + len(self.hideable)

    def record(self) -> dict[str, Any]:
        """Return the vocabulary as a JSON record; `read_vocabulary` reads it."""
        match self.words:
            case WordVocabulary(words):
                record = {"words": words}
            case WordPieces() as pieces:
                record = pieces.record()
        hideable = {"hideable": self.hideable} if self.hideable else {}
        return {**record, "answers": self.answers, **hideable}


def read_vocabulary(path: Path) -> Vocabulary:
    """Return the vocabulary of a run; ClipfeatError for a file that is not one."""
    record = read_json(path, MAX_RUN_BYTES, follow=False)
    words = _read_words(record, path)
    hideable = texts_of(record, "hideable", path) if "hideable" in record else ()
    if unknown := set(hideable).difference(words.spelled):
        raise ClipfeatError(
            f"{path}: hideable must be words of the vocabulary; got {min(unknown)!r:.60}",
            code="E-VOCAB-HIDEABLE",
        )
    return Vocabulary(words, texts_of(record, "answers", path), hideable)


def _read_words(record: Any, path: Path) -> TextVocabulary:
    """Return the words or word pieces of a run's vocabulary."""
    return pieces_of(record, path) or WordVocabulary(texts_of(record, "words", path))


def pieces_of(record: Any, path: Path) -> WordPieces | None:
    """Return the word pieces of the record in a run's file; None where it has none.

    Raises ClipfeatError (E-VOCAB-PIECES) for pieces that are not a vocabulary.
    """
    if not isinstance(record, dict) or "pieces" not in record:
        return None
    pieces = texts_of(record, "pieces", path)
    if problem := problem_with(pieces):
        raise ClipfeatError(f"{path}: {problem}", code="E-VOCAB-PIECES")
    keeps_marks, is_cased = (
        name in record and field(record, name, bool, path) for name in ("keeps_marks", "is_cased")
    )
    return WordPieces(pieces, keeps_marks, is_cased)


def texts_of(record: Any, key: str, path: Path) -> tuple[str, ...]:
    """Return the texts of the list `record[key]` of a run's file; ClipfeatError for other values."""
    texts = field(record, key, list, path)
    if not all(isinstance(text, str) and is_unicode(text) for text in texts):
        raise ClipfeatError(f"{path}: {key} must be texts", code="E-VOCAB-TEXTS")
    return tuple(texts)


OTHER_ANSWERS = "<unk>"  # stands for all answers that a list does not have
MAX_ANSWERS_BYTES = 1 << 26


def answer_classes(answers: Iterable[str], *, min_count: int) -> tuple[str, ...]:
    """Return the answers that occur at least `min_count` times, the most common first.

    Given the most common answer of each question, normalised: VQA v2's train and val have 3,129
    classes with `min_count` 9, the choice that most published models share. One of them is the
    empty answer, which normalisation makes of an article.
    """
    counts = Counter(answers)
    kept = [answer for answer, count in counts.items() if count >= min_count]
    return tuple(sorted(kept, key=lambda answer: (-counts[answer], answer)))


def read_answer_list(path: Path) -> tuple[str, ...]:
    """Return the answers of a file: a JSON list of texts, or one answer a line.

    Such files are LXMERT's trainval_label2ans.json, where the empty answer counts, and mmf's
    answers_vqa.txt, where blank lines and "<unk>", for all other answers, do not count. Raises
    UsageError for a file that cannot be read or is empty, and for an answer that occurs twice.
    """
    try:
        text = read_text(path, MAX_ANSWERS_BYTES)
        is_json = text.lstrip().startswith("[")
        listed = parse_json(text) if is_json else [x for x in split_lines(text) if x.strip()]
    except (OSError, ValueError) as error:
        raise UsageError(
            f"answer_list {path}: not a readable list of answers ({reason_of(error)})",
            code="E-ANSWERS-READ",
        ) from None
    other = [answer for answer in listed if not isinstance(answer, str)]
    if other:
        raise UsageError(
            f"answer_list {path}: each answer must be a text; got {other[0]!r:.60}",
            code="E-ANSWERS-LIST",
        )
    answers = [answer.strip() for answer in listed if answer.strip() != OTHER_ANSWERS]
    twice = [answer for answer, count in Counter(answers).items() if count > 1]
    if twice or not answers:
        problem = f"{twice[0]!r} occurs twice" if twice else "holds no answers"
        raise UsageError(f"answer_list {path}: {problem}", code="E-ANSWERS-LIST")
    return tuple(answers)
