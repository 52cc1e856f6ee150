"""A manifest: images in columns, checked when it is made, and stored as a Parquet file."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyarrow has no types.

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self, overload

import pyarrow as pa
import pyarrow.compute as pc

from ..base.errors import ManifestError
from ..base.files import atomic_file
from ..base.parquet import (
    MAX_TEXT,
    count_rows,
    read_batches,
    read_schema,
    rows_of,
    write_batches,
)
from ..base.text import is_url, printable
from .contents import SURROGATE, absolute_root, from_disk, is_escaped, to_disk

GROUP_ROWS = 1 << 16  # rows that are converted to columns, and back, at a time
MAX_SIDE = 2**31 - 1  # pixels, the largest number in the Parquet file
ROWS_PER_BYTE = 16  # of a Parquet file; counted ids, which compress best, gave 5
ROOT = b"clipfeat.root"  # the key of the root in the metadata of the Parquet file
UPRIGHT = b"clipfeat.upright"  # in the metadata of a manifest with the sizes of turned images
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")  # of a URL, or a drive: more than base.text.URL
ODD_PATH = r"^/|\.\.|\\|:/|\x00"  # of every path that breaks a rule, and of some others
SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("path", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)
# In memory: the ids of all images may exceed the 2 GiB of a string column.
COLUMNS = pa.schema(
    [
        ("image_id", pa.large_string()),
        ("path", pa.large_string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)


class Image(NamedTuple):
    """One image to extract."""

    image_id: str
    path: str  # relative to the manifest's root
    width: int  # pixels, from the file's header; 0 if no header could be read
    height: int


class Images(Sequence[Image]):
    """Images in about 100 bytes each, sorted by id in a manifest; equal to a tuple of the same."""

    def __init__(self, table: pa.Table):
        self._table = table

    @classmethod
    def of(cls, images: Iterable[Image]) -> Self:
        """Return `images`, given in any order. Texts must be UTF-8, and sizes fit 32 bits."""
        return cls.of_columns(_batches(images))

    @classmethod
    def of_columns(cls, batches: Iterable[pa.RecordBatch]) -> Self:
        """Return images that come as columns with the types of COLUMNS, in any order."""
        table = pa.Table.from_batches(batches, COLUMNS)
        order = None
        # UTF-8 sorts by code point, as Python does.
        if not _is_rising(table["image_id"]):
            order = pc.call_function("sort_indices", [table["image_id"]])
        columns = []
        while table.num_columns:  # one at a time, so that there are never two copies of all
            column = table.column(0).combine_chunks()
            table = table.remove_column(0)
            columns.append(column if order is None else column.take(order))
        return cls(pa.Table.from_arrays(columns, schema=COLUMNS))

    def first_duplicate(self) -> tuple[Image, Image] | None:
        """Return the first two images with the same id, None if all ids differ."""
        ids = self._table["image_id"]
        if _is_rising(ids):
            return None
        at = pc.index(pc.call_function("equal", [ids[:-1], ids[1:]]), value=True).as_py()
        return self[at], self[at + 1]

    def having(self, ids: list[pa.Array]) -> Self:
        """Return the images that have `ids`, in their order, raising KeyError if one is not here."""
        wanted = pa.chunked_array(ids, pa.large_string())
        options = pc.SetLookupOptions(self._table["image_id"])
        rows = pc.call_function("index_in", [wanted], options).combine_chunks()
        if rows.null_count:
            raise KeyError(f"{rows.null_count} ids that no image has")
        return type(self)(self._table.take(rows))

    def column(self, name: str) -> pa.ChunkedArray:
        """Return one field of all images as an Arrow column."""
        return self._table[name]

    def batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Yield the images as columns with the types of `schema`, GROUP_ROWS at a time."""
        for start in range(0, len(self), GROUP_ROWS):
            group = self._table.slice(start, GROUP_ROWS).cast(schema)
            yield from group.combine_chunks().to_batches()

    def __len__(self) -> int:
        return self._table.num_rows

    def __iter__(self) -> Iterator[Image]:
        for batch in self._table.to_batches(GROUP_ROWS):
            columns = (column.to_pylist() for column in batch.columns)
            yield from map(Image._make, zip(*columns, strict=True))

    @overload
    def __getitem__(self, index: int) -> Image: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> "Image | Self":
        if isinstance(index, slice):
            return type(self)(self._table[index])
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return Image(*(column[index].as_py() for column in self._table.columns))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Images):
            return self._table.equals(other._table)
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return _as_given, (list(self),)  # Arrow would send the whole columns with a slice

    def __repr__(self) -> str:
        return f"<Images: {len(self)}>"


def _as_given(images: list[Image]) -> Images:
    return Images(pa.Table.from_batches(_batches(images), COLUMNS))


def _batches(images: Iterable[Image]) -> Iterator[pa.RecordBatch]:
    remaining = iter(images)
    while group := list(islice(remaining, GROUP_ROWS)):
        arrays = map(pa.array, zip(*group, strict=True), COLUMNS.types)
        yield pa.RecordBatch.from_arrays(list(arrays), schema=COLUMNS)


def _is_rising(ids: pa.ChunkedArray) -> bool:
    """Return whether each id is less than the next, so that they are sorted and distinct."""
    less = pc.call_function("less", [ids[:-1], ids[1:]])
    return pc.call_function("all", [less], pc.ScalarAggregateOptions(min_count=0)).as_py()


@dataclass(frozen=True)
class Manifest:
    """Images sorted by id, with unique ids; a Manifest that breaks this cannot be made.

    Paths stay below the root, so that a manifest from elsewhere cannot name a file outside of it.
    Symbolic links below the root are the user's own, and are followed.
    """

    root: str  # an absolute folder, or a URL that fsspec reads; paths are relative to it
    images: Images
    upright: bool = False  # sizes are those of images turned as their EXIF orientation says

    @classmethod
    def of(cls, root: str | Path, images: Iterable[Image], *, upright: bool = False) -> Self:
        """Return the manifest of `images`, given in any order.

        Raises ManifestError for an image that no manifest may contain (E-MANIFEST-ROW), two images
        with one id (E-MANIFEST-ID), no images (E-MANIFEST-EMPTY), and a URL of a kind that is not
        read (E-MANIFEST-ROOT).
        """
        return cls(absolute_root(root), Images.of(checked(images)), upright)

    def __post_init__(self) -> None:
        if not self.images:
            raise ManifestError(
                f"{self.root}: a manifest must have at least one image; it has 0",
                code="E-MANIFEST-EMPTY",
            )
        if duplicate := self.images.first_duplicate():
            raise duplicate_id(*duplicate)


def duplicate_id(first: Image, second: Image, remedy: str = "") -> ManifestError:
    """Return the error for two images with one id."""
    remedy = remedy or ("name each image once" if first.path == second.path else "rename one")
    return ManifestError(
        f"two images have the id {first.image_id!r}: {printable(first.path)} and "
        f"{printable(second.path)}; ids must be unique: {remedy}",
        code="E-MANIFEST-ID",
    )


def checked(images: Iterable[Image]) -> Iterator[Image]:
    """Yield the images; ManifestError (E-MANIFEST-ROW) for one that no manifest may contain."""
    for image in images:
        if rule := broken_rule(image):
            values = f"id {image.image_id!r:.100}, path {image.path!r:.100}"
            raise ManifestError(
                f"a manifest row {rule}; got {values}, size {image[2:]!r:.100}",
                code="E-MANIFEST-ROW",
            )
        yield image


def broken_rule(image: Image) -> str | None:
    """Return the rule that a row breaks, None if it breaks none.

    >>> broken_rule(Image("a", "../a.jpg", 1, 1))
    'must have a path below the root, without .. in it'
    """
    if rule := broken_text(image):
        return rule
    _, path, width, height = image
    if path[0] == "/" or (".." in path and "/../" in f"/{path}/"):
        return "must have a path below the root, without .. in it"
    if not is_escaped(path):
        return "must have no backslash in its path except in escapes: parts are separated by /"
    if ":/" in path and SCHEME.match(path):
        return "must have a path, not a URL: only the root may be a URL"
    for side in (width, height):
        if type(side) is not int or not 0 <= side <= MAX_SIDE:
            return "must have a size >= 0 in whole pixels"
    return None


def broken_text(image: Image) -> str | None:
    """Return the rule that the id or the path breaks as a text, None if they break none.

    Where the path leads is not checked.

    >>> broken_text(Image("a", "", 1, 1))
    'must have an id and a path, both text and not empty'
    """
    image_id, path, *_ = image
    if type(image_id) is not str or type(path) is not str or not image_id or not path:
        return "must have an id and a path, both text and not empty"
    if not (image_id.isascii() and path.isascii()) and SURROGATE.search(image_id + path):
        return "must have an id and a path in UTF-8: rename it"
    long = len(image_id) + len(path) > MAX_TEXT // 4
    if long and max(len(image_id.encode()), len(path.encode())) > MAX_TEXT:
        return f"must have an id and a path of at most {MAX_TEXT:,} bytes"
    if "\0" in path or "\0" in image_id:
        return "must have no NUL character in its texts"
    return None


def _checked_columns(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield images as columns; ManifestError as `checked` raises it.

    The texts are UTF-8 and not too long; rows that may break another rule are looked at one by one.
    """
    for batch in batches:
        image_id, path, width, height = batch.columns
        options = pc.MatchSubstringOptions(ODD_PATH)
        is_odd = pc.call_function("match_substring_regex", [path], options)
        for other in (
            pc.call_function("match_substring", [image_id], pc.MatchSubstringOptions("\0")),
            *(pc.call_function("equal", [text, ""]) for text in (image_id, path)),
            *(pc.call_function("less", [side, 0]) for side in (width, height)),
        ):
            is_odd = pc.call_function("or", [is_odd, other])
        for _ in checked(map(Image._make, rows_of(batch.filter(is_odd)))):
            pass
        yield batch


def check_writable(path: Path) -> None:
    """Raise ManifestError (E-MANIFEST-WRITE) unless a manifest can be written to `path`."""
    problem = ""
    if not path.parent.is_dir():
        problem = f"{path.parent} is not a folder; make it first"
    elif path.exists() and not path.is_file():  # a device, which the file would replace
        problem = "it exists and is not a regular file; pass another name"
    elif path.suffix.lower() != ".parquet":  # by its name, the file would be read as something else
        problem = "a manifest is a Parquet file; end its name in .parquet"
    if problem:
        raise ManifestError(f"cannot write {path}: {problem}", code="E-MANIFEST-WRITE")


def write_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write `manifest`, with its root, to the Parquet file `path`, whole or not at all.

    Raises ManifestError as `check_writable` does, and for a root whose name is not UTF-8
    (E-MANIFEST-ROOT).
    """
    path = Path(path)
    check_writable(path)
    if SURROGATE.search(manifest.root):
        raise ManifestError(
            f"the name of the root {printable(manifest.root)} is not UTF-8; rename the folder, or "
            "pass a link to it with --images",
            code="E-MANIFEST-ROOT",
        )
    with atomic_file(path) as file:
        upright = {UPRIGHT: b"true"} if manifest.upright else {}
        schema = SCHEMA.with_metadata({ROOT: manifest.root.encode(), **upright})
        write_batches(file, schema, manifest.images.batches(schema))


def require_bounded(path: Path, refuse: Callable[[str], ManifestError]) -> None:
    """Raise `refuse(reason)` for a Parquet file with more rows than it can have distinct ids.

    All rows are kept in memory, and a few bytes may mean "this row, a billion times".
    """
    rows, size = count_rows(path, refuse), path.stat().st_size
    if rows > ROWS_PER_BYTE * size:
        raise refuse(f"{size:,} bytes cannot contain {rows:,} rows with different ids")


def read_manifest(path: str | Path) -> Manifest:
    """Return the manifest that `write_manifest` wrote to `path`.

    If the recorded root does not exist, paths are relative to the manifest's own folder. Raises
    ManifestError for a file without the four columns, with null values or too many rows
    (E-MANIFEST-READ), and for values as `Manifest.of` does.
    """
    path = Path(path)
    refuse = _refusing(path)
    if path.is_dir() or not path.exists():
        raise refuse("is a folder" if path.is_dir() else "no such file")
    require_bounded(path, refuse)
    batches = (batch.cast(COLUMNS) for batch in read_batches(path, SCHEMA, refuse))
    root = absolute_root(recorded_root(path))
    upright = UPRIGHT in (read_schema(path, refuse).metadata or {})
    return Manifest(root, Images.of_columns(_checked_columns(batches)), upright)


def recorded_root(path: Path) -> str:
    """Return the root that the Parquet file `path` names, or else the folder that contains it."""
    refuse = _refusing(path)
    recorded = (read_schema(path, refuse).metadata or {}).get(ROOT, b"")
    try:
        root = recorded.decode()
    except UnicodeDecodeError:
        raise refuse(f"its root is not a path: {recorded!r:.100}") from None
    if root and (is_url(root) or _is_folder(root)):
        return root
    return from_disk(str(path.parent.absolute()))


def _is_folder(root: str) -> bool:
    try:
        return os.path.isdir(to_disk(root))  # noqa: PTH112
    except (FileNotFoundError, ValueError):  # a name that a folder cannot have
        return False


def _refusing(path: Path) -> Callable[[str], ManifestError]:
    def refuse(reason: str) -> ManifestError:
        remedy = (
            "make a manifest of a folder, an archive or a list with: "
            "clipfeat manifest SOURCE -o images.parquet"
        )
        return ManifestError(f"{path}: {reason}; {remedy}", code="E-MANIFEST-READ")

    return refuse
