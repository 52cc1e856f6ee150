"""The tokens that every vocabulary of captions begins with, and what a vocabulary can do.

A caption is BEGIN, its words, END, then padding: in examples, in batches and from a decoder.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from ...base.errors import ClipfeatError
from ...base.jsonio import MAX_RUN_BYTES, field, read_json
from ...base.text import is_unicode
from .words import SPECIAL as PLAIN
from .words import UNKNOWN

BEGIN, END = PLAIN, PLAIN + 1  # after PADDING and UNKNOWN of train/data/words.py
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


WORD = "\u2581"  # begins every word; a symbol of its own, as the library's suffixes differ by run


class BpeVocabulary:
    """Parts of words, merged pair by pair (Sennrich et al. 2016, section 3.2).

    The beginning of a word is a letter of it, where the paper has its end, so that parts make the
    words again. A letter that the training captions had not is UNKNOWN.
    """

    def __init__(self, pieces: tuple[str, ...], merges: tuple[tuple[str, str], ...]) -> None:
        """Take the parts, token SPECIAL first, and the merges, in the order they are done.

        Raises ValueError where a merge is of parts that are not there.
        """
        self.pieces, self.merges = pieces, merges
        numbers = {piece: number for number, piece in enumerate(pieces, start=SPECIAL)}
        vocabulary = {**numbers, UNKNOWN_WORD: UNKNOWN}  # no merge makes that, so no text has it
        try:
            model = models.BPE(vocabulary, list(merges), unk_token=UNKNOWN_WORD)
        except Exception as error:  # the library raises no other class
            raise ValueError(str(error)) from None
        self._tokenizer = _tokenizer(model)

    @property
    def size(self) -> int:
        """How many tokens there are, those that stand for no part of a word among them."""
        return SPECIAL + len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without BEGIN and END."""
        return self._tokenizer.encode(text).ids

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens up to the first END; BEGIN and padding are passed over."""
        return "".join(pieces_of(tokens, self.pieces)).replace(WORD, " ").strip()

    def record(self) -> dict[str, Any]:
        """Return the vocabulary as JSON holds it."""
        merges = [list(pair) for pair in self.merges]
        return {"kind": "bpe", "pieces": list(self.pieces), "merges": merges}


def build_bpe(texts: Iterable[str], *, size: int) -> BpeVocabulary:
    """Return at most `size` tokens, trained on the training captions; the same ones each time.

    Raises ClipfeatError where `size` is too small for the letters of the captions.
    """
    tokenizer = _tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=max(0, size - SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    if len(model["vocab"]) > size - SPECIAL:
        raise ClipfeatError(
            f"{size} tokens cannot hold the letters of the training captions, which take "
            f"{len(model['vocab']) + SPECIAL}; raise the size"
        )
    pieces = tuple(sorted(model["vocab"], key=model["vocab"].get))
    return BpeVocabulary(pieces, tuple((first, second) for first, second in model["merges"]))


def _tokenizer(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(WORD)
    return tokenizer


def read_vocabulary(path: Path) -> CaptionVocabulary:
    """Return the vocabulary of a run; ClipfeatError where the file is not one."""
    record = read_json(path, MAX_RUN_BYTES, follow=False)
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
