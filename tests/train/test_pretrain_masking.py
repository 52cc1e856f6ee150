"""What is hidden, replaced and sampled: shares against the binomial, and small cases by hand."""

import numpy as np
import pytest

from clipfeat.train.tasks.pretraining.masking import (
    IGNORED,
    RngStream,
    example_uniforms,
    mask_words,
    replace_texts,
    sample_cells,
)

PIECES = 200
PAD, UNK, CLS, SEP, MASK = range(5)
SPECIAL = np.arange(5)
N = 4000  # texts


def share_is(share: float, of: int, found: int) -> bool:
    """Return whether a binomial count is within five standard deviations of what is expected."""
    return abs(found - share * of) <= 5 * (share * (1 - share) * of) ** 0.5


@pytest.fixture(scope="module")
def texts() -> np.ndarray:
    """Texts of 3 to 10 pieces, of which some are unknown, between [CLS] and [SEP]."""
    random = np.random.default_rng(1)
    tokens = np.zeros((N, 12), dtype=np.int32)
    for row, length in zip(tokens, random.integers(3, 11, N), strict=True):
        row[: length + 2] = [CLS, *random.integers(5, PIECES, length), SEP]
        row[2] = random.choice([UNK, row[2]])
    return tokens


def masked(texts: np.ndarray, seed: int = 0, rate: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
    random = example_uniforms(seed, 0, RngStream.TEXT, np.arange(len(texts)), 2 * texts.shape[1])
    return mask_words(texts, random, rate=rate, special=SPECIAL, mask=MASK, pieces=PIECES)


def test_a_share_of_15_percent_is_chosen_of_which_80_10_10(texts: np.ndarray) -> None:
    hidden, labels = masked(texts)
    chosen, can_be = labels != IGNORED, texts >= 5
    assert share_is(0.15, can_be.sum(), chosen.sum())
    assert np.array_equal(labels[chosen], texts[chosen])
    assert np.array_equal(hidden[~chosen], texts[~chosen])
    is_mask, same = hidden[chosen] == MASK, (hidden == texts)[chosen]
    # One in 199 random pieces is what was there, and one is [MASK].
    assert share_is(0.8 + 0.1 / 199, chosen.sum(), is_mask.sum())
    assert share_is(0.1 + 0.1 / 199, chosen.sum(), same.sum())
    assert share_is(0.1 * 197 / 199, chosen.sum(), (~is_mask & ~same).sum())


def test_each_text_and_place_is_as_likely(texts: np.ndarray) -> None:
    _, labels = masked(texts)
    for place in range(texts.shape[1]):
        can_be = (texts[:, place] >= 5).sum()
        assert share_is(0.15, can_be, (labels[:, place] != IGNORED).sum())


def test_special_pieces_are_never_chosen(texts: np.ndarray) -> None:
    hidden, labels = masked(texts, rate=0.999)
    assert set(texts[:, 2]) > {UNK}
    assert not set(labels[labels != IGNORED]) & set(SPECIAL)
    assert np.array_equal(hidden[texts < 5], texts[texts < 5])
    assert masked(texts, rate=0.0)[1].max() == IGNORED


def test_a_random_piece_is_any_but_padding_which_would_not_be_read() -> None:
    texts = np.full((N, 12), 7, dtype=np.int32)
    random = example_uniforms(0, 0, RngStream.TEXT, np.arange(N), 24)
    random[:, 12:] = 0.8 + 0.1 * random[:, 12:]  # each one by a random one
    hidden, _ = mask_words(texts, random, rate=1.0, special=SPECIAL, mask=MASK, pieces=10)
    counts = np.bincount(hidden.ravel(), minlength=10)
    assert counts[0] == 0
    assert all(share_is(1 / 9, hidden.size, count) for count in counts[1:])
    for kind, piece in ((0.8, 1), (np.nextafter(0.9, 0), 9)):
        random[:, 12:] = kind
        hidden, _ = mask_words(texts, random, rate=1.0, special=SPECIAL, mask=MASK, pieces=10)
        assert (hidden == piece).all()


def test_a_text_is_replaced_by_the_first_candidate_of_another_image() -> None:
    texts, candidates = np.array([1, 2, 3, 4]), np.array([[9, 8]] * 4)
    own = np.array([[False, False], [True, False], [True, True], [False, True]])
    replaced = replace_texts(texts, candidates, own, np.array([0.4, 0.4, 0.4, 0.5]), rate=0.5)
    assert replaced.texts.tolist() == [9, 8, 3, 4]
    assert replaced.matched.tolist() == [False, False, True, True]


def test_cells_are_sampled_without_favour_from_the_real_ones() -> None:
    mask = np.ones((N, 9), dtype=bool)
    mask[:, [2, 7, 8]] = False
    random = example_uniforms(0, 0, RngStream.GRID, np.arange(N), 9)
    cells, real = sample_cells(mask, random, 4)
    assert real.all()
    assert (np.diff(cells, axis=1) > 0).all()  # in the grid's order, none twice
    counts = np.bincount(cells.ravel(), minlength=9)
    assert counts[[2, 7, 8]].tolist() == [0, 0, 0]
    assert all(share_is(4 / 6, N, counts[cell]) for cell in (0, 1, 3, 4, 5, 6))
    pairs = ((cells == 0).any(axis=1) & (cells == 1).any(axis=1)).sum()
    assert share_is(4 / 6 * 3 / 5, N, pairs)


def test_where_there_are_fewer_all_cells_are_taken() -> None:
    mask = np.array([[True, False, True, True, False], [False, False, True, False, False]])
    random = example_uniforms(0, 0, RngStream.GRID, np.arange(2), 5)
    for count in (3, 4, 5, 100):
        cells, real = sample_cells(mask, random, count)
        assert cells.shape == (2, min(count, 5))
        assert [cells[row, real[row]].tolist() for row in (0, 1)] == [[0, 2, 3], [2]]


def test_random_numbers_are_those_of_their_example_whoever_asks() -> None:
    several = example_uniforms(3, 1, RngStream.TEXT, np.array([4, 0, 9]), 6)
    for row, number in zip(several, (4, 0, 9), strict=True):
        assert np.array_equal(example_uniforms(3, 1, RngStream.TEXT, np.array([number]), 6)[0], row)
        assert np.array_equal(
            example_uniforms(3, 1, RngStream.TEXT, np.array([number]), 9)[0, :6], row
        )
    others = [
        example_uniforms(seed, epoch, purpose, np.array([number]), 6).tobytes()
        for seed in (3, 4)
        for epoch in (1, 2)
        for purpose in RngStream
        for number in (4, 5)
    ]
    assert len(set(others)) == 16
    assert several.min() >= 0
    assert several.max() < 1
