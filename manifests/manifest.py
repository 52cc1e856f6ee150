"""Many images in little memory: columns, of which a row becomes an Image when it is asked for."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self, overload

import pyarrow as pa
import pyarrow.compute as pc

from ..base.errors import ManifestError
from ..base.files import atomic_file
from ..base.parquet import MAX_TEXT, count_rows, read_rows, read_schema, write_batches
from ..base.text import is_url, printable
from .contents import ODD, absolute_root, from_disk, is_escaped, to_disk

GROUP_ROWS = 1 << 16  # rows that become columns together, and rows again
# large_string: the ids of all images together may be more than the 2 GiB of a string column.
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
    width: int  # pixels, as the file's header says; 0 where no header could be read
    height: int


class Images(Sequence[Image]):
    """Images sorted by id, about 100 bytes each; equal to a tuple of the same images."""

    def __init__(self, table: pa.Table):
        self._table = table

    @classmethod
    def of(cls, images: Iterable[Image]) -> Self:
        """Return `images`, in any order, sorted. Texts must be UTF-8 and sizes 32-bit."""
        table = pa.Table.from_batches(_batches(images), COLUMNS)
        order = None
        # UTF-8 sorts by code point, as Python does.
        if not _is_rising(table["image_id"]):
            order = pc.call_function("sort_indices", [table["image_id"]])
        columns = []
        while table.num_columns:  # one at a time, so that two copies of all are never held
            column = table.column(0).combine_chunks()
            table = table.remove_column(0)
            columns.append(column if order is None else column.take(order))
        return cls(pa.Table.from_arrays(columns, schema=COLUMNS))

    def first_duplicate(self) -> tuple[Image, Image] | None:
        """Return the first two images of one id, if there are any."""
        ids = self._table["image_id"]
        if _is_rising(ids):
            return None
        at = pc.index(pc.call_function("equal", [ids[:-1], ids[1:]]), value=True).as_py()
        return self[at], self[at + 1]

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a field of all images as an Arrow column."""
        return self._table[name]

    def batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Yield the images as columns of the types of `schema`, GROUP_ROWS at a time."""
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
    def __getitem__(self, index: slice) -> tuple[Image, ...]: ...
    def __getitem__(self, index: int | slice) -> Image | tuple[Image, ...]:
        if isinstance(index, slice):
            return tuple(self[k] for k in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return Image(*(column[index].as_py() for column in self._table.columns))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Images):
            return self._table.equals(other._table)
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Images: {len(self)}>"


def _batches(images: Iterable[Image]) -> Iterator[pa.RecordBatch]:
    remaining = iter(images)
    while group := list(islice(remaining, GROUP_ROWS)):
        arrays = map(pa.array, zip(*group, strict=True), COLUMNS.types)
        yield pa.RecordBatch.from_arrays(list(arrays), schema=COLUMNS)


def _is_rising(ids: pa.ChunkedArray) -> bool:
    """Return whether each id is less than the next: they are sorted, and none comes twice."""
    less = pc.call_function("less", [ids[:-1], ids[1:]])
    return pc.call_function("all", [less], pc.ScalarAggregateOptions(min_count=0)).as_py()


MAX_SIDE = 2**31 - 1  # pixels, what the Parquet file holds
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")  # of a URL, or a drive: more than base.text.URL


@dataclass(frozen=True)
class Manifest:
    """Images sorted by id, every id once; a Manifest that breaks this cannot be made.

    Paths stay below the root: a manifest from elsewhere names no file outside of it. (What
    stands below the root is the user's own, symbolic links too; they are followed.)
    """

    root: str  # what paths are relative to: an absolute folder, or a URL that fsspec reads
    images: Images

    @classmethod
    def of(cls, root: str | Path, images: Iterable[Image]) -> Self:
        """Return the manifest of `images` in any order."""
        return cls(absolute_root(root), Images.of(checked(images)))

    def __post_init__(self) -> None:
        if not self.images:
            raise ManifestError(f"{self.root}: a manifest must have at least one image; it has 0")
        if duplicate := self.images.first_duplicate():
            raise same_id(*duplicate)


def same_id(first: Image, second: Image, remedy: str = "") -> ManifestError:
    """Return the error of two images with one id."""
    remedy = remedy or ("name each image once" if first.path == second.path else "rename one")
    return ManifestError(
        f"two images have the id {first.image_id!r}: {printable(first.path)} and "
        f"{printable(second.path)}; ids must be unique: {remedy}",
        code="E-MANIFEST-ID",
    )


def checked(images: Iterable[Image]) -> Iterator[Image]:
    """Yield the images, raising ManifestError at one that no manifest may hold."""
    for image in images:
        if why := broken_rule(image):
            shown = f"id {image.image_id!r:.100}, path {image.path!r:.100}"
            raise ManifestError(f"a manifest row {why}; got {shown}, size {image[2:]!r:.100}")
        yield image


def broken_rule(image: Image) -> str | None:
    """Return the rule that a row breaks, with its remedy, or None.

    >>> broken_rule(Image("a", "../a.jpg", 1, 1))
    'must have a path below the root, without .. in it'
    """
    if why := broken_text(image):
        return why
    _, path, width, height = image
    if path[0] == "/" or (".." in path and "/../" in f"/{path}/"):
        return "must have a path below the root, without .. in it"
    if not is_escaped(path):
        return "must have no backslash in its path but in an escape: parts are divided by /"
    if ":/" in path and SCHEME.match(path):
        return "must have a path and no URL: the root may be one"
    for side in (width, height):
        if type(side) is not int or not 0 <= side <= MAX_SIDE:
            return "must have a size >= 0 in whole pixels"
    return None


def broken_text(image: Image) -> str | None:
    """Return the rule that the id or the path breaks as a text, wherever the path leads, or None.

    >>> broken_text(Image("a", "", 1, 1))
    'must have an id and a path, both text and not empty'
    """
    image_id, path, *_ = image
    if type(image_id) is not str or type(path) is not str or not image_id or not path:
        return "must have an id and a path, both text and not empty"
    if not (image_id.isascii() and path.isascii()) and ODD.search(image_id + path):
        return "must have an id and a path of UTF-8 text: rename it"
    long = len(image_id) + len(path) > MAX_TEXT // 4
    if long and max(len(image_id.encode()), len(path.encode())) > MAX_TEXT:
        return f"must have an id and a path of at most {MAX_TEXT:,} bytes"
    if "\0" in path or "\0" in image_id:
        return "must have no NUL in its texts"
    return None


SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("path", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)
ROWS_A_BYTE = 16  # counted ids, the best that can be packed, gave 5
ROOT = b"clipfeat.root"  # key of the schema's metadata that names the image root


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write `manifest` to `path`, with its root."""
    if not path.parent.is_dir():
        raise ManifestError(f"cannot write {path}: {path.parent} is not a folder; make it first")
    if path.exists() and not path.is_file():  # a device, which the file would take the place of
        raise ManifestError(
            f"cannot write {path}: it exists and is not a regular file; pass another name"
        )
    if ODD.search(manifest.root):
        raise ManifestError(
            f"the name of the root {printable(manifest.root)} is not UTF-8; rename the folder, or "
            "give a link to it with --images"
        )
    with atomic_file(path) as file:
        schema = SCHEMA.with_metadata({ROOT: manifest.root.encode()})
        write_batches(file, schema, manifest.images.batches(schema))


def require_bounded(path: Path, refuse: Callable[[str], ManifestError]) -> None:
    """Raise `refuse(why)` for a Parquet file with more rows than different ids fit into it.

    Rows are all held in memory, and a few bytes may say "this row, a billion times".
    """
    rows, size = count_rows(path, refuse), path.stat().st_size
    if rows > ROWS_A_BYTE * size:
        raise refuse(f"{size:,} bytes cannot hold {rows:,} rows with an id each")


def read_manifest(path: Path) -> Manifest:
    """Return the manifest that `write_manifest` wrote to `path`.

    Raises ManifestError unless it has the four columns, no nulls, and sound values. Where the
    recorded root is not there, paths are relative to the manifest's own folder.
    """
    refuse = _refusing(path)
    if path.is_dir() or not path.exists():
        raise refuse("a folder is no manifest" if path.is_dir() else "no such file")
    require_bounded(path, refuse)
    rows = read_rows(path, SCHEMA, refuse)
    return Manifest.of(recorded_root(path), map(Image._make, rows))


def recorded_root(path: Path) -> str:
    """Return the root that the Parquet file `path` names, or else the folder it is in."""
    refuse = _refusing(path)
    recorded = (read_schema(path, refuse).metadata or {}).get(ROOT, b"")
    try:
        root = recorded.decode()
    except UnicodeDecodeError:
        raise refuse(f"its root is no path: {recorded!r:.100}") from None
    if root and (is_url(root) or _is_folder(root)):
        return root
    return from_disk(str(path.parent.absolute()))


def _is_folder(root: str) -> bool:
    try:
        return os.path.isdir(to_disk(root))  # noqa: PTH112
    except (FileNotFoundError, ValueError):  # a name that no folder can have
        return False


def _refusing(path: Path) -> Callable[[str], ManifestError]:
    def refuse(why: str) -> ManifestError:
        remedy = "make a manifest with: clipfeat manifest DIR -o images.parquet"
        return ManifestError(f"{path}: {why}; {remedy}")

    return refuse
