"""Many images in little memory: columns, of which a row becomes an Image when it is asked for."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Self, overload

import pyarrow as pa
import pyarrow.compute as pc

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
