"""A vocabulary of parts of words, by byte-pair encoding."""

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from ....base.errors import ClipfeatError
from ...texts.words import UNKNOWN
from .tokens import SPECIAL, UNKNOWN_WORD, pieces_of

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
