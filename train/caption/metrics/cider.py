"""CIDEr-D of many captions at once: the reward of self-critical training.

Vedantam et al. 2015, "CIDEr: Consensus-based Image Description Evaluation", section 4 and the
CIDEr-D of its appendix, as the published `cider_scorer.py` computes it, whose quirk is kept: a
caption is as long as its 2-grams are many, so that none and one word are equally long.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int

from .ngrams import Counts, Words, count_ngrams, find, order_of, sum_by_order
from .references import DocumentFrequencies, References, ends

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
