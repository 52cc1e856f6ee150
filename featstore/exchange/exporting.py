"""Write the features of a store in the formats of other programs."""

# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false

import hashlib
import os
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ...base.errors import UsageError
from ...base.files import (
    fsync_folder,
    open_output,
    read_bytes,
    remove_plain,
    require_folder,
    try_lock,
)
from ...base.jsonio import canonical_json
from ...base.text import counted, printable
from ..geometry import GridShape
from ..layout import require_outside_stores
from ..lookup import Status
from ..store import FeatureStore
from ..tables import IndexRow
from .formats import open_writer
from .options import JOURNAL_ENDING, Options
from .progress import Progress
from .records import Features

BATCH_BYTES = 32 << 20  # of features in memory at a time
MOST_BATCH = 256  # records that are read at a time
MAX_JOURNAL_BYTES = 1 << 16


@dataclass(frozen=True)
class ExportReport:
    """The result of an export.

    Attributes:
        path: Of the file or folder that was written.
        written: Number of images in it.
        before: How many of these an earlier call had written, which was interrupted.
        without_record: Number of ids without a record, by what the index says of them; `unknown`
            are chosen ids that the store does not have.
        refused: Number of images that the format cannot hold, by reason.
        examples: An id for each key of both.
    """

    path: Path
    written: int
    before: int
    without_record: dict[str, int]
    refused: dict[str, int]
    examples: dict[str, str]

    @property
    def left_out(self) -> int:
        """The number of chosen images that are not in the destination."""
        return sum(self.without_record.values()) + sum(self.refused.values())

    def to_json(self) -> dict[str, Any]:
        """Return the report for scripts."""
        return {
            "path": str(self.path),
            "written": self.written,
            "before": self.before,
            "without_record": self.without_record,
            "refused": self.refused,
            "examples": self.examples,
        }

    def text(self) -> str:
        """Return lines for a person."""
        lines = [f"{self.path}: {counted(self.written, 'image')}"]
        if self.before:
            lines[0] += f", {self.before:,} of them by an earlier call"
        for counts, what in ((self.without_record, "without a record"), (self.refused, "left out")):
            if counts:
                images = counted(sum(counts.values()), "image")
                lines.append(f"{images} {what}: {_counts_text(counts, self.examples)}")
        return "\n".join(lines)


def export_features(
    store: FeatureStore,
    path: str | Path,
    *,
    format: str,
    ids: Iterable[str] | None = None,
    options: Options | None = None,
) -> ExportReport:
    """Write the features of a store to `path` in the format `format`, or continue.

    `ids` are those to write, by default all; each is written once, in the order of the index. Until
    the end, `<path>.export.json` shows that the export is incomplete, and names the store. Ids
    without a record, and images that the format cannot hold, are counted.

    Raises UsageError, before anything is written, for a format that cannot hold what the store has
    (E-EXPORT-...), if none of the ids has a record (E-EXPORT-EMPTY), if something is at `path`
    (E-EXPORT-EXISTS), and if another export was begun there (E-EXPORT-OTHER).
    """
    path, ids = Path(path), None if ids is None else sorted(set(ids))
    writer = open_writer(format, path, store.identity, options)
    choice = _Choice(ids)
    count = sum(1 for _ in choice.rows(store))
    if not count:
        raise UsageError(
            f"{path}: there is no image to write: {_counts_text(choice.left_out, choice.examples)}",
            code="E-EXPORT-EMPTY",
        )
    without_record, examples = dict(choice.left_out), choice.examples
    refused: Counter[str] = Counter()
    before = 0
    with (
        _journal(path, _journal_of(store, format, ids, options)),
        Progress("export", count) as progress,
    ):
        done = writer.written()
        for image_id, features in progress.each(_records(store, choice.rows(store), done)):
            if features is None:
                before += 1
            else:
                try:
                    writer.write(image_id, features)
                except ValueError as error:
                    refused[str(error)] += 1
                    examples.setdefault(str(error), image_id)
        writer.finish()
    written = count - refused.total()
    return ExportReport(path, written, before, without_record, dict(refused), examples)


class _Choice:
    """The ids to write, and what there is to tell of those that are left out."""

    def __init__(self, ids: Iterable[str] | None):
        self._ids = None if ids is None else set(ids)
        self.left_out: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def rows(self, store: FeatureStore) -> Iterator[IndexRow]:
        """Yield the rows of the index of chosen ids with a record, and count the others."""
        self.left_out.clear()
        unknown = set(self._ids or ())
        for row in store.index:
            if self._ids is not None and row.image_id not in self._ids:
                continue
            unknown.discard(row.image_id)
            if row.status == Status.OK:
                yield row
            else:
                self._count(row.image_id, row.status)
        for image_id in sorted(unknown):
            self._count(image_id, "unknown")

    def _count(self, image_id: str, status: str) -> None:
        self.left_out[status] += 1
        self.examples.setdefault(status, image_id)


def _counts_text(counts: Mapping[str, int], examples: Mapping[str, str]) -> str:
    """Return how many images are left out for each reason, with an id of each."""
    return "; ".join(
        printable(f"{n:,} {reason:.300} (such as {examples[reason]:.100})")
        for reason, n in counts.items()
    )


def _records(
    store: FeatureStore, rows: Iterator[IndexRow], done: Set[str]
) -> Iterator[tuple[str, Features | None]]:
    """Yield the features of each row, None for an id in `done`."""
    largest = max(map(store.identity.record_bytes, store.grid_shapes))
    while some := list(islice(rows, max(1, min(MOST_BATCH, BATCH_BYTES // largest)))):
        wanted = [row for row in some if row.image_id not in done]
        yield from ((row.image_id, None) for row in some if row.image_id in done)
        batch = store.read([row.image_id for row in wanted])
        for k, row in enumerate(wanted):
            shape = GridShape.parse(row.shape)
            boxes, classes, scores = (
                None if values is None else values[k, : shape.cells]
                for values in (batch.boxes, batch.classes, batch.scores)
            )
            grid = batch.features[k, : shape.cells].reshape(*shape, store.dim)
            size = (row.width, row.height, row.source_sha256)
            yield row.image_id, Features(grid, boxes, classes, scores, *size)


def _journal_of(
    store: FeatureStore, name: str, ids: Sequence[str] | None, options: Options | None
) -> bytes:
    """Return what the journal of an export has: an export is only continued with the same."""
    chosen = None if ids is None else hashlib.sha256(canonical_json(ids)).hexdigest()
    layout = None if options is None else options.layout
    export = {"digest": store.digest, "format": name, "ids_sha256": chosen, "layout": layout}
    return canonical_json(export)


@contextmanager
def _journal(path: Path, content: bytes) -> Generator[None]:
    """Hold `<path>.export.json` during an export, so that no other one writes there.

    It stays after an error and a kill, and is removed at the end.
    """
    journal = path.with_name(path.name + JOURNAL_ENDING)
    if os.path.lexists(path) and not os.path.lexists(journal):
        raise UsageError(
            f"{path} exists; remove it, or choose another name", code="E-EXPORT-EXISTS"
        )
    require_folder(path.parent, "--out")
    require_outside_stores(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = open_output(journal)
    try:
        if not try_lock(descriptor):
            raise UsageError(f"another process exports to {path} now", code="E-EXPORT-LOCKED")
        begun = read_bytes(journal, MAX_JOURNAL_BYTES)
        if begun and begun != content:
            raise UsageError(
                f"{path}: another export was begun here, of {begun.decode(errors='replace'):.200}; "
                f"finish that one, or remove {journal} and what was written",
                code="E-EXPORT-OTHER",
            )
        os.pwrite(descriptor, content, 0)
        os.fsync(descriptor)
        fsync_folder(journal.parent)
        yield
        remove_plain(journal)
    finally:
        os.close(descriptor)
