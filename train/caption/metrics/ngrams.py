"""Count the n-grams of many captions at once; an n-gram is a number."""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt64

from ....base.errors import ClipfeatError

LONGEST = 4  # n-grams are those of n = 1, 2, 3, 4
BITS = 16  # of a word, so that four fill 64
TOKENS = (1 << BITS) - 1  # one less than 16 bits hold: a word is its token + 1, and never 0

Words = Sequence[Sequence[int]]  # of captions, as token ids
Ngrams = UInt64[np.ndarray, " ngram"]


class Counts(NamedTuple):
    """How often an n-gram is in a caption: an entry for each pair of which that is not 0.

    Entries rise by caption, and within a caption by n-gram.
    """

    distinct: Ngrams  # of all captions, rising
    caption: Int[np.ndarray, " entry"]
    ngram: Int[np.ndarray, " entry"]  # positions in `distinct`
    times: Int[np.ndarray, " entry"]


def count_ngrams(captions: Words) -> Counts:
    """Count the n-grams of captions.

    An n-gram is packed into 64 bits, its last word lowest; as no word is 0, no two n-grams of any
    length become one number. Raises ClipfeatError for a token that is not one of 0..65534.
    """
    lengths = np.fromiter(map(len, captions), np.int64, len(captions))
    tokens = np.fromiter(chain.from_iterable(captions), np.int64, lengths.sum())
    wrong = tokens[(tokens < 0) | (tokens >= TOKENS)]
    if len(wrong):
        raise ClipfeatError(
            f"token {wrong[0]}: n-grams are counted for token ids 0 to {TOKENS - 1}, since four "
            "words are packed into 64 bits; use a smaller vocabulary"
        )
    words = (tokens + 1).astype(np.uint64)
    caption_of = np.repeat(np.arange(len(captions)), lengths)
    ngrams, found = words, [(caption_of, words)]
    for more in range(1, LONGEST):
        ngrams = ngrams[:-1] << np.uint64(BITS) | words[more:]
        begins = caption_of[: len(ngrams)]
        whole = begins == caption_of[more:]  # it ends in the caption in which it begins
        found.append((begins[whole], ngrams[whole]))
    rows, packed = (np.concatenate(parts) for parts in zip(*found, strict=True))
    distinct, ngram = np.unique(packed, return_inverse=True)
    width = max(1, len(distinct))
    pairs, times = np.unique(rows * width + ngram, return_counts=True)
    return Counts(distinct, *np.divmod(pairs, width), times)


def order_of(ngrams: UInt64[np.ndarray, " wanted"]) -> Int[np.ndarray, " wanted"]:
    """Return n - 1 of each n-gram."""
    shortest = np.array([1 << BITS * n for n in range(1, LONGEST)], np.uint64)
    return np.searchsorted(shortest, ngrams, side="right")


def find(table: Ngrams, wanted: UInt64[np.ndarray, " wanted"]) -> Int[np.ndarray, " wanted"]:
    """Return where each n-gram stands in a rising table, -1 where it is not there."""
    place = np.searchsorted(table, wanted)
    place[place == len(table)] = -1
    place[(table[place] if len(table) else 0) != wanted] = -1
    return place


def sum_by_order(
    values: Float[np.ndarray, " entry"],
    row: Int[np.ndarray, " entry"],
    order: Int[np.ndarray, " entry"],
    rows: int,
) -> Float[np.ndarray, "{rows} order"]:
    """Return the sums of entries of one row and one order, which is n - 1."""
    sums = np.bincount(row * LONGEST + order, values, minlength=rows * LONGEST)
    return sums.reshape(rows, LONGEST).astype(np.float64)  # bincount has integers of no entries
