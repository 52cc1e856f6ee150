"""Embeddings of rom1504/clip-retrieval: a matrix and a table of images, joined by the order of rows.

`img_emb/img_emb_<n>.npy` (image, channel) and `metadata/metadata_<n>.parquet` with image_path. Each
image is a grid of one cell. They are imported alone: a store of grids has nothing that fits, and a
table is complete only at its end.
"""

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...base.errors import UsageError, reason_of
from ...base.files import open_plain, read_at
from ...base.parquet import read_columns
from ...base.text import IMAGE_SUFFIXES
from .npyfile import read_header
from .options import Options
from .parts import Parts, PartsReader

MATRIX, TABLE = "img_emb", "metadata"  # folders, and beginnings of the names in them


class Rows(NamedTuple):
    """The rows of a matrix in a file."""

    path: Path
    start: int  # where its numbers begin
    length: int
    dim: int
    dtype: np.dtype


class Row(NamedTuple):
    """The place of an image: a row of a matrix, or why the rows cannot be told."""

    rows: Rows | None
    number: int
    problem: str = ""


class Vector(NamedTuple):
    """The shape and the dtype of a row that is not read."""

    shape: tuple[int, ...]
    dtype: np.dtype


class ClipRetrievalReader(PartsReader):
    """Reads the folder that clip-retrieval inference writes."""

    def __init__(self, name: str, sources: Sequence[Path]) -> None:
        self._pairs: list[tuple[Path, Path]] = []
        for source in sources:
            numbers = {
                *(p.stem.removeprefix(MATRIX) for p in (source / MATRIX).glob(f"{MATRIX}_*.npy")),
                *(p.stem.removeprefix(TABLE) for p in (source / TABLE).glob(f"{TABLE}_*.parquet")),
            }
            self._pairs += [
                (source / MATRIX / f"{MATRIX}{n}.npy", source / TABLE / f"{TABLE}{n}.parquet")
                for n in sorted(numbers)
            ]
        if not any(matrix.is_file() for matrix, _ in self._pairs):
            raise UsageError(
                f"{sources[0]} has no {MATRIX}/{MATRIX}_0.npy; name the folder that clip-retrieval "
                f"inference wrote",
                code="E-IMPORT-SOURCE",
            )
        self.files = [file for pair in self._pairs for file in pair if file.is_file()]
        super().__init__(name, sources[0])

    def places(self) -> Iterator[tuple[str, Row]]:
        """Yield the images of each table with their rows; a table that is damaged is one item."""
        for matrix, table in self._pairs:
            try:
                rows, problem = _rows(matrix), ""
            except (ValueError, OSError) as error:
                rows, problem = None, f"{matrix.name}: {reason_of(error)}"
            try:
                paths = [path for (path,) in read_columns(table, ["image_path"], ValueError)]
            except (ValueError, OSError) as error:
                yield matrix.stem, Row(None, 0, f"{table.name}: {error}")
                continue
            if rows and rows.length != len(paths):
                problem = (
                    f"{matrix.name} has {rows.length:,} rows and {table.name} {len(paths):,}, so that "
                    f"no row can be told"
                )
            for number, path in enumerate(paths):
                yield _image_id(path), Row(None if problem else rows, number, problem)

    def parts(self, image_id: str, place: Row) -> Parts:
        """Return the shape of an image's vector."""
        if place.rows is None:
            raise ValueError(place.problem)
        return Parts(Vector((place.rows.dim,), place.rows.dtype))

    def whole(self, image_id: str, place: Row) -> tuple[Parts, str]:
        """Return the vector of an image, and the sha256 of its bytes."""
        self.parts(image_id, place)
        assert place.rows is not None
        rows, size = place.rows, place.rows.dim * place.rows.dtype.itemsize
        descriptor = open_plain(rows.path, follow=True)
        try:
            content = read_at(descriptor, size, rows.start + place.number * size)
        finally:
            os.close(descriptor)
        if len(content) != size:
            raise ValueError("it is cut off")
        return Parts(np.frombuffer(content, rows.dtype)), hashlib.sha256(content).hexdigest()

    def place_text(self, place: Row) -> str:
        """Return the name of the matrix and the row."""
        return f"{place.rows.path.name} row {place.number}" if place.rows else ""


def _rows(path: Path) -> Rows:
    with os.fdopen(open_plain(path, follow=True), "rb") as file:
        shape, in_columns, dtype = read_header(file)
        start, size = file.tell(), file.seek(0, io.SEEK_END)
    if len(shape) != 2 or in_columns or dtype.name not in ("float16", "float32"):
        raise ValueError(f"{dtype} numbers of shape {shape}, where a matrix of floats is expected")
    needed = start + shape[0] * shape[1] * dtype.itemsize
    if needed != size:
        raise ValueError(f"{size:,} bytes where its header says {needed:,}")
    return Rows(path, start, *shape, dtype)


def _image_id(path: Any) -> str:
    """Return the path of an image without its ending."""
    begin, ending = os.path.splitext(str(path))  # noqa: PTH122 - it may be a URL
    return begin if ending.lower() in IMAGE_SUFFIXES else str(path)


def open_reader(name: str, sources: Sequence[Path], options: Options) -> ClipRetrievalReader:
    """Return the reader of a folder."""
    return ClipRetrievalReader(name, sources)
