"""The words of instructions, by hand from the rule of R2R's tokenizer."""

import re
import unicodedata

import numpy as np
import pytest

from clipfeat.train.navigation.words import build_words, split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Turn LEFT, then stop.", "turn left , then stop ."),
        ("wait... then go", "wait ... then go"),
        ("by the o'clock_sign", "by the o ' clock_sign"),
        ('the "red" door).', 'the " red " door ) .'),
        ("go!?", "go ! ?"),
        ("  \n ", ""),
        ("a. , b", "a|. ,|b"),  # as published: marks with a space between them are one word
        ("कमरे की ओर मुड़ें।", "कमरे की ओर मुड़ें ।"),
        ("తలుపు వైపు తిరగండి.", "తలుపు వైపు తిరగండి ."),
    ],
)
def test_words_and_punctuation(text: str, words: str) -> None:
    assert split_words(text) == [
        unicodedata.normalize("NFC", word) for word in words.split("|" if "|" in words else None)
    ]


def test_english_is_split_as_by_the_published_expression() -> None:
    """On texts of ASCII, the pieces of the published expression, before punctuation is split."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abC9_ '..,\n-"))
    for _ in range(300):
        text = "".join(rng.choice(letters, 30))
        pieces = [piece.strip() for piece in re.split(r"(\W+)", text.lower())]
        expected = []
        for piece in filter(None, pieces):
            is_marks = not re.search(r"[a-z0-9\s]", piece)
            expected += piece if is_marks and set(piece) != {"."} else [piece]
        assert split_words(text) == expected


def test_tokens_are_numbered_by_frequency() -> None:
    words = build_words(["b b b . a c . c"] * 2, min_count=3)
    assert words.words == ("b", ".", "c")
    assert (words.size, words.begin) == (7, 6)
    assert words.spelled == ("", "", "", "b", ".", "c", "")
    tokens = words.encode(["C b a", "", "b b b b b"], max_tokens=5)
    assert tokens.tolist() == [[6, 5, 3, 1, 2], [6, 2, 0, 0, 0], [6, 3, 3, 3, 2]]
    assert words.known(tokens).tolist() == [True, False, True]
    assert words.known(words.encode(["a ."])).tolist() == [False]
    assert words.decode(tokens[0].tolist()) == "c b"
    assert words.decode([5, 3, 2, 3]) == "c b"


def test_words_that_occur_five_times_are_kept_and_texts_have_78_words() -> None:
    words = build_words(["a b"] * 4 + ["a"])
    assert words.words == ("a",)
    row = words.encode([" ".join("a" * 100)])[0].tolist()
    assert row == [words.begin, *[3] * 78, 2]
