"""Read the vectors of some words from a GloVe text file."""

import codecs
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor

from ...base.errors import UsageError
from ...base.files import open_plain

FILE_BYTES = 32 << 30  # the largest that was published, 840B with 300 numbers, has 5.6e9
LINE_BYTES = 1 << 20


def require_glove(path: Path) -> Path:
    """Return `path`; raise UsageError unless it is a file that can be read, and not too large."""
    try:
        _open(path).close()
    except OSError as error:
        raise _unreadable(path, error) from None
    return path


def read_glove(
    path: Path, words: Sequence[str], *, channels: int
) -> tuple[Int[Tensor, " word"], Float32[Tensor, "word channel"]]:
    """Return (positions in `words`, their vectors) of the words that the file has.

    A line is a word and its numbers with spaces between, in UTF-8 with or without a byte-order
    mark; the file is read once, and no line is kept but those of `words`. Raises UsageError that
    names the line of a file in another format, and where the file's vectors have another length or
    it has none of the words, is too large, or is a pipe or a device.
    """
    wanted = {word.encode(): row for row, word in enumerate(words)}
    found: dict[int, np.ndarray] = {}
    for where, word, numbers in _lines(path, channels):
        row = wanted.get(word)
        if row is not None and row not in found:  # 840B has some words twice
            found[row] = _vector(numbers, where)
    if not found:
        raise UsageError(f"model.glove {path}: has none of the {len(words)} words of the questions")
    return torch.tensor(list(found)), torch.from_numpy(np.stack(list(found.values())))


def _open(path: Path) -> BinaryIO:
    file = os.fdopen(open_plain(path, follow=True), "rb")
    size = os.fstat(file.fileno()).st_size
    if size > FILE_BYTES:
        file.close()
        raise UsageError(
            f"model.glove {path}: {size:,} bytes; such a file has at most {FILE_BYTES:,}",
            code="E-GLOVE-SIZE",
        )
    return file


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"model.glove {path}: cannot be read ({error.strerror})", code="E-GLOVE-FILE")


def _lines(path: Path, channels: int) -> Iterator[tuple[str, bytes, list[bytes]]]:
    """Yield (where it stands, word, numbers) of each line."""
    number = 0
    try:
        with _open(path) as file:
            while line := file.readline(LINE_BYTES):
                number += 1
                where = f"model.glove {path}, line {number}"
                if len(line) == LINE_BYTES:
                    raise UsageError(
                        f"{where}: longer than {LINE_BYTES:,} bytes; pass a text file with a word "
                        f"and its numbers in each line",
                        code="E-GLOVE-LINE",
                    )
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                    _require_length(line, channels, where)
                # From the right: the words of the 840B file may hold spaces.
                word, *numbers = line.rstrip(b"\r\n").rsplit(b" ", channels)
                if len(numbers) != channels:
                    raise UsageError(
                        f"{where}: expected a word and {channels} numbers; got {len(numbers)} "
                        f"numbers after {word.decode(errors='replace')!r:.40}"
                    )
                yield where, word, numbers
    except OSError as error:
        raise _unreadable(path, error) from None
    if not number:
        raise UsageError(f"model.glove {path}: the file is empty")


def _require_length(line: bytes, channels: int, where: str) -> None:
    """Raise UsageError unless the file's first line ends with `channels` numbers, and no more."""
    fields = line.split()
    length = next(
        (n for n, text in enumerate(reversed(fields[1:])) if not _is_number(text)),
        max(0, len(fields) - 1),
    )
    if not length:
        raise UsageError(
            f"{where}: expected a word and {channels} numbers; the last field is not a number",
            code="E-GLOVE-LINE",
        )
    if length != channels:
        raise UsageError(
            f"{where}: {length} numbers after its word, but model.embedding is {channels}; "
            f"pass --set model.embedding={length}, or a file of that many"
        )


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _vector(numbers: list[bytes], where: str) -> np.ndarray:
    try:
        vector = np.array([float(number) for number in numbers])
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    if not (np.abs(vector) <= np.finfo(np.float32).max).all():
        raise UsageError(f"{where}: numbers must be finite, as float32 too")
    return vector.astype(np.float32)
