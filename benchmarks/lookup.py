"""Open a store of millions of ids and look some up: time, and memory added.

python -m benchmarks.lookup [--ids N]

The tables are written as a finished store has them, with COCO-like ids; there are no features.
Each measure is taken in a fresh process, page cache warm.
"""

import argparse
import multiprocessing as mp
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clipfeat.base.files import sha256_file, write_atomically
from clipfeat.featstore import FeatureStore, GridShape, Identity, IndexRow, Status
from clipfeat.featstore.disk.lookup import LookupBuilder, lookup_bytes
from clipfeat.featstore.disk.store_json import write_card
from clipfeat.featstore.disk.tables import write_index, write_shards
from clipfeat.featstore.format import FORMAT, TABLES, table_file

SHAPE = GridShape(14, 14)
BATCH = 512
ROUNDS = 50


def image_id(number: int) -> str:
    """Return an id like those of COCO."""
    return f"COCO_train2014_{number:012}"


def write_tables(path: Path, ids: int) -> None:
    """Write store.json and the tables of a store of `ids` images."""
    builder = LookupBuilder([str(SHAPE)], {})

    def rows() -> Iterator[IndexRow]:
        for number in range(ids):
            name = image_id(number)
            row = IndexRow(
                name, Status.OK, "", str(SHAPE), number, 640, 480, "", name, f"{number:08x}"
            )
            builder.add(row)
            yield row

    path.mkdir()
    paths = {table: path / table_file(table, 0) for table in TABLES}
    write_index(paths["index"], rows())
    write_shards(paths["shards"], [])
    write_atomically(paths["lookup"], lookup_bytes(builder.columns()))
    identity = Identity({"model": "bench"}, {}, "float32", "float16", "none", 8, None)
    card = {
        "format": FORMAT,
        "clipfeat": "benchmark",
        "created": "",
        "identity": identity.to_json(),
        "libraries": {},
        "shard_records": 128,
        "grid_shapes": {str(SHAPE): ids},
        "counts": {status.value: ids * (status == Status.OK) for status in Status},
        "parents": [],
        "generation": 0,
        "tables": {table: sha256_file(file) for table, file in paths.items()},
        "digest": "",
    }
    write_card(path, card)


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
        batch = [image_id(k) for k in rng.integers(0, ids, BATCH)]
        start = time.perf_counter()
        statuses = store.statuses(batch)
        seconds.append(time.perf_counter() - start)
        assert statuses == [Status.OK] * BATCH
    assert store.statuses([image_id(ids)]) == [None]
    size = store.table_path("lookup").stat().st_size / 1e6
    print(f"{ids:,} ids, look-up of {size:.0f} MB")
    print(
        f"open              {opening * 1e3:8.2f} ms (aim: 100), {opened - before:.1f} MB added (aim: 150)"
    )
    print(
        f"{BATCH} look-ups      {np.median(seconds) * 1e3:8.2f} ms (aim: 1), the first {seconds[0] * 1e3:.2f}"
    )
    print(
        f"mapped after {BATCH * ROUNDS:,} look-ups: {resident() - opened:.0f} MB, shared between processes"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ids", type=int, default=10_000_000)
    ids = parser.parse_args().ids
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder) / "s.clipfeat"
        start = time.perf_counter()
        write_tables(path, ids)
        print(f"tables written in {time.perf_counter() - start:.0f} s")
        child = mp.get_context("spawn").Process(target=measure, args=(path, ids))
        child.start()
        child.join()


if __name__ == "__main__":
    main()
