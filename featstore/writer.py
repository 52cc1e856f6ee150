"""Write a store: begin or resume it, write its shards in any order anywhere, finish it."""

import importlib.metadata
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..base.files import fsync_folder, remove_temporaries, write_atomically
from .errors import StoreError
from .format import (
    FORMAT,
    INDEX_PARQUET,
    JOURNAL,
    SHARDS_PARQUET,
    STORE_JSON,
    Identity,
    IndexRow,
    Status,
    differences,
    store_digest,
)
from .journal import Journal, Receipt
from .layout import Layout
from .store import FeatureStore
from .tables import write_index, write_shards
from .zarr_metadata import metadata_files


def finished_store(path: Path, identity: Identity, layout: Layout) -> FeatureStore | None:
    """Return the store at `path` if it is finished and is the one asked for, None if it is not.

    Raises StoreError, saying what differs, if something else stands there.
    """
    if not (path / STORE_JSON).exists():
        empty = not path.exists() or (path.is_dir() and not any(path.iterdir()))
        if empty or (path / JOURNAL).is_dir():
            return None
        raise StoreError(f"{path} exists and is no feature store; choose another --out")
    store = FeatureStore.open(path)
    different = list(differences(store.identity.to_json(), identity.to_json()))
    if not different and not store.holds(layout):
        different = ["it holds other images, or was cut into other shards"]
    if different:
        raise StoreError(f"{path} exists: {'; '.join(different)}; choose another --out")
    journal = Journal(path)
    if journal.folder.is_dir():  # its run was killed after the last step but one
        journal.lock()
        journal.remove()
    return store


class StoreWriter:
    """The one writer of a store; what is already down from an earlier run is kept.

    Use as a context manager, which holds the store's lock::

        with StoreWriter(path, identity, layout) as writer:
            for shard in writer.pending:
                with ShardTransaction(path, identity, layout.shard_records, shard) as files:
                    ...  # append each record, then commit
            writer.finish(libraries={})
    """

    def __init__(self, path: Path, identity: Identity, layout: Layout):
        self._path = path
        self._identity = identity
        self._layout = layout
        self._journal = Journal(path)

    def __enter__(self) -> "StoreWriter":
        plan = {
            "identity": self._identity.to_json(),
            "shard_records": self._layout.shard_records,
            "layout": self._layout.fingerprint(),
        }
        self._journal.create()
        self._journal.lock()
        try:
            if (self._path / STORE_JSON).exists():
                self._journal.remove()
                raise StoreError(f"{self._path} has just been finished by another process")
            self._check(self._journal.plan(), plan)
            remove_temporaries(self._path)
            self._journal.write_plan(plan)
            self._write_metadata()
        except BaseException:
            self._journal.release()
            raise
        done = {receipt.shard for receipt in self._journal.receipts()}
        self.pending = tuple(s for s in self._layout.shards if s.number not in done)
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.release()

    def _check(self, stored: dict[str, Any] | None, asked: dict[str, Any]) -> None:
        """Refuse to go on with a store that was begun as another."""
        if stored is None or stored == asked:
            return
        different = list(differences(stored["identity"], asked["identity"]))
        if stored["shard_records"] != asked["shard_records"]:
            different += differences(stored, asked)
        what = "; ".join(different) or "it was planned for other images"
        raise StoreError(
            f"{self._path} is unfinished and was begun otherwise: {what}. "
            f"Finish it as it was begun, or choose another --out"
        )

    def _write_metadata(self) -> None:
        layout = self._layout
        for name, content in metadata_files(
            self._identity, layout.records, layout.shard_records
        ).items():
            path = self._path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
            fsync_folder(path.parent.parent)

    def rows(self) -> list[IndexRow]:
        """Return what became of every id that is down, sorted by id."""
        return _rows(self._journal.receipts())

    def discard(self) -> None:
        """Remove the unfinished store, for a run in which nothing could be extracted."""
        shutil.rmtree(self._path)

    def finish(self, libraries: Mapping[str, str]) -> FeatureStore:
        """Write the index, the packing list and, last, store.json; remove the journal.

        `libraries` are the versions of what touched pixels; they are recorded, and are no
        part of the digest. Raises StoreError if a shard is still missing.
        """
        receipts = list(self._journal.receipts())
        missing = len(self._layout.shards) - len(receipts)
        if missing:
            raise StoreError(f"{self._path}: {missing} shards are not written yet; extract again")
        index = _rows(receipts)
        shards = sorted(file for receipt in receipts for file in receipt.files)
        write_index(self._path / INDEX_PARQUET, index)
        write_shards(self._path / SHARDS_PARQUET, shards)
        counts = Counter(row.status for row in index)
        card = {
            "format": FORMAT,
            "clipfeat": importlib.metadata.version("clipfeat"),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "identity": self._identity.to_json(),
            "libraries": dict(libraries),
            "shard_records": self._layout.shard_records,
            "grid_shapes": {str(shape): n for shape, n in self._layout.records.items()},
            "counts": {status.value: counts[status.value] for status in Status},
            "parents": [],
            "licence": None,
            "note": None,
            "digest": store_digest(self._identity, shards, index),
        }
        write_atomically(self._path / STORE_JSON, json.dumps(card, indent=2).encode())
        self._journal.remove()
        fsync_folder(self._path)
        return FeatureStore.open(self._path)


def _rows(receipts: Iterable[Receipt]) -> list[IndexRow]:
    """Return the rows of all receipts, sorted by image id."""
    return sorted(row for receipt in receipts for row in receipt.records)
