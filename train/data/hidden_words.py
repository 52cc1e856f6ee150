"""Copies of texts with one word hidden, which a model learns to name, and which words these are."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from .vocabulary import INSIDE, PADDING, TextVocabulary

MIN_COUNT = 5  # times that a word must be hideable in the training texts to become a class
# English words of the closed classes, by class. What other words say can be seen; these mostly
# follow from the words around them. A contraction counts as the word before its apostrophe.
CLOSED_CLASSES = (
    # determiners and quantifiers
    "a an the this that these those each every either neither some any no none all both half few",
    "many much more most several such other another own enough",
    # pronouns
    "i me my mine myself you your yours yourself yourselves he him his himself she her hers herself",
    "it its itself we us our ours ourselves they them their theirs themselves one ones oneself",
    "someone somebody something anyone anybody anything everyone everybody everything nobody",
    "nothing there here",
    # question words and relatives
    "who whom whose which what when where why how whether",
    # prepositions and particles
    "of in on at to from by with without for about into onto upon over under above below between",
    "among through across along around behind beside besides near toward towards within inside",
    "outside against during before after until till since off out up down as than like per via",
    # conjunctions
    "and or nor but so yet if because although though while unless",
    # auxiliaries, and the stems of their negative contractions
    "am is are was were be been being do does did doing done have has had having can could may",
    "might must shall should will would ought cannot can't won't ain isn aren wasn weren don doesn",
    "didn haven hasn hadn couldn mightn mustn shan shouldn wouldn",
    # negations and adverbs of degree, time and focus
    "not never very too quite rather also only just even still already again ever always often",
    "sometimes perhaps maybe then now else",
)
CLOSED_CLASS = frozenset(word for words in CLOSED_CLASSES for word in words.split())


class HiddenTexts(NamedTuple):
    """Copies of some texts, each with one word hidden."""

    texts: Int[np.ndarray, " copy"]  # positions of the originals among these texts
    tokens: Int[np.ndarray, "copy token"]
    words: Int[np.ndarray, " copy"]  # the class of the hidden word


@dataclass(frozen=True)
class HiddenWords:
    """Where words of training texts can be hidden, and the classes of these words.

    A class is a token of the vocabulary; classes are in the order of tokens.
    """

    tokens: Int[np.ndarray, "text token"]
    where: Bool[np.ndarray, "text token"]
    mask: int  # the token that takes a hidden word's place

    @staticmethod
    def of(
        tokens: Int[np.ndarray, "text token"],
        true: Bool[np.ndarray, " text"],
        vocabulary: TextVocabulary,
    ) -> "HiddenWords":
        """Return the words to hide of the texts that are `true` of their images."""
        return HiddenWords(tokens, hideable(tokens, true, vocabulary.spelled), vocabulary.mask)

    @cached_property
    def classes(self) -> Int[np.ndarray, " class"]:
        """The tokens of the words."""
        return np.unique(self.tokens[self.where])

    @cached_property
    def copies_per_text(self) -> float:
        """The mean number of words to hide in a text."""
        return float(self.where.sum() / len(self.where))

    def hide(self, numbers: Int[np.ndarray, " text"]) -> HiddenTexts:
        """Return a copy of each text at `numbers` for each of its words to hide, without that word."""
        texts, places = np.nonzero(self.where[numbers])
        tokens = self.tokens[numbers[texts]]  # a copy
        copies = np.arange(len(texts))
        words = np.searchsorted(self.classes, tokens[copies, places])
        tokens[copies, places] = self.mask
        return HiddenTexts(texts, tokens, words)


def hideable(
    tokens: Int[np.ndarray, "text token"],
    true: Bool[np.ndarray, " text"],
    spelled: Sequence[str],
    *,
    min_count: int = MIN_COUNT,
) -> Bool[np.ndarray, "text token"]:
    """Return which words of texts only their images can tell, if they are hidden.

    `spelled` has the text of each token of the vocabulary. Such a word is a whole word, not one of
    `CLOSED_CLASS`, in a `true` text. The true texts must have another such word between the same
    two neighbours, so that a text without it leaves a choice, and must leave that choice for it
    `min_count` times.
    """
    tokens = tokens.astype(np.int64)
    content = np.array([_is_content(text) for text in spelled])
    inside = np.array([text.startswith(INSIDE) for text in spelled])
    before = np.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=PADDING)
    after = np.pad(tokens[:, 1:], ((0, 0), (0, 1)), constant_values=PADDING)
    where = content[tokens] & ~inside[after] & true[:, None]

    neighbours = before * len(spelled) + after
    pairs = np.unique(neighbours[where] * len(spelled) + tokens[where])
    known, words_between = np.unique(pairs // len(spelled), return_counts=True)
    where &= np.isin(neighbours, known[words_between > 1])
    counts = np.bincount(tokens[where], minlength=len(spelled))
    return where & (counts >= min_count)[tokens]


def _is_content(text: str) -> bool:
    """Return whether a token begins a word, or is one, that is not of a closed class."""
    first = text.partition("'")[0]
    return text[:1].isalnum() and not CLOSED_CLASS.intersection((text, first))
