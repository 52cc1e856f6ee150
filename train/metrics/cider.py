"""CIDEr-D (Vedantam et al. 2015, CIDEr, section 4) of many captions at once.

A caption is a sequence of tokens, an n-gram of it one number of 64 bits.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int, UInt64

from ...base.errors import ClipfeatError

MAX_N = 4  # n-grams have n = 1, 2, 3, 4
BITS = 16  # of a word, so that four fill 64
TOKENS = (1 << BITS) - 1  # one less than 16 bits hold: a word is its token + 1, and never 0
SIGMA = 6.0  # words; of the Gaussian that penalizes another length than the reference's
SCALE = 10.0
AT_A_TIME = 4096  # images that are counted together: COCO's at once would take 3 GB

TokenLists = Sequence[Sequence[int]]  # the tokens of captions
Ngrams = UInt64[np.ndarray, " ngram"]
Numbers = Int[np.ndarray, " _"]


class NgramCounts(NamedTuple):
    """How often an n-gram is in a caption: one entry for each pair with a count above 0.

    Entries are sorted by caption, then by n-gram.
    """

    distinct: Ngrams  # of all captions, sorted
    caption: Int[np.ndarray, " entry"]
    ngram: Int[np.ndarray, " entry"]  # positions in `distinct`
    times: Int[np.ndarray, " entry"]


def count_ngrams(captions: TokenLists) -> NgramCounts:
    """Count the n-grams of captions.

    An n-gram is packed into 64 bits, its last word in the lowest; since no word is 0, different
    n-grams of any length are different numbers. Raises ClipfeatError (E-CIDER-TOKEN) for a token
    outside 0..65534.
    """
    lengths = np.fromiter(map(len, captions), np.int64, len(captions))
    tokens = np.fromiter(chain.from_iterable(captions), np.int64, lengths.sum())
    wrong = tokens[(tokens < 0) | (tokens >= TOKENS)]
    if len(wrong):
        raise ClipfeatError(
            f"token {wrong[0]}: n-grams are counted for token ids 0 to {TOKENS - 1}, since four "
            "words are packed into 64 bits; use a smaller vocabulary",
            code="E-CIDER-TOKEN",
        )
    words = (tokens + 1).astype(np.uint64)
    caption_of = np.repeat(np.arange(len(captions)), lengths)
    ngrams, counted = words, [(caption_of, words)]
    for more in range(1, MAX_N):
        ngrams = ngrams[:-1] << np.uint64(BITS) | words[more:]
        first = caption_of[: len(ngrams)]
        whole = first == caption_of[more:]  # it begins and ends in one caption
        counted.append((first[whole], ngrams[whole]))
    rows, packed = (np.concatenate(parts) for parts in zip(*counted, strict=True))
    distinct, ngram = np.unique(packed, return_inverse=True)
    width = max(1, len(distinct))
    pairs, times = np.unique(rows * width + ngram, return_counts=True)
    return NgramCounts(distinct, *np.divmod(pairs, width), times)


def order_of(ngrams: UInt64[np.ndarray, " wanted"]) -> Int[np.ndarray, " wanted"]:
    """Return n - 1 of each n-gram."""
    shortest = np.array([1 << BITS * n for n in range(1, MAX_N)], np.uint64)
    return np.searchsorted(shortest, ngrams, side="right")


def positions_of(
    wanted: UInt64[np.ndarray, " wanted"], table: Ngrams
) -> Int[np.ndarray, " wanted"]:
    """Return the position of each n-gram in a sorted table, -1 where it is not in it."""
    position = np.searchsorted(table, wanted)
    position[position == len(table)] = -1
    position[(table[position] if len(table) else 0) != wanted] = -1
    return position


def sum_by_order(
    values: Float[np.ndarray, " entry"],
    row: Int[np.ndarray, " entry"],
    order: Int[np.ndarray, " entry"],
    rows: int,
) -> Float[np.ndarray, "{rows} order"]:
    """Return the sums of the entries of each row and order, which is n - 1."""
    sums = np.bincount(row * MAX_N + order, values, minlength=rows * MAX_N)
    return sums.reshape(rows, MAX_N).astype(np.float64)  # of no entries, bincount returns integers


class Ending(NamedTuple):
    """The token that ends a caption, and whether it counts as a word, as in "dog <end>".

    Everything after that token is padding. Where it counts as a word, every reference ends with
    it, but a caption that was cut off does not.
    """

    token: int
    is_word: bool

    def captions(self, captions: TokenLists) -> TokenLists:
        """Return the words of captions, which may be padded."""
        return [
            caption[: caption.index(self.token) + self.is_word]
            if self.token in caption
            else caption
            for caption in captions
        ]

    def references(self, references: TokenLists) -> TokenLists:
        """Return the words of references, with or without the token at their ends."""
        return self.captions([[*reference, self.token] for reference in references])


class ReferenceCounts(NamedTuple):
    """The counts of n-grams in the references of images.

    References are numbered across all images. An entry says how often an n-gram is in a
    reference; entries are sorted by image, then by n-gram.
    """

    ending: Ending
    references_of: Int[np.ndarray, " image+1"]  # image k has those from [k] to before [k + 1]
    lengths: Int[np.ndarray, " reference"]  # in words
    entries_of: Int[np.ndarray, " image+1"]
    ngram: UInt64[np.ndarray, " entry"]  # packed
    reference: Int[np.ndarray, " entry"]
    times: Int[np.ndarray, " entry"]


class DocumentFrequencies(NamedTuple):
    """The number of images in whose references an n-gram occurs."""

    ngrams: Ngrams  # packed, sorted
    images: Int[np.ndarray, " ngram"]
    documents: int  # images in all


def count_references(
    references: Sequence[TokenLists], *, end: int, end_is_word: bool
) -> ReferenceCounts:
    """Count the n-grams of each image's references, which are sequences of token ids.

    Raises ClipfeatError (E-REFERENCES-EMPTY) for an image without references and where no
    reference has a word, and as `count_ngrams` does.
    """
    without = [image for image, of_image in enumerate(references) if not len(of_image)]
    if without or not references:
        raise ClipfeatError(
            f"{len(without)} of {len(references)} images have no references, such as {without[:3]}",
            code="E-REFERENCES-EMPTY",
        )
    ending = Ending(end, end_is_word)
    per_image = np.fromiter(map(len, references), np.int64, len(references))
    lengths: list[int] = []
    entries, ngrams, numbers, times = [], [], [], []
    for start in range(0, len(references), AT_A_TIME):
        part = references[start : start + AT_A_TIME]
        words = ending.references([reference for of_image in part for reference in of_image])
        image_of = np.repeat(np.arange(len(part)), per_image[start : start + AT_A_TIME])
        counts = count_ngrams(words)
        image = image_of[counts.caption]
        order = np.lexsort((counts.ngram, image))
        entries.append(np.bincount(image, minlength=len(part)))
        ngrams.append(counts.distinct[counts.ngram[order]])
        numbers.append((counts.caption[order] + len(lengths)).astype(np.int32))
        times.append(counts.times[order].astype(np.int32))
        lengths += map(len, words)
    if not any(lengths):
        raise ClipfeatError(
            f"the references of {len(references)} images have no word", code="E-REFERENCES-EMPTY"
        )
    return ReferenceCounts(
        ending,
        bounds(per_image),
        np.array(lengths),
        bounds(np.concatenate(entries)),
        np.concatenate(ngrams),
        np.concatenate(numbers),
        np.concatenate(times),
    )


def document_frequencies(references: ReferenceCounts) -> DocumentFrequencies:
    """Return the number of images in whose references each n-gram occurs."""
    ngram, starts = references.ngram, references.entries_of
    first = np.ones(len(ngram), bool)  # among its image's entries of the same n-gram
    first[1:] = ngram[1:] != ngram[:-1]
    first[starts[starts < len(ngram)]] = True
    ngrams, images = np.unique(ngram[first], return_counts=True)
    return DocumentFrequencies(ngrams, images, len(starts) - 1)


def bounds(sizes: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row+1"]:
    """Return where consecutive rows of these sizes start, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(sizes)])


class CiderD:
    """Scores captions of images by the images' references.

    >>> references = count_references([[[5, 6, 7, 8]], [[5, 9]]], end=0, end_is_word=False)
    >>> cider = CiderD(references, document_frequencies(references))
    >>> cider.scores([[5, 6, 7, 8, 0, 0], [7]], [0, 1])
    array([10.,  0.])
    """

    def __init__(self, references: ReferenceCounts, frequencies: DocumentFrequencies):
        """Weigh the references by document frequencies: their own, or a training set's."""
        self._references = references
        self._ngrams = frequencies.ngrams
        # An n-gram of no reference counts as one of a single image, at -1 of `positions_of`.
        images = np.append(frequencies.images, 1)
        self._idf = np.log(frequencies.documents) - np.log(images)
        idf = self._idf[positions_of(references.ngram, self._ngrams)]
        self._norms = np.sqrt(
            sum_by_order(
                (references.times * idf) ** 2,
                references.reference,
                order_of(references.ngram),
                len(references.lengths),
            )
        )

    def scores(
        self,
        captions: TokenLists | Int[np.ndarray, "caption token"],
        images: Sequence[int] | Int[np.ndarray, " caption"],
    ) -> Float64[np.ndarray, " caption"]:
        """Return the CIDEr-D, 0 to 10, of each caption as one of its image.

        Captions end before the first end token, if they have one; `images` are positions in the
        references as they were counted. Raises ClipfeatError as `count_ngrams` does.
        """
        refs, images = self._references, np.asarray(images, np.int64)
        words = captions.tolist() if isinstance(captions, np.ndarray) else captions
        words = refs.ending.captions(words)
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        counts = count_ngrams(words)
        idf = self._idf[positions_of(counts.distinct, self._ngrams)][counts.ngram]
        order = order_of(counts.distinct)[counts.ngram]
        squares = sum_by_order((counts.times * idf) ** 2, counts.caption, order, len(words))

        # A pair is a caption and one of the references of its image.
        pairs = refs.references_of[images + 1] - refs.references_of[images]
        caption = np.repeat(np.arange(len(words)), pairs)
        reference = _ranges(refs.references_of[images], pairs)
        entry, ref_entry = _shared_entries(counts, images, refs)
        pair = (bounds(pairs)[:-1] - refs.references_of[images])[counts.caption[entry]]
        # Both vectors share the idf, so that clipping the counts clips the weights.
        clipped = np.minimum(counts.times[entry], refs.times[ref_entry])
        products = clipped * refs.times[ref_entry] * idf[entry] ** 2
        dots = sum_by_order(products, pair + refs.reference[ref_entry], order[entry], len(caption))
        norms = np.sqrt(squares)[caption] * self._norms[reference]
        cosines = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)

        longer = _bigrams(lengths[caption]) - _bigrams(refs.lengths[reference])
        similar = cosines.mean(axis=1) * np.exp(-(longer**2) / (2 * SIGMA**2))
        return SCALE * np.bincount(caption, similar, minlength=len(words)) / pairs


def _shared_entries(
    counts: NgramCounts, images: Numbers, refs: ReferenceCounts
) -> tuple[Numbers, Numbers]:
    """Return each entry of a caption with each of its image's entries of the same n-gram.

    Both are positions: in the entries of `counts` and in those of `refs`.
    """
    batch, slot = np.unique(images, return_inverse=True)
    sizes = refs.entries_of[batch + 1] - refs.entries_of[batch]
    entry = _ranges(refs.entries_of[batch], sizes)
    ngram = positions_of(refs.ngram[entry], counts.distinct)
    known = ngram >= 0
    # Numbers of (image, n-gram), sorted as the references' entries are.
    ref_keys = (np.repeat(np.arange(len(batch)), sizes) * len(counts.distinct) + ngram)[known]
    keys = slot[counts.caption] * len(counts.distinct) + counts.ngram
    first = np.searchsorted(ref_keys, keys)
    hits = np.searchsorted(ref_keys, keys, side="right") - first
    return np.repeat(np.arange(len(keys)), hits), entry[known][_ranges(first, hits)]


def _ranges(starts: Numbers, sizes: Numbers) -> Numbers:
    """Return the numbers of all ranges: `sizes[0]` numbers from `starts[0]`, and so on."""
    return np.repeat(starts - bounds(sizes)[:-1], sizes) + np.arange(sizes.sum())


def _bigrams(lengths: Numbers) -> Numbers:
    return np.maximum(lengths - 1, 0)


END = 0  # of TextCider; its first word is 1


class TextCider:
    """Scores captions of images by the words of the images' references.

    Document frequencies are those of these references, and the scores those of pycocoevalcap's
    CIDEr on the same words. With `end_is_word`, for rewards, the end of a caption is a word, so
    that one that was cut off lacks it.
    """

    def __init__(self, references: Sequence[Sequence[str]], *, end_is_word: bool) -> None:
        """Count the references of each image; words have one space between two."""
        words = (word for texts in references for text in texts for word in text.split())
        self._token_of = {word: n for n, word in enumerate(dict.fromkeys(words), start=END + 1)}
        counts = count_references(
            [
                [[self._token_of[word] for word in text.split()] for text in texts]
                for texts in references
            ],
            end=END,
            end_is_word=end_is_word,
        )
        self._cider = CiderD(counts, document_frequencies(counts))

    def scores(
        self,
        captions: Sequence[str],
        images: Sequence[int] | Int[np.ndarray, " caption"],
        *,
        ended: Sequence[bool],
    ) -> Float64[np.ndarray, " caption"]:
        """Return the CIDEr-D, 0 to 10, of each caption as one of its image.

        `images` are positions in the references; `ended` says which captions have their end.
        """
        new_words: dict[str, int] = {}  # that no reference has
        first = END + 1 + len(self._token_of)

        def token(word: str) -> int:
            known = self._token_of.get(word)
            return new_words.setdefault(word, first + len(new_words)) if known is None else known

        tokens = [
            [*map(token, caption.split()), *([END] if whole else [])]
            for caption, whole in zip(captions, ended, strict=True)
        ]
        return self._cider.scores(tokens, images)
