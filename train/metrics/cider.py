"""Count the n-grams of many captions at once; an n-gram is a number."""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int, UInt64

from ...base.errors import ClipfeatError

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


AT_A_TIME = 4096  # images that are counted together: COCO's at once would take 3 GB


class Ending(NamedTuple):
    """The token that ends a caption, and whether it is a word, as in "dog <end>".

    What stands from that token on is padding. Where it is a word, every reference ends with it,
    but a caption that was cut off does not.
    """

    token: int
    is_word: bool

    def captions(self, captions: Words) -> Words:
        """Return the words of captions, which may be padded."""
        return [
            caption[: caption.index(self.token) + self.is_word]
            if self.token in caption
            else caption
            for caption in captions
        ]

    def references(self, references: Words) -> Words:
        """Return the words of references, whether or not they have the token at their ends."""
        return self.captions([[*reference, self.token] for reference in references])


class References(NamedTuple):
    """The counts of n-grams in the references of images.

    References are numbered through all images. An entry says how often an n-gram is in a
    reference; entries rise by image, then by n-gram.
    """

    ending: Ending
    references_of: Int[np.ndarray, " image+1"]  # where an image's begin, and those of the last end
    lengths: Int[np.ndarray, " reference"]  # in words
    entries_of: Int[np.ndarray, " image+1"]
    ngram: UInt64[np.ndarray, " entry"]  # packed
    reference: Int[np.ndarray, " entry"]
    times: Int[np.ndarray, " entry"]


class DocumentFrequencies(NamedTuple):
    """In the references of how many images an n-gram occurs."""

    ngrams: Ngrams  # packed, rising
    images: Int[np.ndarray, " ngram"]
    documents: int  # images in all


def count_references(references: Sequence[Words], *, end: int, end_is_word: bool) -> References:
    """Count the n-grams of each image's references, which are sequences of token ids.

    Raises ClipfeatError for an image without references, for none with a word in it, and for a
    token that is not one of 0..65534.
    """
    without = [image for image, own in enumerate(references) if not len(own)]
    if without or not references:
        raise ClipfeatError(
            f"{len(without)} of {len(references)} images have no references, such as {without[:3]}"
        )
    ending = Ending(end, end_is_word)
    per_image = np.fromiter(map(len, references), np.int64, len(references))
    lengths: list[int] = []
    entries, ngrams, numbers, times = [], [], [], []
    for start in range(0, len(references), AT_A_TIME):
        part = references[start : start + AT_A_TIME]
        words = ending.references([reference for own in part for reference in own])
        image_of = np.repeat(np.arange(len(part)), per_image[start : start + AT_A_TIME])
        found = count_ngrams(words)
        image = image_of[found.caption]
        order = np.lexsort((found.ngram, image))
        entries.append(np.bincount(image, minlength=len(part)))
        ngrams.append(found.distinct[found.ngram[order]])
        numbers.append((found.caption[order] + len(lengths)).astype(np.int32))
        times.append(found.times[order].astype(np.int32))
        lengths += map(len, words)
    if not any(lengths):
        raise ClipfeatError(f"the references of {len(references)} images hold no word")
    return References(
        ending,
        ends(per_image),
        np.array(lengths),
        ends(np.concatenate(entries)),
        np.concatenate(ngrams),
        np.concatenate(numbers),
        np.concatenate(times),
    )


def document_frequencies(references: References) -> DocumentFrequencies:
    """Return in the references of how many images each n-gram occurs."""
    ngram, begins = references.ngram, references.entries_of
    first = np.ones(len(ngram), bool)  # of its image's entries that are of this n-gram
    first[1:] = ngram[1:] != ngram[:-1]
    first[begins[begins < len(ngram)]] = True
    ngrams, images = np.unique(ngram[first], return_counts=True)
    return DocumentFrequencies(ngrams, images, len(begins) - 1)


def ends(sizes: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row+1"]:
    """Return where rows of these sizes begin, one after the other, and where the last ends."""
    return np.concatenate([[0], np.cumsum(sizes)])


SIGMA = 6.0  # words, of the Gaussian by which another length than the reference's costs
SCALE = 10.0

Numbers = Int[np.ndarray, " _"]


class CiderD:
    """Scores captions of the images whose references it was given.

    >>> references = count_references([[[5, 6, 7, 8]], [[5, 9]]], end=0, end_is_word=False)
    >>> cider = CiderD(references, document_frequencies(references))
    >>> cider.scores([[5, 6, 7, 8, 0, 0], [7]], [0, 1])
    array([10.,  0.])
    """

    def __init__(self, references: References, frequencies: DocumentFrequencies):
        """Weigh the references by document frequencies: their own, or a training set's."""
        self._references = references
        self._ngrams = frequencies.ngrams
        # An n-gram of no reference counts as one of a single image; -1 of `find` is the last.
        images = np.append(frequencies.images, 1)
        self._idf = np.log(frequencies.documents) - np.log(images)
        idf = self._idf[find(self._ngrams, references.ngram)]
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
        captions: Words | Int[np.ndarray, "caption token"],
        images: Sequence[int] | Int[np.ndarray, " caption"],
    ) -> Float64[np.ndarray, " caption"]:
        """Return the CIDEr-D, 0 to 10, of each caption as one of its image.

        Captions end before the first end token, if they have one; `images` are positions in what
        the references were counted from. Raises ClipfeatError for a token beyond 65534.
        """
        refs, images = self._references, np.asarray(images, np.int64)
        words = captions.tolist() if isinstance(captions, np.ndarray) else captions
        words = refs.ending.captions(words)
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        counts = count_ngrams(words)
        idf = self._idf[find(self._ngrams, counts.distinct)][counts.ngram]
        order = order_of(counts.distinct)[counts.ngram]
        squares = sum_by_order((counts.times * idf) ** 2, counts.caption, order, len(words))

        # A pair is a caption and one of the references of its image.
        pairs = refs.references_of[images + 1] - refs.references_of[images]
        caption = np.repeat(np.arange(len(words)), pairs)
        reference = _ranges(refs.references_of[images], pairs)
        mine, other = _shared(counts, images, refs)
        pair = (ends(pairs)[:-1] - refs.references_of[images])[counts.caption[mine]]
        # Both vectors have the idf in common, so that weights are clipped where counts are.
        clipped = np.minimum(counts.times[mine], refs.times[other])
        products = clipped * refs.times[other] * idf[mine] ** 2
        dots = sum_by_order(products, pair + refs.reference[other], order[mine], len(caption))
        norms = np.sqrt(squares)[caption] * self._norms[reference]
        cosines = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)

        longer = _bigrams(lengths[caption]) - _bigrams(refs.lengths[reference])
        similar = cosines.mean(axis=1) * np.exp(-(longer**2) / (2 * SIGMA**2))
        return SCALE * np.bincount(caption, similar, minlength=len(words)) / pairs


def _shared(counts: Counts, images: Numbers, refs: References) -> tuple[Numbers, Numbers]:
    """Return each entry of a caption beside each of its image's references with that n-gram.

    Both are positions: in the entries of `counts` and in those of `refs`.
    """
    batch, slot = np.unique(images, return_inverse=True)
    sizes = refs.entries_of[batch + 1] - refs.entries_of[batch]
    entry = _ranges(refs.entries_of[batch], sizes)
    ngram = find(counts.distinct, refs.ngram[entry])
    known = ngram >= 0
    # Numbers of (image, n-gram), which rise as the references' entries do.
    theirs = (np.repeat(np.arange(len(batch)), sizes) * len(counts.distinct) + ngram)[known]
    mine = slot[counts.caption] * len(counts.distinct) + counts.ngram
    first = np.searchsorted(theirs, mine)
    hits = np.searchsorted(theirs, mine, side="right") - first
    return np.repeat(np.arange(len(mine)), hits), entry[known][_ranges(first, hits)]


def _ranges(starts: Numbers, sizes: Numbers) -> Numbers:
    """Return the numbers of all ranges: `sizes[0]` from `starts[0]` on, and so forth."""
    return np.repeat(starts - ends(sizes)[:-1], sizes) + np.arange(sizes.sum())


def _bigrams(lengths: Numbers) -> Numbers:
    return np.maximum(lengths - 1, 0)


END = 0  # the first word is 1


class TextCider:
    """Scores captions of images by the words of their references, with their own frequencies.

    The numbers are those of pycocoevalcap's CIDEr on the same words. With `end_is_word`, for
    rewards, the end of a caption is a word, so that one that was cut off lacks it.
    """

    def __init__(self, references: Sequence[Sequence[str]], *, end_is_word: bool) -> None:
        """Count the references of each image; words have one space between two."""
        words = dict.fromkeys(word for own in references for text in own for word in text.split())
        self._numbers = {word: number for number, word in enumerate(words, start=END + 1)}
        counted = count_references(
            [
                [[self._numbers[word] for word in text.split()] for text in own]
                for own in references
            ],
            end=END,
            end_is_word=end_is_word,
        )
        self._cider = CiderD(counted, document_frequencies(counted))

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
        strangers: dict[str, int] = {}  # words of no reference
        first = END + 1 + len(self._numbers)

        def number(word: str) -> int:
            known = self._numbers.get(word)
            return strangers.setdefault(word, first + len(strangers)) if known is None else known

        tokens = [
            [*map(number, caption.split()), *([END] if whole else [])]
            for caption, whole in zip(captions, ended, strict=True)
        ]
        return self._cider.scores(tokens, images)
