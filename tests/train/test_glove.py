"""Vectors of words from GloVe's text files."""

import os
from pathlib import Path

import pytest
from peak_memory import peak, start_peak
from refused import refuses

from clipfeat.base.errors import UsageError
from clipfeat.train.models.glove import read_glove, require_glove

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
    ("text", "code", "named"),
    [
        (None, "E-GLOVE-FILE", "No such file"),
        ("", "E-GLOVE-WORDS", ""),
        ("the 1 2 3\n", "E-GLOVE-LENGTH", "line 1: 3 numbers"),
        ("the 1\n", "E-GLOVE-LENGTH", "line 1: 1 numbers"),
        ("400000 300\n", "E-GLOVE-LENGTH", "line 1: 1 numbers"),  # fastText's header
        ("the 1 x\n", "E-GLOVE-LINE", "line 1"),
        ("the 1 2\ncat 1\n", "E-GLOVE-LINE", "line 2: expected a word and 2 numbers; got 1"),
        ("the 1 2\n\ncat 1 2\n", "E-GLOVE-LINE", "line 2: expected a word and 2 numbers; got 0"),
        ("the 1 2\ncat 1 x\n", "E-GLOVE-LINE", "line 2"),
        ("the 1 2\ncat 1 nan\n", "E-GLOVE-LINE", "line 2"),
        ("the 1 2\ncat 1 1e99\n", "E-GLOVE-LINE", "line 2"),
        ("the 1 2\n", "E-GLOVE-WORDS", "4 words"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str | None, code: str, named: str) -> None:
    path = tmp_path / "glove.txt"
    if text is not None:
        path.write_text(text)
    with refuses(code, f"model.glove {path}", named, kind=UsageError):
        read_glove(path, WORDS, channels=2)


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
    with refuses(code, "glove", kind=UsageError):
        read_glove(path, WORDS, channels=2)
    if kind != "zeros":  # which takes reading
        with refuses(code, "glove", kind=UsageError):
            require_glove(path)
    assert peak() - before < 100 << 20
