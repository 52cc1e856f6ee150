"""The references of images, counted once, and in how many images an n-gram occurs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt64

from ....base.errors import ClipfeatError
from .ngrams import Ngrams, Words, count_ngrams

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
