"""Vectors of words from GloVe's text files."""

import os
from pathlib import Path

import pytest
from peak_memory import peak, start_peak

from clipfeat.base.errors import UsageError
from clipfeat.train.models.start import read_glove, require_glove

WORDS = ("cat", "café", "dog", "what's")


def test_the_vectors_of_the_vocabulary_are_read(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text(
        ", 9 9\ndog 1 2.5\n. . . 9 9\nat name@domain.com 9 9\ncafé -1e-3 4\r\ndog 7 7\nbird x y\n"
    )
    rows, vectors = read_glove(path, WORDS, channels=2)
    found = {
        WORDS[row]: vector for row, vector in zip(rows.tolist(), vectors.tolist(), strict=True)
    }
    assert found == {"dog": [1, 2.5], "café": [pytest.approx(-1e-3), 4]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read (No such file"),
        ("", "the file is empty"),
        ("the 1 2 3\n", "line 1: 3 numbers after its word, but model.embedding is 2; pass --set"),
        ("the 1\n", "line 1: 1 numbers after its word, but model.embedding is 2"),
        ("400000 300\n", "line 1: 1 numbers after its word"),  # fastText's header
        ("the 1 x\n", "line 1: expected a word and 2 numbers; the last field is not a number"),
        ("the 1 2\ncat 1\n", "line 2: expected a word and 2 numbers; got 1 numbers after 'cat'"),
        ("the 1 2\n\ncat 1 2\n", "line 2: expected a word and 2 numbers; got 0 numbers after ''"),
        ("the 1 2\ncat 1 x\n", "line 2: could not convert string to float"),
        ("the 1 2\ncat 1 nan\n", "line 2: numbers must be finite"),
        ("the 1 2\ncat 1 1e99\n", "line 2: numbers must be finite"),
        ("the 1 2\n", "has none of the 4 words of the questions"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "glove.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError) as error:
        read_glove(path, WORDS, channels=2)
    assert str(error.value).startswith(f"model.glove {path}")
    assert message in str(error.value)


def test_a_byte_order_mark_is_not_part_of_the_first_word(tmp_path: Path) -> None:
    (tmp_path / "glove.txt").write_text("cat 1 2\ndog 3 4\n", encoding="utf-8-sig")
    rows, vectors = read_glove(tmp_path / "glove.txt", WORDS, channels=2)
    assert (rows.tolist(), vectors.tolist()) == ([0, 2], [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("zeros", "E-GLOVE-LINE"),
        ("sparse", "E-GLOVE-SIZE"),
        ("pipe", "E-GLOVE-FILE"),
        ("device", "E-GLOVE-FILE"),
    ],
)
def test_what_never_ends_is_refused_at_once(tmp_path: Path, kind: str, code: str) -> None:
    path = tmp_path / "glove.txt"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    else:
        with path.open("wb") as file:
            file.write(b"cat 1 2\n")
            file.truncate(20 << 30 if kind == "zeros" else 100 << 30)
    before = start_peak()
    with pytest.raises(UsageError, match="glove") as refused:
        read_glove(path, WORDS, channels=2)
    assert refused.value.code == code
    if kind != "zeros":  # which takes reading
        with pytest.raises(UsageError, match="glove") as refused:
            require_glove(path)
        assert refused.value.code == code
    assert peak() - before < 100 << 20
