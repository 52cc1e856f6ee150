"""Word pieces, against the two tokenizers of transformers: in Rust, and in Python, which it replaced."""

import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from refused import refuses
from transformers import BertTokenizer
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from clipfeat.base.errors import ClipfeatError, UsageError
from clipfeat.base.jsonio import write_json
from clipfeat.train.data.vocabulary import (
    SPECIAL_PIECES,
    Vocabulary,
    WordPieces,
    read_pieces,
    read_vocabulary,
    train_pieces,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = ("a", "cat", "##s", "dog", "play", "##ing", "un", "##play", "##able", "cafe", "naive", "is")
PIECES = tuple(
    dict.fromkeys(
        [*SPECIAL_PIECES, *"?!.,'-$", "猫", "是", *LETTERS, *(f"##{c}" for c in LETTERS), *WORDS]
    )
)
TEXTS = (
    "A cat is playing.",
    "unplayable   cats\tplay\nDOGS",
    "Café naïve CAFÉ cafe\u0301 Ñandú İ",
    "it's a dog's-play, isn't it?! $5.",
    "a 猫是cat 狗",
    "cat 🐈 dog🐕‍🦺 ☃",
    "",
    "   ",
    "a" * 100 + " " + "b" * 101 + " " + "c" * 500,
    "cat\u200bdog \x00\x07 cat\ufffddog \u00a0 cat\u3000dog",
    "ß ﬁ ½ straße",
    "x" + "?" * 40,
    "кот שלום ไทย한국어",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES))
    return folder


@pytest.mark.parametrize("width", [3, 4, 9, 600])
def test_a_text_is_split_as_berts_tokenizers_do(folder: Path, width: int) -> None:
    """The longer ones are cut, and still end with [SEP]."""
    ours = read_pieces(folder / "vocab.txt").encode(TEXTS, max_tokens=width)
    how: dict[str, Any] = {"padding": "max_length", "max_length": width, "truncation": True}
    new = BertTokenizer.from_pretrained(folder)(list(TEXTS), **how)["input_ids"]
    old = BertTokenizerLegacy(folder / "vocab.txt")(list(TEXTS), **how)["input_ids"]
    for number, text in enumerate(TEXTS):
        assert ours[number].tolist() == new[number], text
        assert ours[number].tolist() == old[number], text
    assert ours.dtype == "int32"
    assert (ours == PIECES.index("[SEP]")).sum(axis=1).tolist() == [1] * len(TEXTS)


def test_a_cased_berts_pieces_are_read_with_case_and_accents(tmp_path: Path) -> None:
    """As by BERT's tokenizers with do_lower_case=False; Hindi keeps its vowel signs.

    The one in Python composes accents first, as neither BERT's own nor the one in Rust does.
    """
    path = tmp_path / "vocab.txt"
    hindi = (*"कमरमडओ", *(f"##{letter}" for letter in "मरेीड़ुं"))
    pieces = tuple(dict.fromkeys([*PIECES, *"ACDOGSÑé", "##É", "##é", "##ï", *hindi]))
    path.write_text("".join(f"{piece}\n" for piece in pieces))
    words = read_pieces(path)
    assert words.is_cased
    texts = (*TEXTS, "कमरे की ओर मुड़ें।")
    texts = (*texts, *(unicodedata.normalize("NFC", text) for text in texts))
    ours = words.encode(texts, max_tokens=600)
    how: dict[str, Any] = {"padding": "max_length", "max_length": 600, "truncation": True}
    new = BertTokenizer(str(path), do_lower_case=False)(list(texts), **how)["input_ids"]
    old = BertTokenizerLegacy(path, do_lower_case=False)(list(texts), **how)["input_ids"]
    for number, text in enumerate(texts):
        assert ours[number].tolist() == new[number], text
        if unicodedata.is_normalized("NFC", text):
            assert ours[number].tolist() == old[number], text
    assert pieces.index("##é") in ours[2]
    write_json(tmp_path / "v.json", Vocabulary(words, ()).record())
    assert read_vocabulary(tmp_path / "v.json").words == words


def test_a_text_cannot_have_special_pieces() -> None:
    """Otherwise a caption could mark its own end."""
    words = WordPieces(PIECES)
    row = words.encode(["[SEP] [MASK]"], max_tokens=20)[0]
    assert [PIECES[token] for token in row if token][1:-1] == [
        *("[UNK]", "s", "##e", "##p", "[UNK]"),
        *("[UNK]", "m", "##a", "##s", "##k", "[UNK]"),
    ]


def test_halves_of_surrogate_pairs_are_question_marks() -> None:
    words = WordPieces(PIECES)
    halved, asked = words.encode(["cat\udc80 \ud83d dog", "cat? ? dog"], max_tokens=9)
    assert halved.tolist() == asked.tolist()
    assert train_pieces(["\ud800 cat cat"], size=20).pieces[5:9] == ("?", "a", "c", "t")


def test_a_text_is_known_by_one_piece_of_it() -> None:
    words = WordPieces(PIECES)
    texts = ("cats", "狗 cat", "狗", "", "🐈", "狗?!")
    known = words.known(words.encode(texts, max_tokens=9))
    assert known.tolist() == [True, True, False, False, False, False]  # marks are no word


CORPUS = """
    the striped cats are playing with striped dogs near the striped playing cats
    zebras and zebus playing, dogs walking; walking cats? stripes! wq qw xz zx jq qj vx xv
"""
PRINT = f"""
from clipfeat.train.data.vocabulary import train_pieces
texts = [line for line in {CORPUS!r}.split("  ")] * 3 + ["once"]
print(*train_pieces(texts, size=120).pieces, sep="\\n")
"""


def test_training_gives_the_same_pieces_in_any_process() -> None:
    """Many pairs are as common as each other, and threads and hashes come in any order."""
    found = []
    for seed, threads in (("1", "1"), ("2", "2"), ("3", "4")):
        env = {"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", PRINT], env=env, capture_output=True, text=True, check=True
        )
        found.append(done.stdout.splitlines())
    assert found[0] == found[1] == found[2]
    assert len(found[0]) > 90


def test_trained_pieces_are_letters_and_what_is_often_together() -> None:
    texts = ["Playing cats, playing dogs", "PLAYING café", "once"]
    pieces = train_pieces(texts, size=200).pieces
    letters = sorted(set("playingcatsdogsplayingcaféonce,"))
    assert pieces[: len(SPECIAL_PIECES) + len(letters)] == (*SPECIAL_PIECES, *letters)
    assert set(pieces) >= {f"##{letter}" for letter in letters}
    assert "playing" in pieces
    assert not {"dogs", "once", "café", "##nce"} & set(pieces)  # they occur once
    least = len(SPECIAL_PIECES) + 2 * len(letters)
    assert len(train_pieces(texts, size=least + 2).pieces) == least + 2
    with refuses("E-VOCAB-SIZE", f"model.vocab_size must be at least {least} ", kind=UsageError):
        train_pieces(texts, size=least - 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("the\na\n", r"has no piece \[PAD\]; pass the vocab.txt of a BERT"),
        ("[UNK]\n[PAD]\n[CLS]\n[SEP]\n[MASK]\n", r"its first piece must be \[PAD\]; got '\[UNK"),
        ("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\na\n", "has a piece twice"),
    ],
)
def test_files_that_are_not_vocabularies_are_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_pieces(path)
    write_json(tmp_path / "v.json", {"pieces": text.split(), "answers": []})
    with pytest.raises(ClipfeatError, match=message.split(";")[0]):
        read_vocabulary(tmp_path / "v.json")


def test_a_vocabulary_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "vocab.txt", tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="not a readable vocabulary"):
            read_pieces(path)


def test_pieces_are_kept_in_a_runs_folder(tmp_path: Path) -> None:
    for words in (WordPieces(PIECES), WordPieces((*SPECIAL_PIECES, "\u2028", "é"))):
        vocabulary = Vocabulary(words, ("yes",))
        write_json(tmp_path / "v.json", vocabulary.record())
        assert read_vocabulary(tmp_path / "v.json") == vocabulary
    write_json(tmp_path / "v.json", {"pieces": [*SPECIAL_PIECES, 5], "answers": []})
    with pytest.raises(ClipfeatError, match=r"v\.json: pieces must be texts"):
        read_vocabulary(tmp_path / "v.json")
