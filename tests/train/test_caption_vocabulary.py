"""Vocabularies of captions: which words, round trips, and files that are not vocabularies."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from refused import refuses

from clipfeat.base.jsonio import write_json
from clipfeat.train.data.caption_vocabulary import (
    BEGIN,
    END,
    SPECIAL_TOKENS,
    WORD_START,
    BpeVocabulary,
    CaptionVocabulary,
    CaptionWordVocabulary,
    build_bpe,
    build_caption_words,
    read_caption_vocabulary,
)
from clipfeat.train.data.vocabulary import PADDING, UNKNOWN

TEXTS = ["low low low low low", "lower lower", "newest " * 6, "widest " * 3]


def test_the_first_tokens_do_not_stand_for_words() -> None:
    assert (PADDING, UNKNOWN, BEGIN, END, SPECIAL_TOKENS) == (0, 1, 2, 3, 4)


def test_words_that_occur_more_than_five_times_are_kept() -> None:
    texts = ["b " * 6, "c " * 5, "a b a a", "a a a"]
    assert build_caption_words(texts).words == ("a", "b")
    assert build_caption_words(texts, min_count=5).words == ("a", "b", "c")
    with refuses("E-VOCAB-EMPTY", "3 words", "8 times"):
        build_caption_words(texts, min_count=8)


def test_words_to_tokens_and_back() -> None:
    vocabulary = CaptionWordVocabulary(("a", "café", "man's"))
    assert vocabulary.size == 7
    assert vocabulary.encode("a man's hat café") == [4, 6, 1, 5]
    assert vocabulary.encode("") == []
    assert vocabulary.decode([BEGIN, 4, 6, 1, END, 5, PADDING]) == "a man's <unk>"
    assert vocabulary.decode([BEGIN, END]) == ""


def test_pairs_merge_in_the_order_of_their_counts() -> None:
    """The words of Sennrich et al. 2016, section 3.2, with _ before a word: es, est, _l, _lo.

    e s and s t are there 9 times each, and the first in the alphabet goes first; then es t.
    Of the pairs that are there 7 times, _l and lo, l comes before _, and so lo, _lo.
    """
    merges = build_bpe(TEXTS, size=40).merges
    assert merges[:4] == (("e", "s"), ("es", "t"), ("l", "o"), (WORD_START, "lo"))


def test_parts_of_words_make_the_words_again() -> None:
    vocabulary = build_bpe(TEXTS, size=40)
    assert vocabulary.size <= 40
    for text in ("low", "lower newest", "wow new", "lowest widest"):
        tokens = vocabulary.encode(text)
        assert min(tokens) >= SPECIAL_TOKENS
        assert vocabulary.decode([BEGIN, *tokens, END, 5]) == text
    assert len(vocabulary.encode("newest")) == 1
    assert vocabulary.encode("zz")[-2:] == [UNKNOWN, UNKNOWN]
    assert vocabulary.decode(vocabulary.encode("low zz")) == "low <unk><unk>"
    assert vocabulary.encode("<unk>").count(UNKNOWN) == 4  # < u k >, as no caption has them


def test_bpe_is_the_same_each_time() -> None:
    """Equally frequent pairs are merged in alphabetical order.

    The library's hash tables have another order each time that they are made.
    """
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefgh", k=5)) for _ in range(200)]
    first = build_bpe(words, size=200).record()
    assert all(build_bpe(iter(words), size=200).record() == first for _ in range(3))


def test_bpe_wants_room_for_the_letters() -> None:
    with refuses("E-VOCAB-SIZE", "10 tokens"):
        build_bpe(TEXTS, size=10)


@pytest.mark.parametrize(
    "vocabulary", [CaptionWordVocabulary(("a", "café")), build_bpe([*TEXTS, "café"], size=40)]
)
def test_a_vocabulary_comes_back_from_its_file(
    tmp_path: Path, vocabulary: CaptionVocabulary
) -> None:
    path = tmp_path / "vocabulary.json"
    write_json(path, vocabulary.record())
    back = read_caption_vocabulary(path)
    assert type(back) is type(vocabulary)
    assert back.record() == vocabulary.record() == json.loads(path.read_text())
    assert back.size == vocabulary.size
    assert back.encode("a low café") == vocabulary.encode("a low café")


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        ([], "E-JSON-TYPE", "expected an object with 'kind'"),
        ({"kind": "pickle"}, "E-VOCAB-KIND", "'pickle'"),
        ({"kind": 3}, "E-JSON-TYPE", "kind"),
        ({"kind": "words"}, "E-JSON-KEY", "'words'"),
        ({"kind": "words", "words": [3]}, "E-VOCAB-TEXTS", "words"),
        ({"kind": "words", "words": ["\ud800"]}, "E-VOCAB-TEXTS", "words"),
        ({"kind": "bpe", "pieces": ["a"], "merges": ["ab"]}, "E-VOCAB-MERGES", "merges[0]"),
        ({"kind": "bpe", "pieces": ["a"], "merges": [["a"]]}, "E-VOCAB-MERGES", "merges[0]"),
        ({"kind": "bpe", "pieces": ["a"], "merges": [["a", None]]}, "E-VOCAB-TEXTS", "merges"),
        ({"kind": "bpe", "pieces": ["a"], "merges": [["a", "x"]]}, "E-VOCAB-MERGES", "x"),
        ({"kind": "bpe", "pieces": [None], "merges": []}, "E-VOCAB-TEXTS", "pieces"),
    ],
)
def test_a_file_that_is_not_a_vocabulary_is_named(
    tmp_path: Path, content: Any, code: str, named: str
) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps(content))
    with refuses(code, f"{path}: ", named):
        read_caption_vocabulary(path)


def test_bpe_refuses_merges_of_unknown_parts() -> None:
    with pytest.raises(ValueError, match="out of vocabulary"):
        BpeVocabulary(("a",), (("a", "b"),))
