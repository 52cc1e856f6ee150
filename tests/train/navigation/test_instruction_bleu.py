"""BLEU-4 with the shortest reference's length, against values worked by hand."""

import math

import pytest

from clipfeat.train.metrics.bleu import corpus_bleu


def test_worked_by_hand():
    """Of the first text, 6 words: matches of n-grams 5 of 6, 3 of 5, 2 of 4, 1 of 3.

    It has "go" once more than any reference, so that only one counts. The second is the
    reference but one word shorter: 4 of 4, 3 of 3, 2 of 2, 1 of 1.
    """
    written = ["walk past the table go go", "turn left and wait"]
    references = [
        ["walk past the table then go right now please", "go past the table"],
        ["turn left and wait here"],
    ]
    # Shortest references: 4 and 5 words; written: 6 and 4. So 10 words are enough for 9.
    first = (5 + 4, 6 + 4), (3 + 3, 5 + 3), (2 + 2, 4 + 2), (1 + 1, 3 + 1)
    product = math.prod(right / total for right, total in first)
    assert corpus_bleu(written, references) == pytest.approx(product**0.25, rel=1e-6)


def test_the_brevity_is_against_the_shortest_reference():
    """4 words of a reference of 8 beside one of 6: exp(1 - 6/4), where the nearest is 6 too.

    With references of 3 and 5 words and a text of 4, the nearest might be either and the
    shortest is 3: no penalty.
    """
    long, longer = "a b c d e f", "a b c d x y z q"
    assert corpus_bleu(["a b c d"], [[longer, long]]) == pytest.approx(math.exp(-0.5), rel=1e-6)
    assert corpus_bleu(["a b c d"], [["a b c d e", "x y z"]]) == pytest.approx(1, rel=1e-6)
    # Nearest would be 9 of (4, 9): exp(1 - 9/8).
    eight = "a b c d e f g h"
    assert corpus_bleu([eight], [[f"{eight} i", "a b c d"]]) == pytest.approx(1, rel=1e-6)


def test_no_four_words_in_a_row_are_no_score():
    assert corpus_bleu(["a b c x e f"], [["a b c d e f"]]) < 1e-3
    assert corpus_bleu([""], [["a b c d"]]) < 1e-3
    assert corpus_bleu([], []) == 0
