"""Which image files have changed since they were extracted: sizes, times and hashes, kept beside.

`coco.files.parquet` lies beside the store `coco.clipfeat` and is no part of it: times differ from
copy to copy of the same images, and a digest must not. A row says that a file of this size and
time had this sha256, or, where the sha256 is empty, that its extraction was begun then. A file
without a row is compared by the sha256 in the store's index, which takes reading it.
"""

import heapq
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from ..base.errors import ExtractUsageError
from ..base.files import atomic_file
from ..base.parquet import read_batches, rows_of, write_batches
from ..base.text import counted, is_url, printable
from ..featstore import FeatureStore
from ..featstore.layout import Ids, Part
from ..manifests import Manifest
from .pixels.files import NO_STAMP, file_sha256, file_stamp
from .report import beside

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("size", pa.int64()),  # bytes; of a viewpoint, those of all views
        ("modified", pa.int64()),  # nanoseconds since 1970; of a viewpoint, the latest
        ("sha256", pa.string()),
    ]
)
STAMP = ("size", "modified")
HASHES = pa.schema([("image_id", pa.string()), ("source_sha256", pa.string())])  # of the index
ROWS = 1 << 16  # of a table, handled together
THREADS = 16  # that ask for sizes, or read files: they wait for disks and networks
SLICE = 64  # files that a thread is given at a time

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Changes:
    """Differences of files from those that the records of a finished store were extracted from."""

    touched: int  # files that have another size or time
    unknown: int  # files whose size and time were not recorded
    hashes: Mapping[str, str]  # sha256 of those of them that were read, by id
    changed: frozenset[str]  # ids of those whose content has changed
    unreadable: tuple[str, ...]  # ids of those that could not be read

    def text(self, *, read: bool) -> str:
        """Return a line for a person, "" where there is nothing to report."""
        if read:
            text = f"{counted(len(self.hashes), 'file')} read again, {len(self.changed)} of them changed"
            if self.unreadable:
                text += (
                    f"; {counted(len(self.unreadable), 'file')} could not be read, such as "
                    f"{printable(self.unreadable[0])}"
                )
            return text
        parts = []
        if self.touched:
            parts.append(
                f"{counted(self.touched, 'file')} of another size or time than when extracted"
            )
        if self.unknown:
            parts.append(
                f"the earlier size and time of {counted(self.unknown, 'file')} are not known"
            )
        if not parts:
            return ""
        return (
            f"{'; '.join(parts)}; to compare the content of these files and extract the changed "
            "ones again, add --retry changed"
        )


class _Suspect(NamedTuple):
    """A file that may have changed since it was extracted."""

    image_id: str
    path: str
    sha256: str  # that the index has
    is_touched: bool  # its size and time were recorded, and are others now


class SourceFiles:
    """The files of a manifest's images as they are now, and the table of what they were."""

    def __init__(self, manifest: Manifest, store: Path, views: int | None):
        """Take the files of `manifest`; none is looked at before it is asked for."""
        self._manifest = manifest
        self._store = store
        self._views = views
        self._ids = manifest.images.column("image_id")
        self._stamps = np.full((len(manifest.images), 2), NO_STAMP, np.int64)
        self._seen = np.zeros(len(manifest.images), bool)
        self._is_local = not is_url(manifest.root)  # at a URL, files have no size and time

    def changes(self, store: FeatureStore, *, read: bool) -> Changes:
        """Compare the files with those that the records of `store` came from.

        With `read`, those whose size or time has changed or is not known are read: only another
        content makes a file changed, since copying gives it another time.
        """
        touched = unknown = 0
        hashes: dict[str, str] = {}
        changed: set[str] = set()
        unreadable: list[str] = []
        suspects = self._suspects(store) if read or self._is_local else iter(())
        compared = _side_by_side(self._read, suspects) if read else ((s, None) for s in suspects)
        for suspect, sha256 in compared:
            touched += suspect.is_touched
            unknown += not suspect.is_touched
            if sha256 == "":
                unreadable.append(suspect.image_id)
            elif sha256 is not None:
                hashes[suspect.image_id] = sha256
                if sha256 != suspect.sha256:
                    changed.add(suspect.image_id)
        return Changes(touched, unknown, hashes, frozenset(changed), tuple(unreadable))

    def _suspects(self, store: FeatureStore) -> Iterator[_Suspect]:
        """Yield the files whose size or time is not that of a row with the index's sha256."""
        self._look(np.ones_like(self._seen))
        recorded = aligned(self._ids, heapq.merge(*map(_rows, _tables(self._store))))
        indexed = aligned(self._ids, ((row.image_id, row.source_sha256) for row in store.index))
        for image, stamp, rows, index in zip(
            self._manifest.images, self._all_stamps(), recorded, indexed, strict=True
        ):
            sha256 = index[0][1] if index else ""
            if not sha256 or (self._is_local and stamp[0] < 0):
                continue  # it was not read then, or does not exist now
            known = [[size, modified] for _, size, modified, of in rows if of == sha256]
            if stamp not in known:
                yield _Suspect(image.image_id, image.path, sha256, bool(known))

    def record(
        self,
        part: Part | None,
        ids: Iterable[Ids],
        index: Iterable[pa.RecordBatch] = (),
        planned: Iterable[Ids] = (),
    ) -> int:
        """Record the files of `ids` as they are now, with their hashes in `index`, if known.

        A file that was looked at before is taken to be as it was then: before it was read.
        `index` has the columns image_id and source_sha256, and is sorted by id.

        Other rows stay; those of `planned` ids without a sha256, which an earlier run has begun,
        take it from `index`. Returns how many of these have changed size or time since.
        """
        path = beside(self._store, "files", part, "parquet")
        before = _batches(path) if path.exists() else iter(())
        fresh, settled, changed = self._mask(ids), self._mask(planned), 0
        self._look(fresh | settled)

        def batches() -> Iterator[pa.RecordBatch]:
            nonlocal changed
            recorded = joined(self._ids, before, SCHEMA)
            known = joined(self._ids, index, HASHES)
            for start, old, new in zip(
                range(0, len(self._ids), ROWS), recorded, known, strict=True
            ):
                rows = slice(start, start + ROWS)
                batch, different = _renewed(
                    self._ids[rows], self._stamps[rows], fresh[rows], settled[rows], old, new
                )
                changed += different
                yield batch

        if self._is_local:
            with atomic_file(path) as file:
                write_batches(file, SCHEMA, batches())
        return changed

    def forget(self, part: Part | None) -> None:
        """Remove the table."""
        beside(self._store, "files", part, "parquet").unlink(missing_ok=True)

    def _all_stamps(self) -> Iterator[list[int]]:
        for start in range(0, len(self._stamps), ROWS):
            yield from self._stamps[start : start + ROWS].tolist()

    def _look(self, wanted: np.ndarray) -> None:
        """Ask the disk for size and time of the `wanted` files, of each one once."""
        todo = wanted & ~self._seen
        if not (self._is_local and todo.any()):
            return
        paths = _texts(self._manifest.images.column("path").filter(pa.array(todo)))
        stamps = _side_by_side(self._stamp, paths)
        total = int(todo.sum())
        for position, stamp in zip(
            np.flatnonzero(todo),
            tqdm(stamps, "sizes and times", total, unit="file", disable=None),
            strict=True,
        ):
            self._stamps[position] = stamp
        self._seen |= todo

    def _mask(self, several: Iterable[Ids]) -> np.ndarray:
        """Return for each image of the manifest whether its id is one of several."""
        mask, all_ids = np.zeros(len(self._ids), bool), Ids(self._ids)
        wanted = pa.chunked_array([ids.column for ids in several], self._ids.type)
        for start in range(0, len(wanted), ROWS):  # those of a grid shape are sorted
            some = wanted[start : start + ROWS].combine_chunks()
            ends = pc.call_function("min_max", [some]).as_py()
            place = slice(bisect_left(all_ids, ends["min"]), bisect_right(all_ids, ends["max"]))
            options = pc.SetLookupOptions(some)
            mask[place] |= pc.call_function("is_in", [self._ids[place]], options).to_numpy()
        return mask

    def _stamp(self, path: str) -> tuple[int, int]:
        return file_stamp(self._manifest.root, path, self._views)

    def _read(self, suspect: _Suspect) -> tuple[_Suspect, str | None]:
        """Return the sha256 of a file as it is now, "" where it cannot be read."""
        return suspect, file_sha256(self._manifest.root, suspect.path, self._views)


def _renewed(
    ids: pa.ChunkedArray,
    stamps: np.ndarray,  # (image, 2) sizes and times now
    fresh: np.ndarray,  # (image,) bool: record the file as it is now
    settled: np.ndarray,  # (image,) bool: give what is recorded its hash
    old: pa.Table,  # what is recorded, nulls where nothing is
    new: pa.Table,  # the hashes of the index, nulls where there is none
) -> tuple[pa.RecordBatch, int]:
    """Return the table's rows of some images, and how many settled ones have changed since."""
    is_recorded = old["image_id"].is_valid().to_numpy()
    was = np.stack([old[name].fill_null(NO_STAMP[0]).to_numpy() for name in STAMP], axis=1)
    of = old["sha256"].fill_null("").to_numpy()
    sha256 = new["source_sha256"].fill_null("").to_numpy()
    is_same = (stamps == was).all(axis=1)
    # A try without a record leaves what was known of the same file.
    now = np.where(sha256 != "", sha256, np.where(is_same, of, ""))
    then = np.where(of != "", of, np.where(settled, sha256, ""))
    sizes, times = np.where(fresh[:, None], stamps, was).T
    rows = [ids.cast(pa.string()).combine_chunks(), sizes, times, np.where(fresh, now, then)]
    arrays = [pa.array(values, kind) for values, kind in zip(rows, SCHEMA.types, strict=True)]
    batch = pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)
    different = ~fresh & is_recorded & settled & (of == "") & ~is_same
    return batch.filter(pa.array(fresh | is_recorded)), int(different.sum())


def joined(
    ids: pa.ChunkedArray, batches: Iterable[pa.RecordBatch], schema: pa.Schema
) -> Iterator[pa.Table]:
    """Yield for ROWS `ids` at a time their rows of `batches`, with the columns of `schema`.

    Ids and batches are sorted by id, the first column. Where an id has no row, all columns are null.

    >>> ids = pa.chunked_array([["a", "b", "c"]])
    >>> rows = pa.record_batch({"id": ["a", "aa", "c"], "n": [1, 2, 3]})
    >>> list(joined(ids, [rows], rows.schema))[0]["n"].to_pylist()
    [1, None, 3]
    """
    remaining = iter(batches)
    batch = next(remaining, None)
    for start in range(0, len(ids), ROWS):
        some = ids[start : start + ROWS].cast(schema.types[0])
        last = some[-1].as_py()
        found: list[pa.RecordBatch] = []
        while batch is not None:
            batch = batch.select(schema.names)
            end = bisect_right(Ids(batch.column(0)), last)
            found.append(batch[:end])
            if end < len(batch):
                batch = batch[end:]
                break
            batch = next(remaining, None)
        rows = pa.Table.from_batches(found, schema)
        at = pc.call_function("index_in", [some], pc.SetLookupOptions(rows[schema.names[0]]))
        yield rows.take(at)


def aligned(
    ids: pa.ChunkedArray, rows: Iterable[tuple[Any, ...]]
) -> Iterator[list[tuple[Any, ...]]]:
    """Yield for each of `ids` the rows that begin with it, perhaps none; both are sorted.

    >>> ids = pa.chunked_array([["a", "b", "c"]])
    >>> list(aligned(ids, [("a", 1), ("a", 2), ("aa", 3), ("c", 4)]))
    [[('a', 1), ('a', 2)], [], [('c', 4)]]
    """
    groups = groupby(rows, itemgetter(0))
    key, group = next(groups, (None, iter(())))
    for image_id in _texts(ids):
        while key is not None and key < image_id:
            key, group = next(groups, (None, iter(())))
        yield list(group) if key == image_id else []


def _texts(column: pa.ChunkedArray) -> Iterator[str]:
    """Yield the texts of a column, without holding all of them at once."""
    for start in range(0, len(column), ROWS):
        yield from column.slice(start, ROWS).to_pylist()


def _tables(store: Path) -> list[Path]:
    """Return the tables of a store's source files: of the whole, and of its parts."""
    whole = beside(store, "files", None, "parquet")
    name = re.compile(re.escape(whole.stem) + r"(-\d+-of-\d+)?\.parquet")
    return [path for path in sorted(whole.parent.iterdir()) if name.fullmatch(path.name)]


def _rows(path: Path) -> Iterator[tuple[Any, ...]]:
    for batch in _batches(path):
        yield from rows_of(batch)


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    def refuse(reason: str) -> ExtractUsageError:
        return ExtractUsageError(
            f"{path}: {reason}; remove it: --retry changed then reads every file",
            code="E-FILES-TABLE",
        )

    return read_batches(path, SCHEMA, refuse)


def _side_by_side(function: Callable[[Item], Result], items: Iterator[Item]) -> Iterator[Result]:
    """Yield `function` of each item, in order, from several threads."""

    def of_slice(some: list[Item]) -> list[Result]:
        return [function(item) for item in some]

    slices = iter(lambda: list(islice(items, SLICE)), [])
    with ThreadPoolExecutor(THREADS) as threads:
        while group := list(islice(slices, THREADS)):
            for results in threads.map(of_slice, group):
                yield from results
