"""Images in Parquet files, as the package `datasets` writes them; read without unpacking.

A column of images has structs of `bytes` and `path`, or plain bytes
(https://huggingface.co/docs/datasets/image_dataset). A row is the member `COLUMN/ROW` of its file.
Parquet compresses pages of many rows, so a row is read with its row group: those that were read
last are kept.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false
# pyarrow has no types.

import bisect
import errno
import functools
import io
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from ..base.parquet import MAX_TEXT, GroupSizes, group_sizes, read_leaf, read_schema
from ..base.parts import as_text

MAX_GROUP = 1 << 29  # bytes of the images of one row group, which are in memory together
KEPT = 1 << 28  # bytes of row groups that a process keeps, besides the last one
CACHED = 16  # files whose layout a process keeps

_lock = threading.Lock()  # so that only one of several threads reads a row group


class _Group(NamedTuple):
    """A row group in memory."""

    images: list[pa.Array]  # of one value each
    bytes: int


_groups: OrderedDict[tuple[object, ...], _Group] = OrderedDict()


class ImageColumn(NamedTuple):
    """A column of images."""

    name: str
    leaf: str  # the bytes, as Parquet names them: `image.bytes`
    path_leaf: str | None  # the name of the file that each image was made from


def image_columns(schema: pa.Schema) -> list[ImageColumn]:
    """Return the columns that may hold images: first structs of bytes and path, then bytes."""
    structs: list[ImageColumn] = []
    plain: list[ImageColumn] = []
    for field in schema:
        if pa.types.is_struct(field.type):
            types = {inner.name: inner.type for inner in field.type}
            if "bytes" in types and _is_binary(types["bytes"]):
                has_path = "path" in types and pa.types.is_string(types["path"])
                path_leaf = f"{field.name}.path" if has_path else None
                structs.append(ImageColumn(field.name, f"{field.name}.bytes", path_leaf))
        elif _is_binary(field.type):
            plain.append(ImageColumn(field.name, field.name, None))
    return structs + plain


def _is_binary(type_: pa.DataType) -> bool:
    return pa.types.is_binary(type_) or pa.types.is_large_binary(type_)


def names(path: str) -> list[str]:
    """Return the members of the file: each row of each column that may hold images."""
    columns = image_columns(_schema(path))
    rows = sum(_layout(path, columns[0].leaf).rows) if columns else 0
    return [f"{column.name}/{row}" for column in columns for row in range(rows)]


def image_paths(path: Path, column: ImageColumn) -> list[str]:
    """Return the name of the file that each image was made from, "" where it is not known."""
    if column.path_leaf is None:
        return [""] * sum(_layout(str(path), column.leaf).rows)
    texts: list[str] = []
    for number, rows in enumerate(_layout(str(path), column.path_leaf).rows):
        limit = rows * (MAX_TEXT + 16)
        values = read_leaf(path, column.path_leaf, number, limit, _refuse)
        texts += (_text(value[0].as_buffer()) for value in values)
    return texts


def _text(name: pa.Buffer | None) -> str:
    return as_text(name.to_pybytes()) if name is not None else ""  # Parquet checks no encoding


def large_group(path: Path, column: ImageColumn) -> int:
    """Return the bytes of images in the largest row group if they are too many, else 0."""
    largest = max(_layout(str(path), column.leaf).bytes, default=0)
    return largest if largest > MAX_GROUP else 0


def open_member(path: str, name: str) -> BinaryIO:
    """Return the image `COLUMN/ROW` as a file; FileNotFoundError if there is none.

    Raises OSError for a file that is not Parquet, is damaged, or has a row group that is too large.
    """
    (content,) = _contents(path, [name])
    if content is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{path}/{name}")
    return io.BytesIO(content.as_buffer())


def heads(path: str, names: Sequence[str], length: int) -> list[bytes]:
    """Return the first bytes, at most `length`, of some images; b"" for one that does not exist."""
    contents = _contents(path, names)
    return [c.as_buffer()[:length].to_pybytes() if c is not None else b"" for c in contents]


def _contents(path: str, names: Sequence[str]) -> list[pa.Scalar | None]:
    """Return the bytes of each image, in place; None for one that does not exist."""
    contents: list[pa.Scalar | None] = []
    for column, group in itertools.groupby(names, lambda name: name.rpartition("/")[0]):
        rows = [name.rpartition("/")[2] for name in group]
        contents += _rows(
            path, column, [int(r) if r.isascii() and r.isdigit() else -1 for r in rows]
        )
    return contents


def _rows(path: str, column: str, rows: Sequence[int]) -> list[pa.Scalar | None]:
    leaf = next((c.leaf for c in image_columns(_schema(path)) if c.name == column), None)
    if leaf is None:
        return [None] * len(rows)
    starts = list(itertools.accumulate(_layout(path, leaf).rows, initial=0))
    contents: list[pa.Scalar | None] = []
    for number, group in itertools.groupby(rows, lambda row: bisect.bisect_right(starts, row) - 1):
        exists = 0 <= number < len(starts) - 1
        images = _group(path, leaf, number) if exists else None
        for row in group:
            image = images[row - starts[number]][0] if images is not None else None
            contents.append(image if image is not None and image.is_valid else None)
    return contents


def _group(path: str, leaf: str, number: int) -> list[pa.Array]:
    """Return the images of a row group, an array of one value each."""
    with _lock:
        key = (path, _stamp(path), leaf, number)
        if key not in _groups:
            images = read_leaf(Path(path), leaf, number, MAX_GROUP, _refuse)
            _groups[key] = _Group(images, sum(image.nbytes for image in images))
        _groups.move_to_end(key)
        while len(_groups) > 1 and sum(group.bytes for group in _groups.values()) > KEPT:
            _groups.popitem(last=False)
        return _groups[key].images


def _stamp(path: str) -> tuple[int, int]:
    status = os.stat(path)  # noqa: PTH116
    return status.st_mtime_ns, status.st_size


def _schema(path: str) -> pa.Schema:
    return _read_schema(path, *_stamp(path))


@functools.lru_cache(CACHED)
def _read_schema(path: str, _time: int, _size: int) -> pa.Schema:
    return read_schema(Path(path), _refuse)


def _layout(path: str, leaf: str) -> GroupSizes:
    return _read_layout(path, leaf, *_stamp(path))


@functools.lru_cache(CACHED)
def _read_layout(path: str, leaf: str, _time: int, _size: int) -> GroupSizes:
    return group_sizes(Path(path), leaf, _refuse)


def _refuse(reason: str) -> OSError:
    return OSError(errno.EIO, reason)
