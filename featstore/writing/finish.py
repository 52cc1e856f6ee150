"""Finish a store: its tables, the zarr.json files and, last, store.json."""

import heapq
import importlib.metadata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ...base.files import sha256_file, write_atomically
from ..disk.lookup import LookupBuilder, lookup_bytes
from ..disk.store_json import write_card
from ..disk.tables import read_index, write_index, write_shards
from ..disk.zarr_metadata import metadata_files
from ..errors import StoreError
from ..format import (
    FORMAT,
    TABLES,
    GridShape,
    Identity,
    IndexRow,
    ShardRow,
    Status,
    store_digest,
    table_file,
)
from ..layout import Layout, Shard
from ..store import FeatureStore
from .journal import Journal, Receipt
from .tidy import tidy


@dataclass(frozen=True)
class Run:
    """What a writer has written, and to which store."""

    path: Path
    identity: Identity
    layout: Layout
    parent: FeatureStore | None  # the finished store that is added to

    def finish(self, libraries: Mapping[str, str]) -> FeatureStore:
        """Make the shards that are down a store, as `StoreWriter.finish` says."""
        shards = self._shards()
        parent = self.parent
        lengths = {**(parent.card["grid_shapes"] if parent else {})}
        for shape, length in self.layout.records.items():
            lengths[str(shape)] = max(length, lengths.get(str(shape), 0))
        lengths = {
            str(shape): lengths[str(shape)] for shape in sorted(map(GridShape.parse, lengths))
        }
        generation = parent.card["generation"] + 1 if parent else 0
        paths = {table: self.path / table_file(table, generation) for table in TABLES}
        counts = self._write_tables(paths, lengths, shards)
        tables = {table: sha256_file(path) for table, path in paths.items()}
        # Read back from the disk: the digest is that of what is there.
        digest = store_digest(self.identity, shards, read_index(paths["index"], tables["index"]))
        if parent is not None and digest == parent.digest:
            parents = parent.card["parents"]
        else:
            parents = [parent.digest] if parent else []
        self._write_metadata(lengths)
        write_card(
            self.path,
            {
                "format": FORMAT,
                "clipfeat": importlib.metadata.version("clipfeat"),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "identity": self.identity.to_json(),
                "libraries": dict(libraries),
                "shard_records": self.layout.shard_records,
                "grid_shapes": lengths,
                "counts": counts,
                "parents": parents,
                "licence": parent.card.get("licence") if parent else None,
                "note": parent.card.get("note") if parent else None,
                "generation": generation,
                "tables": tables,
                "digest": digest,
            },
        )
        tidy(self.path)
        return FeatureStore.open(self.path)

    def _receipts(self, shards: tuple[Shard, ...]) -> Iterator[tuple[Shard, Receipt]]:
        return Journal(self.path).receipts(shards, self.identity.arrays)

    def _shards(self) -> list[ShardRow]:
        """Return the packing list: the parent's, with the files of this run."""
        files = {shard.path: shard for shard in self.parent.shards} if self.parent else {}
        written = 0
        for _, receipt in self._receipts(self.layout.shards):
            files.update({file.path: file for file in receipt.files})
            written += 1
        missing = len(self.layout.shards) - written
        if missing:
            raise StoreError(f"{self.path}: {missing} shards are not written yet; extract again")
        return sorted(files.values())

    def _write_tables(
        self, paths: Mapping[str, Path], lengths: Mapping[str, int], shards: list[ShardRow]
    ) -> dict[str, int]:
        """Write index, packing list and look-up; return the counts by status."""
        lookup = LookupBuilder(lengths)
        counts: Counter[str] = Counter()

        def counted() -> Iterator[IndexRow]:
            for row in self._all_rows():
                lookup.add(row)
                counts[row.status] += 1
                yield row

        write_index(paths["index"], counted())
        write_shards(paths["shards"], shards)
        write_atomically(paths["lookup"], lookup_bytes(lookup.columns()))
        return {status.value: counts[status.value] for status in Status}

    def _all_rows(self) -> Iterator[IndexRow]:
        """Yield every row of the index, sorted by id, a receipt at a time."""
        runs: list[list[Shard]] = []
        for shard in (shard for shard in self.layout.shards if shard.ids):
            if runs and runs[-1][-1].ids[-1] < shard.ids[0]:
                runs[-1].append(shard)
            else:
                runs.append([shard])
        streams = [self._run_rows(run) for run in runs]
        if self.parent is not None:
            written = {image_id for shard in self.layout.shards for image_id in shard.ids}
            streams.append(row for row in self.parent.index if row.image_id not in written)
        return heapq.merge(*streams)

    def _run_rows(self, shards: list[Shard]) -> Iterator[IndexRow]:
        for _, receipt in self._receipts(tuple(shards)):
            yield from receipt.records

    def _write_metadata(self, lengths: Mapping[str, int]) -> None:
        records = {GridShape.parse(shape): n for shape, n in lengths.items()}
        for name, content in metadata_files(
            self.identity, records, self.layout.shard_records
        ).items():
            write_atomically(self.path / name, content)
