"""Vocabularies of captions: whole words, or parts of words by byte-pair encoding.

A caption is BEGIN, its words, END, then padding: in examples, in batches and from a decoder.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from ...base.errors import ClipfeatError
from ...base.jsonio import MAX_RUN_BYTES, field, field_items, read_json
from .vocabulary import UNKNOWN, texts_of

BEGIN, END = 2, 3  # after PADDING and UNKNOWN
SPECIAL_TOKENS = 4  # how many tokens do not stand for words; the first word has this token
UNKNOWN_WORD = "<unk>"  # how UNKNOWN is written
MIN_COUNT = 6  # Karpathy's threshold: words that occur more than five times are kept
WORD_START = "\u2581"  # begins every word; a piece by itself, as the library's suffixes vary by run


@dataclass(frozen=True)
class CaptionWordVocabulary:
    """One token for each word; every other word is UNKNOWN. A text is words with single spaces."""

    words: tuple[str, ...]  # the first one is token SPECIAL_TOKENS

    @property
    def size(self) -> int:
        """The number of tokens, including those that do not stand for words."""
        return SPECIAL_TOKENS + len(self.words)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without BEGIN and END."""
        return [self._token_of.get(word, UNKNOWN) for word in text.split()]

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens up to the first END; BEGIN and padding are skipped."""
        return " ".join(_spelled(tokens, self.words))

    def record(self) -> dict[str, Any]:
        """Return the vocabulary as a JSON record; `read_caption_vocabulary` reads it."""
        return {"kind": "words", "words": list(self.words)}

    @cached_property
    def _token_of(self) -> dict[str, int]:
        return {word: token for token, word in enumerate(self.words, start=SPECIAL_TOKENS)}


class BpeVocabulary:
    """Parts of words, merged pair by pair (Sennrich et al. 2016, section 3.2).

    The beginning of a word is one of its letters, where the paper has its end, so that parts make
    the words again. A letter that the training captions do not have is UNKNOWN.
    """

    def __init__(self, pieces: tuple[str, ...], merges: tuple[tuple[str, str], ...]) -> None:
        """Take the parts, token SPECIAL_TOKENS first, and the merges, in their order.

        Raises ValueError for a merge of parts that are not among the pieces.
        """
        self.pieces, self.merges = pieces, merges
        token_of = {piece: token for token, piece in enumerate(pieces, start=SPECIAL_TOKENS)}
        token_of[UNKNOWN_WORD] = UNKNOWN  # no merge makes this piece, so no text has it
        try:
            model = models.BPE(token_of, list(merges), unk_token=UNKNOWN_WORD)
        except Exception as error:  # the library raises no other class
            raise ValueError(str(error)) from None
        self._tokenizer = _tokenizer(model)

    @property
    def size(self) -> int:
        """The number of tokens, including those that do not stand for parts of words."""
        return SPECIAL_TOKENS + len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without BEGIN and END."""
        return self._tokenizer.encode(text).ids

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens up to the first END; BEGIN and padding are skipped."""
        return "".join(_spelled(tokens, self.pieces)).replace(WORD_START, " ").strip()

    def record(self) -> dict[str, Any]:
        """Return the vocabulary as a JSON record; `read_caption_vocabulary` reads it."""
        merges = [list(pair) for pair in self.merges]
        return {"kind": "bpe", "pieces": list(self.pieces), "merges": merges}


CaptionVocabulary = CaptionWordVocabulary | BpeVocabulary


def _spelled(tokens: Iterable[int], pieces: tuple[str, ...]) -> list[str]:
    """Return the spelling of the tokens before the first END; piece 0 is token SPECIAL_TOKENS."""
    spelled = []
    for token in tokens:
        if token == END:
            break
        if token >= SPECIAL_TOKENS:
            spelled.append(pieces[token - SPECIAL_TOKENS])
        elif token == UNKNOWN:
            spelled.append(UNKNOWN_WORD)
    return spelled


def _tokenizer(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(WORD_START)
    return tokenizer


def build_caption_words(
    texts: Iterable[str], *, min_count: int = MIN_COUNT
) -> CaptionWordVocabulary:
    """Return the words that training captions have at least `min_count` times, sorted.

    Raises ClipfeatError where there are none.
    """
    counts = Counter(word for text in texts for word in text.split())
    words = tuple(sorted(word for word, count in counts.items() if count >= min_count))
    if not words:
        raise ClipfeatError(
            f"none of the {len(counts):,} words of the training captions occurs {min_count} "
            "times; pass --set min_count=1",
            code="E-VOCAB-EMPTY",
        )
    return CaptionWordVocabulary(words)


def build_bpe(texts: Iterable[str], *, size: int) -> BpeVocabulary:
    """Return at most `size` tokens, trained on the training captions; the same ones each time.

    Raises ClipfeatError where `size` is too small for the letters of the captions.
    """
    tokenizer = _tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=max(0, size - SPECIAL_TOKENS), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    if len(model["vocab"]) > size - SPECIAL_TOKENS:
        raise ClipfeatError(
            f"{size} tokens cannot hold the letters of the training captions, which take "
            f"{len(model['vocab']) + SPECIAL_TOKENS}; raise the size",
            code="E-VOCAB-SIZE",
        )
    pieces = tuple(sorted(model["vocab"], key=model["vocab"].get))
    return BpeVocabulary(pieces, tuple((first, second) for first, second in model["merges"]))


def read_caption_vocabulary(path: Path) -> CaptionVocabulary:
    """Return the vocabulary of a captioning run; ClipfeatError for a file that is not one."""
    record = read_json(path, MAX_RUN_BYTES, follow=False)
    kind = field(record, "kind", str, path)
    if kind == "words":
        return CaptionWordVocabulary(texts_of(record, "words", path))
    if kind == "bpe":
        return _read_bpe(record, path)
    raise ClipfeatError(f"{path}: kind must be words or bpe; got {kind!r:.60}", code="E-VOCAB-KIND")


def _read_bpe(record: Any, path: Path) -> BpeVocabulary:
    pieces = texts_of(record, "pieces", path)
    merges = []
    for place, pair in field_items(record, "merges", path):
        if not isinstance(pair, list) or len(pair) != 2:
            raise ClipfeatError(
                f"{place} must be two pieces; got {pair!r:.60}", code="E-VOCAB-MERGES"
            )
        first, second = texts_of({"merges": pair}, "merges", path)
        merges.append((first, second))
    try:
        return BpeVocabulary(pieces, tuple(merges))
    except ValueError as error:
        raise ClipfeatError(f"{path}: {error}", code="E-VOCAB-MERGES") from None
