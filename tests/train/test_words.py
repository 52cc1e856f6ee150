"""Words of all scripts: by hand, by BERT's tokenizer, by Unicode's graphemes, and English as before."""
# ruff: noqa: RUF001 - letters and marks of other scripts look like those of English

import json
import random
import re
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import regex
from refused import refuses
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from clipfeat.train.data.caption_vocabulary import CaptionVocabulary, build_bpe, build_caption_words
from clipfeat.train.data.captions import read_captions
from clipfeat.train.data.snli_ve import read_pairs
from clipfeat.train.data.vocabulary import (
    Vocabulary,
    WordPieces,
    build_words,
    read_words,
    tokenize,
    train_pieces,
)
from clipfeat.train.data.vqa_files import read_questions
from clipfeat.train.tasks.captioning.examples import encode as encode_captions
from clipfeat.train.tasks.entailment import encode as encode_pairs
from clipfeat.train.tasks.pretraining.examples import encode as encode_corpus
from clipfeat.train.tasks.pretraining.examples import read_corpus
from clipfeat.train.tasks.vqa import encode as encode_questions

OF_ASCII = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")  # what made words when there was English alone
RUSSIAN = ("Какого цвета кошка?", "Сколько кошек на снимке?", "Кошка спит?")
ENGLISH = ("What colour is the cat?", "Is the cat asleep?", "How many cats are there?")


def test_words_of_ascii_are_what_they_were() -> None:
    rng = random.Random(0)
    letters = [chr(n) for n in range(128)] + list("abcXYZ019''  ") * 8
    for _ in range(5_000):
        text = "".join(rng.choices(letters, k=rng.randrange(40)))
        assert tokenize(text) == OF_ASCII.findall(text.lower()), text
        beyond = text + " é"  # by the way of all scripts
        assert tokenize(beyond) == [*OF_ASCII.findall(text.lower()), "é"], text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Un café noir, c'était ÇA.", ["un", "café", "noir", "c'était", "ça"]),
        ("l’été dans la cour d'honneur", ["l'été", "dans", "la", "cour", "d'honneur"]),
        ("What’s left? ‘Red’ or rock'n'roll", ["what's", "left", "red", "or", "rock'n", "roll"]),
        ("п'ять пʼять п’ять", ["п'ять"] * 3),
        ("Что это за животное?", ["что", "это", "за", "животное"]),
        ("Η γάτα ΤΗΣ ΠΟΛΗΣ;", ["η", "γάτα", "της", "πολης"]),
        ("यह बिल्ली किस रंग की है?", ["यह", "बिल्ली", "किस", "रंग", "की", "है"]),
        ("పిల్లి ఏ రంగులో ఉంది?", ["పిల్లి", "ఏ", "రంగులో", "ఉంది"]),
        ("ক্ষমা শিল্প", ["ক্ষমা", "শিল্প"]),
        ("می\u200cخواهم، گربه را", ["می\u200cخواهم", "گربه", "را"]),
        ("ශ්\u200dරී ලංකා", ["ශ්\u200dරී", "ලංකා"]),
        ("من هو؟ قِطّة ١٢٣", ["من", "هو", "قِطّة", "١٢٣"]),
        ("고양이가 무슨 색이에요?", ["고양이가", "무슨", "색이에요"]),
        ("这只猫是什么颜色的？", list("这只猫是什么颜色的")),
        ("3只猫、iPhone手机", ["3", "只", "猫", "iphone", "手", "机"]),
        ("コーヒー・カップは何色？", list("コーヒーカップは何色")),
        ("ｶﾞﾗｽ", ["ｶﾞ", "ﾗ", "ｽ"]),
        ("ห้องน้ำ ๑๒", ["ห้", "อ", "ง", "น้ำ", "๑๒"]),
        ("ຂ້ອຍ", ["ຂ້", "ອ", "ຍ"]),
        ("ក្រុម", ["ក្", "រុ", "ម"]),
        ("မြန်မာ", ["မြ", "န်", "မာ"]),
        ("m² ½ 2nd snake_case — Zei\u00adtung", ["m²", "½", "2nd", "snake", "case", "zeitung"]),
        ("❤️ 👩‍🔬 ?! \ud800 \u0301 ’", []),
    ],
)
def test_words_by_hand(text: str, words: list[str]) -> None:
    assert tokenize(text) == words
    assert tokenize(unicodedata.normalize("NFD", text)) == tokenize(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What's in the man's bag?", ["what", "'s", "in", "the", "man", "'s", "bag"]),
        ("the dogs' tails aren't wet", ["the", "dogs", "tails", "aren't", "wet"]),
        ("It’s 5's", ["it", "'s", "5", "'s"]),
        ("c'était l's", ["c'était", "l", "'s"]),
        ("'s", ["s"]),
    ],
)
def test_models_read_a_possessive_as_a_word(text: str, words: list[str]) -> None:
    """As mmf does; GloVe has "what" and "'s"."""
    assert read_words(text) == words
    vocabulary = build_words([text] * 2)
    assert set(vocabulary.words) == set(words)
    tokens = vocabulary.encode([text], max_tokens=9)[0, : len(words)]
    assert [vocabulary.words[token - 2] for token in tokens] == words


def test_words_of_languages_with_spaces_are_those_of_bert() -> None:
    """Its tokenizer keeps accents and vowel signs where it is told to, and cuts Chinese."""
    texts = (*RUSSIAN, "Où est le café près du château ?", "¿De qué color es el gato del niño?")
    texts += (
        "Wie groß ist der Käfer, über dem Haus?",
        "这只猫是什么颜色的？",
        "이 고양이는 몇 살이에요?",
    )
    texts += ("यह बिल्ली किस रंग की है?", "పిల్లి ఏ రంగులో ఉంది?", "பூனை என்ன நிறம்?", "ما لون القطة؟")
    normalizer, cut = BertNormalizer(lowercase=True, strip_accents=False), BertPreTokenizer()
    for text in texts:
        pairs = cut.pre_tokenize_str(normalizer.normalize_str(text))
        expected = [word for word, _ in pairs if any(map(str.isalnum, word))]
        assert tokenize(text) == expected


@pytest.mark.parametrize(
    "text", ["แมวตัวนี้สีอะไร น้ำกี่แก้ว", "ແມວສີຫຍັງ ນ້ຳ", "これは何色のペンギンですか", "ベ\u3099"]
)
def test_letters_of_scripts_without_spaces_are_graphemes(text: str) -> None:
    composed = unicodedata.normalize("NFC", text)
    assert tokenize(text) == regex.findall(r"(?=\w)\X", composed)


def test_every_letter_is_a_word_however_it_is_composed() -> None:
    kinds = [unicodedata.category(chr(number))[0] for number in range(sys.maxunicode + 1)]
    letters = [chr(number) for number, kind in enumerate(kinds) if kind == "L"]
    letters.remove("\u02bc")  # is an apostrophe
    text = " ".join(letters)
    assert tokenize(text) == [unicodedata.normalize("NFC", x.lower()) for x in letters]
    assert tokenize(unicodedata.normalize("NFD", text)) == tokenize(text)
    none = "".join(chr(number) for number, kind in enumerate(kinds) if kind in "PZC")
    assert tokenize(none) == []


def test_pieces_keep_the_marks_of_their_training_texts() -> None:
    """An uncased BERT reads कि, कु and क as one letter, and "año" as "ano"."""
    texts = ["कि कु क", "año ano", "น้ำ"] * 2
    own = train_pieces(texts, size=200)
    assert {"क", "##ि", "##ु", "ñ", "น", "##้", "##ำ"} <= set(own.pieces) | {
        f"##{piece}" for piece in own.pieces
    }
    rows = own.encode(["कि", "कु", "क", "año", "ano", "an\u0303o"], max_tokens=8).tolist()
    assert len({tuple(row) for row in rows}) == 5
    berts = WordPieces(own.pieces).encode(["कु", "क"], max_tokens=8).tolist()
    assert berts[0] == berts[1]


def test_sentences_that_differ_in_a_vowel_sign_do_not_say_the_same(tmp_path: Path) -> None:
    """In pre-training one of them may replace the other; those that differ in a comma may not."""
    texts = ["कि कि", "कु कु", "कि, कि?"]
    (tmp_path / "a.json").write_text(json.dumps([{"img_id": "1", "sentf": {"a": texts}}]))
    letters = train_pieces(texts, size=5 + 2 * 5)  # no piece has two
    options = {"words": letters, "answers": (), "max_tokens": 9}
    sentences = encode_corpus(
        read_corpus([tmp_path / "a.json"]), "a", {"1"}, skip_missing=0, **options
    )
    first, other, same = sentences.meaning_of_text.tolist()
    assert (first == other, first == same) == (False, True)


def test_a_sentence_without_spaces_is_not_one_unknown_piece() -> None:
    """A word of more than 100 letters is one to BERT's tokenizer, and a Thai sentence such a word."""
    sentence = "แมวตัวนี้สีอะไร" * 10
    own = train_pieces([sentence], size=200)
    tokens = own.encode([sentence], max_tokens=400)
    assert own.number("[UNK]") not in tokens
    assert own.known(tokens).all()


def test_english_pieces_are_what_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["A striped cat's playing-dogs, 5 of them!", "the striped dogs' cat_play? wq qw"] * 3
    own = train_pieces(texts, size=120)
    monkeypatch.setattr("clipfeat.train.data.vocabulary._splits_words", _as_bert)
    before = train_pieces(texts, size=120)
    assert own.pieces == before.pieces
    bert = WordPieces(before.pieces)
    np.testing.assert_array_equal(
        own.encode(texts, max_tokens=40), bert.encode(texts, max_tokens=40)
    )


def _as_bert(tokenizer, *, keeps_marks, is_cased=False):
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    return tokenizer


def write_questions(folder: Path, texts: tuple[str, ...]) -> None:
    records = [{"question_id": n, "image_id": 1, "question": t} for n, t in enumerate(texts)]
    (folder / "questions_mine.json").write_text(json.dumps({"questions": records}))


def test_russian_questions_are_read(tmp_path: Path) -> None:
    write_questions(tmp_path, RUSSIAN * 2)
    split = read_questions("vqa2", tmp_path, "mine", annotated=False)
    words = build_words(question.text for question in split.questions)
    examples = encode_questions(split, Vocabulary(words, ("да",)), {"1"}, max_tokens=5)
    assert len(np.unique(examples.tokens, axis=0)) == 3
    assert (examples.tokens != 1).all()  # none unknown


@pytest.mark.parametrize("asked", [RUSSIAN, (*RUSSIAN, ENGLISH[0])], ids=["all", "most"])
def test_a_split_of_unknown_words_is_an_error(tmp_path: Path, asked: tuple[str, ...]) -> None:
    known = build_words(ENGLISH * 2)
    pieces = train_pieces(ENGLISH * 2, size=200)
    write_questions(tmp_path, asked)
    split = read_questions("vqa2", tmp_path, "mine", annotated=False)
    for words in (known, pieces):  # the question mark is a known piece, and no word
        with refuses("E-TEXT-UNKNOWN"):
            encode_questions(split, Vocabulary(words, ("yes",)), {"1"}, max_tokens=20)

    pairs = [
        {"Flickr30K_ID": "1", "pairID": str(n), "sentence2": text, "gold_label": "neutral"}
        for n, text in enumerate(asked)
    ]
    (tmp_path / "snli_ve_mine.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    hypotheses = read_pairs("snli_ve", tmp_path, "mine")
    with refuses("E-TEXT-UNKNOWN"):
        encode_pairs(hypotheses, known, {"1"}, max_tokens=20, skip_missing=0)

    sentences = [{"img_id": "1", "sentf": {"mine": list(asked)}}]
    (tmp_path / "mine.json").write_text(json.dumps(sentences))
    with refuses("E-TEXT-UNKNOWN"):
        encode_corpus(
            read_corpus([tmp_path / "mine.json"]),
            "mine",
            {"1"},
            words=pieces,
            answers=(),
            max_tokens=20,
            skip_missing=0,
        )

    content = {
        "images": [{"id": 1}],
        "annotations": [{"image_id": 1, "caption": text} for text in asked],
    }
    (tmp_path / "captions_mine.json").write_text(json.dumps(content))
    captions = read_captions("coco", tmp_path, "mine", training=False)
    vocabularies: tuple[CaptionVocabulary, ...] = (
        build_caption_words(ENGLISH, min_count=1),
        build_bpe(ENGLISH, size=200),  # knows the beginning of every word
    )
    for vocabulary in vocabularies:
        with refuses("E-TEXT-UNKNOWN"):
            encode_captions(captions, vocabulary, {"1"}, skip_missing=0)


def test_a_few_unknown_texts_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_questions(tmp_path, (*ENGLISH, "Что?"))
    split = read_questions("vqa2", tmp_path, "mine", annotated=False)
    words = build_words(ENGLISH * 2)
    encode_questions(split, Vocabulary(words, ("yes",)), {"1"}, max_tokens=20)
    told = "split 'mine': 1 of 4 questions have no word of the vocabulary\n"
    assert capsys.readouterr().err == told
