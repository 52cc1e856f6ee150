"""Which image files have changed since they were extracted: sizes, times and hashes, kept beside.

`coco.files.parquet` lies beside the store `coco.clipfeat` and is no part of it: times differ from
copy to copy of the same images, and a digest must not. A row says that a file of this size and
time had this sha256, or, where the sha256 is empty, that its extraction was begun then. A file
without a row is compared by the sha256 in the store's index, which takes reading it.
"""

import hashlib
import heapq
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from ..base.errors import ExtractUsageError
from ..base.files import atomic_file
from ..base.parquet import read_rows, write_rows
from ..base.text import is_url, printable
from ..featstore import FeatureStore
from ..featstore.layout import Part
from ..manifests import Manifest, ManifestError, read_content, view_files
from ..manifests.contents import disk_path, split_archive, unescaped
from .report import beside

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("size", pa.int64()),  # bytes; of a viewpoint, those of all views
        ("modified", pa.int64()),  # nanoseconds since 1970; of a viewpoint, the latest
        ("sha256", pa.string()),
    ]
)
NOWHERE = (-1, -1)  # size and time of a file that is not there, or not on a disk
THREADS = 16  # that ask for sizes, or read files: they wait for disks and networks
SLICE = 64  # files that a thread is given at a time

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Changes:
    """What became of the files that the records of a finished store came from."""

    touched: int  # files that have another size or time
    unknown: int  # files whose size and time were not recorded
    hashes: Mapping[str, str]  # sha256 of those that were read to know more, by id
    changed: frozenset[str]  # ids of these whose content is another
    unreadable: tuple[str, ...]  # ids of those that could not be read to know more

    def text(self, *, read: bool) -> str:
        """Return a line for a person, "" where nothing is to be said."""
        if read:
            text = f"{_files(len(self.hashes))} read again, {len(self.changed)} of them changed"
            if self.unreadable:
                text += (
                    f"; {_files(len(self.unreadable))} could not be read, such as "
                    f"{printable(self.unreadable[0])}"
                )
            return text
        said = []
        if self.touched:
            said.append(f"{_files(self.touched)} of another size or time than when extracted")
        if self.unknown:
            said.append(f"{_files(self.unknown)} whose size and time then are not known")
        if not said:
            return ""
        return f"{'; '.join(said)}: --retry changed reads them, and extracts anew what has changed"


def _files(n: int) -> str:
    return "1 file" if n == 1 else f"{n} files"


class SourceFiles:
    """The files of a manifest's images as they are now, beside what a table says of them."""

    def __init__(self, manifest: Manifest, store: Path, views: int | None):
        """Take the files of `manifest`; none is looked at before it is asked for."""
        self._manifest = manifest
        self._store = store
        self._views = views
        self._ids = manifest.images.column("image_id")
        self._now = np.full((len(manifest.images), 2), NOWHERE, np.int64)
        self._seen = np.zeros(len(manifest.images), bool)
        self.are_here = not is_url(manifest.root)  # at a URL, files have no size and time

    def changes(self, store: FeatureStore, *, read: bool) -> Changes:
        """Compare the files with those that the records of `store` came from.

        With `read`, those whose size or time is another one or not known are read: only another
        content makes a file changed, since copying gives it another time.
        """
        counts = {"touched": 0, "unknown": 0}
        self._look(np.ones_like(self._seen))

        def suspects() -> Iterator[tuple[str, str, str]]:
            """Yield id, path and the sha256 that the index has."""
            rows = aligned(self._ids, heapq.merge(*map(_rows, _tables(self._store))))
            index = aligned(self._ids, ((row.image_id, row.source_sha256) for row in store.index))
            for image, now, there, indexed in zip(
                self._manifest.images, self._stamps(), rows, index, strict=True
            ):
                sha256 = indexed[0][1] if indexed else ""
                if not sha256 or (self.are_here and now[0] < 0):
                    continue  # it gave nothing, or is gone
                stamps = [[size, modified] for _, size, modified, of in there if of == sha256]
                if now not in stamps:
                    counts["touched" if stamps else "unknown"] += 1
                    yield image.image_id, image.path, sha256

        if not (read or self.are_here):
            return Changes(0, 0, {}, frozenset(), ())
        changed, hashes, unreadable = set(), {}, []
        for image_id, then, now in _side_by_side(self._hashed, suspects()) if read else suspects():
            if not read:
                continue
            if not now:
                unreadable.append(image_id)
                continue
            hashes[image_id] = now
            changed |= {image_id} if now != then else set()
        return Changes(
            counts["touched"], counts["unknown"], hashes, frozenset(changed), tuple(unreadable)
        )

    def record(
        self,
        part: Part | None,
        ids: Iterable[str],
        hashes: Iterable[tuple[str, str]] = (),
        planned: Iterable[str] = (),
    ) -> int:
        """Record the files of `ids` as they are now, with their `hashes`, sorted by id, if known.

        A file that was looked at before is taken to be as it was then: before it was read.

        Other rows stay; those of `planned` ids without a sha256, which a run before has begun,
        take it from `hashes`. Returns how many of these have changed size or time since.
        """
        path = beside(self._store, "files", part, "parquet")
        old = _rows(path) if path.exists() else iter(())
        fresh, settled, changed = self._mask(ids), self._mask(planned), 0
        self._look(fresh | settled)

        def rows() -> Iterator[tuple[str, int, int, str]]:
            nonlocal changed
            for image_id, now, is_fresh, is_settled, there, known in zip(
                _texts(self._ids),
                self._stamps(),
                fresh.tolist(),
                settled.tolist(),
                aligned(self._ids, old),
                aligned(self._ids, hashes),
                strict=True,
            ):
                sha256 = known[0][1] if known else ""
                _, size, modified, of = there[0] if there else ("", *NOWHERE, "")
                if is_fresh:  # a try that comes to nothing leaves what was known of the same file
                    same = of if now == [size, modified] else ""
                    yield image_id, now[0], now[1], sha256 or same
                elif there:
                    changed += is_settled and not of and now != [size, modified]
                    yield image_id, size, modified, of or (sha256 if is_settled else "")

        if self.are_here:
            with atomic_file(path) as file:
                write_rows(file, SCHEMA, rows())
        return changed

    def forget(self, part: Part | None) -> None:
        """Remove the table."""
        beside(self._store, "files", part, "parquet").unlink(missing_ok=True)

    def _stamps(self) -> Iterator[list[int]]:
        for start in range(0, len(self._now), 1 << 16):
            yield from self._now[start : start + (1 << 16)].tolist()

    def _look(self, wanted: np.ndarray) -> None:
        """Ask the disk for size and time of the `wanted` files, of each one once."""
        todo = wanted & ~self._seen
        if not (self.are_here and todo.any()):
            return
        paths = _texts(self._manifest.images.column("path").filter(pa.array(todo)))
        found = _side_by_side(self._stamp, paths)
        total = int(todo.sum())
        for position, stamp in zip(
            np.flatnonzero(todo),
            tqdm(found, "sizes and times", total, unit="file", disable=None),
            strict=True,
        ):
            self._now[position] = stamp
        self._seen |= todo

    def _mask(self, ids: Iterable[str]) -> np.ndarray:
        """Return for each image of the manifest whether its id is one of `ids`."""
        wanted = pa.array(list(ids), self._ids.type)
        found = pc.call_function("is_in", [self._ids], pc.SetLookupOptions(value_set=wanted))
        return found.to_numpy()

    def _stamp(self, path: str) -> tuple[int, int]:
        return file_stamp(self._manifest.root, path, self._views)

    def _hashed(self, suspect: tuple[str, str, str]) -> tuple[str, str, str]:
        """Return the id, the sha256 that was and the one that is, "" where there is none."""
        image_id, path, then = suspect
        return image_id, then, file_sha256(self._manifest.root, path, self._views)


def file_stamp(root: str, path: str, views: int | None) -> tuple[int, int]:
    """Return size and time of the file `path` under the folder `root`, NOWHERE if it is not there.

    Of an image in a tar file they are the tar file's; of a viewpoint, those of its views together.
    """
    try:
        found = [_status(root, unescaped(name)) for name in _names(root, path, views)]
    except (OSError, ManifestError):
        return NOWHERE
    return sum(each.st_size for each in found), max(each.st_mtime_ns for each in found)


def file_sha256(root: str, path: str, views: int | None) -> str:
    """Return the sha256 of a file as the index has it, "" where it cannot be read.

    Of a viewpoint, it is taken over all views in order.
    """
    digest = hashlib.sha256()
    try:
        for name in _names(root, path, views):
            digest.update(read_content(root, name))
    except (OSError, ManifestError):
        return ""
    return digest.hexdigest()


def _names(root: str, path: str, views: int | None) -> list[str]:
    return [path] if views is None else view_files(root, path)


def _status(root: str, path: str) -> os.stat_result:
    """Return what the system says of the file `path`, without escapes, or of the tar it is in."""
    try:
        return os.stat(disk_path(root, path))  # noqa: PTH116
    except NotADirectoryError:
        return os.stat(disk_path(root, split_archive(root, path)[0]))  # noqa: PTH116


def aligned(
    ids: pa.ChunkedArray, rows: Iterable[tuple[Any, ...]]
) -> Iterator[list[tuple[Any, ...]]]:
    """Yield for each of `ids` the rows that begin with it, none perhaps; both are sorted.

    >>> ids = pa.chunked_array([["a", "b", "c"]])
    >>> list(aligned(ids, [("a", 1), ("a", 2), ("aa", 3), ("c", 4)]))
    [[('a', 1), ('a', 2)], [], [('c', 4)]]
    """
    groups = groupby(rows, itemgetter(0))
    at, group = next(groups, (None, iter(())))
    for image_id in _texts(ids):
        while at is not None and at < image_id:
            at, group = next(groups, (None, iter(())))
        yield list(group) if at == image_id else []


def _texts(column: pa.ChunkedArray) -> Iterator[str]:
    """Yield the texts of a column, without holding all of them at once."""
    for start in range(0, len(column), 1 << 16):
        yield from column.slice(start, 1 << 16).to_pylist()


def _tables(store: Path) -> list[Path]:
    """Return the tables of a store's source files: its own, and those of its parts."""
    own = beside(store, "files", None, "parquet")
    name = re.compile(re.escape(own.stem) + r"(-\d+-of-\d+)?\.parquet")
    return [path for path in sorted(own.parent.iterdir()) if name.fullmatch(path.name)]


def _rows(path: Path) -> Iterator[tuple[Any, ...]]:
    def refuse(why: str) -> ExtractUsageError:
        return ExtractUsageError(
            f"{path}: {why}; remove it: --retry changed then reads every file",
            code="E-FILES-TABLE",
        )

    return read_rows(path, SCHEMA, refuse)


def _side_by_side(function: Callable[[Item], Result], items: Iterator[Item]) -> Iterator[Result]:
    """Yield `function` of each item, in order, from several threads."""

    def of_slice(some: list[Item]) -> list[Result]:
        return [function(item) for item in some]

    slices = iter(lambda: list(islice(items, SLICE)), [])
    with ThreadPoolExecutor(THREADS) as threads:
        while group := list(islice(slices, THREADS)):
            for results in threads.map(of_slice, group):
                yield from results
