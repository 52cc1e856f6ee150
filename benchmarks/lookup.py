"""What one call to a store costs: opening, lookups, ids that are not there, small batches.

python -m benchmarks.lookup [--ids N]

The tables are written as a finished store has them, with COCO-like ids; there are no features.
One id in a thousand is refused. Small batches are read from a store of 1,024 records of one cell.
Each measure is taken in a fresh process, page cache warm.
"""

import argparse
import multiprocessing as mp
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from clipfeat.base.files import sha256_file, write_atomically
from clipfeat.featstore import (
    FeatureStore,
    GridShape,
    Identity,
    IndexRow,
    MissingRecordError,
    Status,
)
from clipfeat.featstore.layout import TABLES, TableName, table_file
from clipfeat.featstore.lookup import LookupBuilder, lookup_bytes
from clipfeat.featstore.metadata import StoreMetadata, write_metadata
from clipfeat.featstore.tables import index_batch, write_index, write_shards
from clipfeat.featstore.writing.writer import write_store

SHAPE = GridShape(14, 14)
BATCH = 512
BATCH_ROWS = 1 << 13  # of the index, written together
ROUNDS = 50
REFUSED = 1000  # one id in so many
SMALL = 1024  # records of the store that small batches are read from
SMALL_BATCHES = (1, 2, 16, 64)
IDENTITY = Identity({"model": "bench"}, {}, "float32", "float16", "none", 8, None)


def image_id(number: int) -> str:
    """Return an id like those of COCO."""
    return f"COCO_train2014_{number:012}"


def _row(number: int) -> IndexRow:
    name, is_ok = image_id(number), bool(number % REFUSED)
    status, why = (Status.OK, "") if is_ok else (Status.MISSING, "no such file")
    check = f"{number:08x}" if is_ok else ""
    return IndexRow(name, status, why, str(SHAPE), number, 640, 480, "", name, check)


def write_tables(path: Path, ids: int) -> None:
    """Write store.json and the tables of a store of `ids` images."""
    builder = LookupBuilder([str(SHAPE)], {})

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, ids, BATCH_ROWS):
            numbers = range(start, min(start + BATCH_ROWS, ids))
            batch = index_batch(_row(number) for number in numbers)
            builder.add(batch)
            yield batch

    path.mkdir()
    paths: dict[TableName, Path] = {table: path / table_file(table, 0) for table in TABLES}
    write_index(paths["index"], batches())
    write_shards(paths["shards"], [])
    write_atomically(paths["lookup"], lookup_bytes(builder.columns()))
    missing = -(-ids // REFUSED)
    counts = dict.fromkeys(Status, 0) | {Status.OK: ids - missing, Status.MISSING: missing}
    tables: dict[TableName, str] = {table: sha256_file(file) for table, file in paths.items()}
    metadata = StoreMetadata(
        clipfeat="benchmark",
        created="",
        identity=IDENTITY,
        libraries={},
        shard_records=128,
        grid_shapes={str(SHAPE): ids},
        counts=counts,
        parents=(),
        generation=0,
        tables=tables,
        digest="0" * 64,
    )
    write_metadata(path, metadata)


def resident() -> float:
    """Return this process's resident memory in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def measure(path: Path, ids: int) -> None:
    """Print what opening and looking up cost in this process."""
    before = resident()
    start = time.perf_counter()
    store = FeatureStore.open(path)
    opening = time.perf_counter() - start
    opened = resident()
    rng = np.random.default_rng(0)
    seconds = []
    for _ in range(ROUNDS):
        numbers = rng.integers(0, ids, BATCH)
        batch = [image_id(k) for k in numbers - (numbers % REFUSED == 0) + (numbers == 0) * 2]
        start = time.perf_counter()
        statuses = store.statuses(batch)
        seconds.append(time.perf_counter() - start)
        assert statuses == [Status.OK] * BATCH
    assert store.statuses([image_id(ids)]) == [None]
    size = store.table_path("lookup").stat().st_size / 1e6
    print(f"{ids:,} ids, lookup of {size:.0f} MB")
    print(
        f"open              {opening * 1e3:8.2f} ms (aim: 100), {opened - before:.1f} MB added (aim: 150)"
    )
    print(
        f"{BATCH} lookups      {np.median(seconds) * 1e3:8.2f} ms (aim: 1), the first {seconds[0] * 1e3:.2f}"
    )
    print(f"resident after {BATCH * ROUNDS:,} lookups: {resident() - opened:.0f} MB more")
    there, gone = image_id(1), image_id(ids)
    _print_calls("id in store, there", lambda: there in store)
    _print_calls("id in store, not there", lambda: gone in store)
    _print_calls("store[id], not there", lambda: _miss(store, gone))
    _print_calls("store[id], refused", lambda: _miss(store, image_id(0)))


def _miss(store: FeatureStore, image_id: str) -> None:
    try:
        store.mask(image_id)
    except MissingRecordError:
        return
    raise AssertionError(image_id)


def _print_calls(name: str, call: Callable[[], object]) -> None:
    """Print what the first call takes, and the median of those behind it."""
    seconds = []
    until = None
    while until is None or len(seconds) < 3 or time.perf_counter() < until:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
        until = until or time.perf_counter() + 1
    first, *others = seconds
    print(f"{name:<24}{np.median(others) * 1e6:12,.1f} us, the first {first * 1e3:.2f} ms")


def measure_small(path: Path) -> None:
    """Print what small batches take of a store whose records are one cell."""
    store = FeatureStore.open(path)
    rng = np.random.default_rng(0)
    for size in SMALL_BATCHES:
        batch = [image_id(k) for k in rng.permutation(SMALL)[:size]]
        _print_calls(f"read {size} of one cell", partial(store.read, batch))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ids", type=int, default=10_000_000)
    ids = parser.parse_args().ids
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder) / "s.clipfeat"
        start = time.perf_counter()
        write_tables(path, ids)
        print(f"tables written in {time.perf_counter() - start:.0f} s")
        small = Path(folder) / "small.clipfeat"
        shapes = {image_id(k): GridShape(1, 1) for k in range(SMALL)}
        write_store(small, IDENTITY, shapes, lambda _: np.ones((1, 1, IDENTITY.dim), np.float16))
        for target, arguments in ((measure, (path, ids)), (measure_small, (small,))):
            child = mp.get_context("spawn").Process(target=target, args=arguments)
            child.start()
            child.join()


if __name__ == "__main__":
    main()
