"""CIDEr-D: worked by hand, and as pycocoevalcap's scorer computes it from strings."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from pycocoevalcap.cider.cider_scorer import CiderScorer
from refused import refuses

from clipfeat.train.metrics import cider as cider_module
from clipfeat.train.metrics.cider import CiderD, count_references, document_frequencies

END = 9
LAST = 65_534  # the largest token there may be
Sentences = list[list[int]]


def cider_of(references: list[Sentences], *, end_is_word: bool = False) -> CiderD:
    counted = count_references(references, end=END, end_is_word=end_is_word)
    return CiderD(counted, document_frequencies(counted))


def text(words: Sequence[int]) -> str:
    return " ".join(map(str, words))


def theirs(captions: Sentences, references: list[Sentences]) -> np.ndarray:
    """Return the library's scores of a caption for each image, with frequencies of these."""
    scorer = CiderScorer()
    for caption, own in zip(captions, references, strict=True):
        scorer += (text(caption), [text(reference) for reference in own])
    return scorer.compute_score()[1]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        # Two images with one reference each, [1, 2] and [3, 4]: every idf is ln 2 and drops out.
        ([1, 2], 10 * (1 + 1) / 4),  # there are no 3-grams and no 4-grams
        ([2], 10 * (1 / math.sqrt(2)) / 4 * math.exp(-1 / 72)),
        # Counts 2 and 1 of words: the 2 is clipped to 1 in the product, but not in the norm.
        ([1, 1, 2], 10 * (2 / math.sqrt(10) + 1 / math.sqrt(2)) / 4 * math.exp(-1 / 72)),
        ([3, 4], 0.0),
        ([5, 6], 0.0),
        ([], 0.0),
    ],
)
def test_scores_worked_by_hand(caption: list[int], expected: float) -> None:
    cider = cider_of([[[1, 2]], [[3, 4]]])
    assert cider.scores([caption], [0]) == pytest.approx([expected], abs=1e-12)


def test_frequencies_count_images() -> None:
    counted = count_references([[[1, 2], [1]], [[1, 1]], [[3]]], end=END, end_is_word=False)
    ngrams, images, documents = document_frequencies(counted)
    # Words are tokens + 1 in 16 bits each: 1, 2, 3, then "1 1" and "1 2".
    assert ngrams.tolist() == [2, 3, 4, 0x00020002, 0x00020003]
    assert (images.tolist(), documents) == ([2, 1, 1, 1, 1], 3)


def sentence(rng: np.random.Generator) -> list[int]:
    """Return up to 13 words, of which few are common; token 0 and the last one are among them."""
    ranks = np.minimum(rng.zipf(1.3, rng.integers(0, 14)), 300) - 1
    return [END - 1 if rank == END else LAST if rank == 2 else int(rank) for rank in ranks]


def worlds(seed: int, images: int) -> tuple[np.random.Generator, list[Sentences]]:
    rng = np.random.default_rng(seed)
    return rng, [[sentence(rng) for _ in range(rng.integers(1, 7))] for _ in range(images)]


def said_of(rng: np.random.Generator, own: Sentences) -> list[int]:
    """Return words of a reference and others."""
    return own[0][: rng.integers(0, 12)] + sentence(rng)[: rng.integers(0, 5)]


def test_thousands_of_captions_score_as_with_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cider_module, "AT_A_TIME", 7)
    rng, references = worlds(0, images=300)
    rounds = [[said_of(rng, own) for own in references] for _ in range(8)]
    expected = np.concatenate([theirs(captions, references) for captions in rounds])
    # All in one batch, in no order: several captions of an image, images between each other.
    captions = [caption for captions in rounds for caption in captions]
    order = rng.permutation(len(captions))
    got = cider_of(references).scores([captions[k] for k in order], order % len(references))
    assert got.dtype == np.float64
    assert np.abs(got - expected[order]).max() < 1e-9
    assert np.count_nonzero(expected) > 1500


@pytest.mark.parametrize(
    "captions",
    [
        [[], [], [], []],
        [[1], [0], [LAST], [7]],
        [[1, 1, 1, 1, 1, 1], [0, 0], [LAST] * 9, [1, 0, 1, 0, 1, 0]],
        [[500, 501], [1, 2, 500, 3, 4], [LAST, LAST - 1], [7] * 40],
        [[1, 2, 3, 4], [0, 0, 0, 0], [LAST] * 4, [7, 8]],
        [[3, 4, 1, 2], [0], [LAST, 0, LAST, 0], [8, 7]],
    ],
)
def test_odd_captions_score_as_with_the_library(captions: Sentences) -> None:
    references = [[[1, 2, 3, 4], [1, 1, 2]], [[0, 0, 0, 0], []], [[LAST] * 4], [[7], [7, 8], [8]]]
    expected = theirs(captions, references)
    assert cider_of(references).scores(captions, [0, 1, 2, 3]) == pytest.approx(expected, abs=1e-9)


def test_frequencies_of_training_score_other_images() -> None:
    _, training = worlds(1, images=150)
    rng, references = worlds(2, images=150)  # as many: the library takes ln N from these
    captions = [said_of(rng, own) for own in references]
    scorer, trained = CiderScorer(), CiderScorer()
    for caption, own in zip(captions, references, strict=True):
        scorer += (text(caption), [text(reference) for reference in own])
    for own in training:
        trained += ("", [text(reference) for reference in own])
    trained.compute_doc_freq()
    scorer.document_frequency = trained.document_frequency
    expected = np.array(scorer.compute_cider())

    counted = count_references(references, end=END, end_is_word=False)
    frequencies = document_frequencies(count_references(training, end=END, end_is_word=False))
    got = CiderD(counted, frequencies).scores(captions, range(150))
    assert np.abs(got - expected).max() < 1e-9
    assert expected.max() > 5


PADDED = np.array([[1, 2, 3, END, 0], [1, 2, END, 3, END], [1, 2, 3, 4, 5], [END, 1, 2, 3, 4]])


@pytest.mark.parametrize(
    ("end_is_word", "captions"),
    [
        (False, [[1, 2, 3], [1, 2], [1, 2, 3, 4, 5], []]),
        # One that was cut off has no end.
        (True, [[1, 2, 3, END], [1, 2, END], [1, 2, 3, 4, 5], [END]]),
    ],
)
def test_a_caption_ends_at_its_end_token(*, end_is_word: bool, captions: Sentences) -> None:
    references = [[[1, 2, 3], [2, 3]], [[1, 2, 4]], [[3, 4, 5], [1, 2]], [[6, 7]]]
    ended = [[[*reference, *[END] * end_is_word] for reference in own] for own in references]
    expected = theirs(captions, ended)
    cider = cider_of(references, end_is_word=end_is_word)
    assert cider.scores(PADDED, [0, 1, 2, 3]) == pytest.approx(expected, abs=1e-12)
    # References may have the token at their ends already.
    marked = [[[*reference, END, END] for reference in own] for own in references]
    again = cider_of(marked, end_is_word=end_is_word).scores(PADDED, [0, 1, 2, 3])
    assert again.tolist() == cider.scores(PADDED, [0, 1, 2, 3]).tolist()


@pytest.mark.parametrize("token", [-1, LAST + 1])
def test_a_token_that_cannot_be_packed_is_refused(token: int) -> None:
    with refuses("E-CIDER-TOKEN", f"token {token}: "):
        cider_of([[[1, token]]])
    with refuses("E-CIDER-TOKEN", f"token {token}: "):
        cider_of([[[1]]]).scores([[token, 1]], [0])


@pytest.mark.parametrize(
    ("references", "named"),
    [
        ([[[1]], []], "1 of 2 images have no references, such as [1]"),
        ([], "0 of 0 images"),
        ([[[]], [[END]]], "2 images"),
    ],
)
def test_references_without_words_are_refused(references: list[Sentences], named: str) -> None:
    with refuses("E-REFERENCES-EMPTY", named):
        count_references(references, end=END, end_is_word=False)
