"""The ids of a store as columns in memory: searched, filtered and read page by page."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyarrow has no types.

from bisect import bisect_left
from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..base.errors import MissingRecordError, StoreError, StoreUsageError, UsageError
from ..base.text import printable
from ..featstore import FeatureStore, GridShape
from ..featstore.lookup import NORMAL_FORMS, STATUSES
from ..featstore.report.sample import SAMPLE_SEED, drawn

COLUMNS = ("image_id", "status", "reason", "shape", "width", "height", "source")  # of the index
MAX_IDS = 10_000_000  # a million take some 300 MB of memory
MAX_PAGE = 500
KEPT_SEARCHES = 8  # their rows take 8 bytes for each id that was found


class Entry(NamedTuple):
    """What the index says of an id."""

    image_id: str
    status: str
    reason: str
    shape: GridShape | None  # None without a record
    size: tuple[int, int] | None  # (width, height) of the image in pixels, None if not known
    source: str  # path of the image below the root of its manifest, "" if not known

    def to_json(self) -> dict[str, Any]:
        """Return what a list of ids shows."""
        return {
            "id": self.image_id,
            "status": self.status,
            "reason": self.reason or None,
            "shape": None if self.shape is None else [*self.shape],
        }


class Catalogue:
    """The index of a store in memory, sorted by id. Safe to share between threads."""

    def __init__(self, batches: Iterable[pa.RecordBatch], location: str):
        """Take columns of the index, COLUMNS in their order; errors call the store `location`."""
        self._location = location
        schema = pa.schema([(name, pa.int32()) if name in ("width", "height")
                            else (name, pa.string()) for name in COLUMNS])  # fmt: skip
        table = pa.Table.from_batches(list(batches), schema)
        self._columns: dict[str, pa.Array] = {}
        for name in ("image_id", "reason", "source"):
            self._columns[name] = _whole(table.column(name).cast(pa.large_string()))
        for name in ("status", "shape"):
            encoded = _whole(pc.call_function("dictionary_encode", [table.column(name)]))
            self._columns[name] = encoded
        self._sides = [table.column(name).to_numpy() for name in ("width", "height")]
        # Not a method of this object, which would then live until the garbage collector runs.
        self._rows = lru_cache(KEPT_SEARCHES)(_Search(self._columns).rows)

    @classmethod
    def of(cls, store: FeatureStore) -> "Catalogue":
        """Read the index of a store; StoreUsageError for more than MAX_IDS ids."""
        if store.metadata.id_count > MAX_IDS:
            raise StoreUsageError(
                f"{store.location} has {store.metadata.id_count:,} ids, and at most {MAX_IDS:,} can "
                f"be viewed; make a smaller store: clipfeat store subset",
                code="E-VIEW-IDS",
            )
        return cls(store.index_batches(*COLUMNS), store.location)

    def __len__(self) -> int:
        return len(self._columns["image_id"])

    def page(
        self, *, search: str = "", status: str = "", shape: str = "", start: int, count: int
    ) -> tuple[int, list[Entry]]:
        """Return how many ids fit, and `count` of them from the one numbered `start`.

        `search` is a part of the id, whatever the case of its letters; `status` and `shape` are
        those of the index, "" for all. Raises UsageError for a status or a shape that cannot be.
        """
        if status and status not in STATUSES:
            raise UsageError(
                f"status must be one of {', '.join(STATUSES)}; got {printable(status)!r:.40}",
                code="E-VIEW-STATUS",
            )
        try:
            shape = str(GridShape.parse(shape)) if shape else ""
        except StoreError as error:
            raise UsageError(f"shape: {error}", code="E-VIEW-SHAPE") from None
        rows = self._rows(search, status, shape)
        return len(rows), [self._entry(int(row)) for row in rows[start : start + count]]

    def find(self, image_id: str) -> Entry:
        """Return what the index says of an id; MissingRecordError (E-STORE-NO-ID) for others.

        Unicode's normal forms NFC and NFD of an id are the same id, as in `FeatureStore`.
        """
        ids = self._columns["image_id"]
        for form in (image_id, *(normalize(form, image_id) for form in NORMAL_FORMS)):
            wanted = form.encode("utf-8", "surrogatepass")
            row = bisect_left(
                range(len(ids)), wanted, key=lambda k: ids[k].as_buffer().to_pybytes()
            )
            if row < len(ids) and ids[row].as_py() == form:
                return self._entry(row)
        raise MissingRecordError(
            f"{self._location} has no image id {image_id!r:.100}; search in the list of ids",
            code="E-STORE-NO-ID",
        )

    def with_record(self, count: int) -> list[str]:
        """Return at most `count` ids that have a record, as `sample_rows` chooses them."""
        rows = self._rows("", "ok", "")
        rows = rows[drawn(len(rows), count, SAMPLE_SEED)]
        return self._columns["image_id"].take(pa.array(rows)).to_pylist()

    @cached_property
    def shapes(self) -> dict[str, int]:
        """The number of records of each grid shape, the most frequent first."""
        column = self._columns["shape"]
        counts = np.bincount(
            column.indices.to_numpy()[self._rows("", "ok", "")], minlength=len(column.dictionary)
        )
        order = np.argsort(-counts, kind="stable")
        names = column.dictionary.to_pylist()
        return {names[k]: int(counts[k]) for k in order.tolist() if counts[k]}

    def _entry(self, row: int) -> Entry:
        image_id, status, reason, shape, source = (
            self._columns[name][row].as_py()
            for name in ("image_id", "status", "reason", "shape", "source")
        )
        width, height = (int(side[row]) for side in self._sides)
        return Entry(
            image_id,
            status,
            reason,
            GridShape.parse(shape) if status == "ok" else None,
            (width, height) if width > 0 and height > 0 else None,
            source,
        )


class _Search(NamedTuple):
    """Finds the rows that fit."""

    columns: dict[str, pa.Array]

    def rows(self, search: str, status: str, shape: str) -> np.ndarray:
        """Return the numbers of the rows that fit, (row,) int64, in the order of the index."""
        fits = np.ones(len(self.columns["image_id"]), bool)
        for name, wanted in (("status", status), ("shape", shape)):
            if wanted:
                column = self.columns[name]
                number = column.dictionary.index(wanted).as_py()  # -1: no id has it
                fits &= column.indices.to_numpy() == number
        if shape:  # the index has the planned shape of ids without a record too
            column = self.columns["status"]
            fits &= column.indices.to_numpy() == column.dictionary.index("ok").as_py()
        if search:
            found = pc.call_function(
                "match_substring",
                [self.columns["image_id"]],
                pc.MatchSubstringOptions(search, ignore_case=True),
            )
            fits &= found.to_numpy(zero_copy_only=False)
        return np.flatnonzero(fits)


def _whole(column: pa.ChunkedArray) -> Any:
    """Return a column in one piece."""
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        return whole.chunk(0) if whole.num_chunks else pa.array([], column.type)
    return whole
