"""GloVe's vectors of words, from a file of lines of text."""

import codecs
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor

from ...base.errors import UsageError, reason_of
from ...base.files import open_plain

MAX_GLOVE_BYTES = 32 << 30  # the largest published file, 840B with 300 numbers, has 5.6e9
MAX_LINE_BYTES = 1 << 20


def require_glove(path: Path) -> Path:
    """Return `path`; UsageError unless it is a file that can be read, and not too large."""
    try:
        _open_glove(path).close()
    except OSError as error:
        raise _unreadable_glove(path, error) from None
    return path


def read_glove(
    path: Path, words: Sequence[str], *, channels: int
) -> tuple[Int[Tensor, " word"], Float32[Tensor, "word channel"]]:
    """Return (positions in `words`, their vectors) of the words that a GloVe file has.

    A line is a word and its numbers with spaces between, in UTF-8 with or without a byte-order
    mark; the file is read once, and only the lines of `words` are kept. Raises UsageError that
    names the line of a file in another format, and where the file's vectors have another length or
    it has none of the words, is too large, or is a pipe or a device.
    """
    row_of = {word.encode(): row for row, word in enumerate(words)}
    vectors: dict[int, np.ndarray] = {}
    for place, word, numbers in _glove_lines(path, channels):
        row = row_of.get(word)
        if row is not None and row not in vectors:  # 840B has some words twice
            vectors[row] = _vector(numbers, place)
    if not vectors:
        raise UsageError(
            f"model.glove {path}: has none of the {len(words)} words of the training texts",
            code="E-GLOVE-WORDS",
        )
    return torch.tensor(list(vectors)), torch.from_numpy(np.stack(list(vectors.values())))


def _open_glove(path: Path) -> BinaryIO:
    file = os.fdopen(open_plain(path, follow=True), "rb")
    size = os.fstat(file.fileno()).st_size
    if size > MAX_GLOVE_BYTES:
        file.close()
        raise UsageError(
            f"model.glove {path}: {size:,} bytes; such a file has at most {MAX_GLOVE_BYTES:,}",
            code="E-GLOVE-SIZE",
        )
    return file


def _unreadable_glove(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"model.glove {path}: cannot be read ({reason_of(error)})", code="E-GLOVE-FILE"
    )


def _glove_lines(path: Path, channels: int) -> Iterator[tuple[str, bytes, list[bytes]]]:
    """Yield (place, word, numbers) of each line."""
    number = 0
    try:
        with _open_glove(path) as file:
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                place = f"model.glove {path}, line {number}"
                if len(line) == MAX_LINE_BYTES:
                    raise UsageError(
                        f"{place}: longer than {MAX_LINE_BYTES:,} bytes; pass a text file with a "
                        "word and its numbers in each line",
                        code="E-GLOVE-LINE",
                    )
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                    _require_length(line, channels, place)
                # From the right: words of the 840B file may have spaces.
                word, *numbers = line.rstrip(b"\r\n").rsplit(b" ", channels)
                if len(numbers) != channels:
                    raise UsageError(
                        f"{place}: expected a word and {channels} numbers; got {len(numbers)} "
                        f"numbers after {word.decode(errors='replace')!r:.40}",
                        code="E-GLOVE-LINE",
                    )
                yield place, word, numbers
    except OSError as error:
        raise _unreadable_glove(path, error) from None
    if not number:
        raise UsageError(f"model.glove {path}: the file is empty", code="E-GLOVE-WORDS")


def _require_length(line: bytes, channels: int, place: str) -> None:
    """Raise UsageError unless the file's first line ends with exactly `channels` numbers."""
    fields = line.split()
    length = next(
        (n for n, text in enumerate(reversed(fields[1:])) if not _is_number(text)),
        max(0, len(fields) - 1),
    )
    if not length:
        raise UsageError(
            f"{place}: expected a word and {channels} numbers; the last field is not a number",
            code="E-GLOVE-LINE",
        )
    if length != channels:
        raise UsageError(
            f"{place}: {length} numbers after its word, but model.embedding is {channels}; "
            f"pass --set model.embedding={length}, or a file with {channels} numbers",
            code="E-GLOVE-LENGTH",
        )


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _vector(numbers: list[bytes], place: str) -> np.ndarray:
    try:
        vector = np.array([float(number) for number in numbers])
    except ValueError as error:
        raise UsageError(f"{place}: {error}", code="E-GLOVE-LINE") from None
    if not (np.abs(vector) <= np.finfo(np.float32).max).all():
        raise UsageError(f"{place}: numbers must be finite, as float32 too", code="E-GLOVE-LINE")
    return vector.astype(np.float32)
