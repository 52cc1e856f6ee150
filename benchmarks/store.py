"""Random reads of raw records: ours, zarr-python one by one, LMDB.

python -m benchmarks.store [--records N] [--batch N]

The same records of 0.8 MB (14x14x2048 float16, two thirds zeros), codec none, page cache warm.
Each reader hands over one array of the whole batch; ours verifies every record's crc32c.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import zarr

from clipfeat.featstore import FeatureStore, GridShape, Identity, IndexRow, Status
from clipfeat.featstore.codecs import encode
from clipfeat.featstore.layout import lay_out
from clipfeat.featstore.shard_file import as_bytes
from clipfeat.featstore.transaction import ShardTransaction
from clipfeat.featstore.writer import StoreWriter

SHAPE = GridShape(14, 14)
DIM = 2048
ROUNDS = 5


def make_record(seed: int) -> np.ndarray:
    """Return a grid with the zeros of a rectified layer: about two thirds."""
    grid = np.random.default_rng(seed).standard_normal((*SHAPE, DIM), np.float32) - 0.43
    return np.maximum(grid, 0).astype(np.float16)


def write_store(path: Path, ids: list[str]) -> FeatureStore:
    """Write a raw store of the records of `ids`."""
    identity = Identity({"model": "bench"}, {}, "float32", "float16", "none", DIM, None)
    layout = lay_out(dict.fromkeys(ids, SHAPE), 128)
    with StoreWriter(path, identity, layout) as writer:
        for shard in writer.pending:
            with ShardTransaction(path, identity, 128, shard) as files:
                rows = []
                for position, image_id in enumerate(shard.ids):
                    record = make_record(int(image_id))
                    files.append(position, {"grid": encode("none", as_bytes(record))})
                    row = shard.first_row + position
                    rows.append(
                        IndexRow(image_id, Status.OK, "", str(SHAPE), row, 1, 1, "", image_id)
                    )
                files.commit(tuple(rows))
        return writer.finish(libraries={})


def write_lmdb(path: Path, store: FeatureStore) -> lmdb.Environment:
    """Write the same records as LMDB values, as its documentation recommends for read-only use."""
    size = 2 * len(store) * SHAPE.cells * DIM * 2 + (1 << 24)
    with lmdb.open(str(path), map_size=size) as environment:
        for image_id in store.ids:
            with environment.begin(write=True) as transaction:
                transaction.put(image_id.encode(), store[image_id].tobytes())
    return lmdb.open(str(path), readonly=True, lock=False, readahead=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=512)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        root = Path(folder)
        store = write_store(root / "s.clipfeat", [f"{k:06}" for k in range(arguments.records)])
        environment = write_lmdb(root / "lmdb", store)
        array = zarr.open_group(root / "s.clipfeat" / "features.zarr", mode="r")["14x14/grid"]
        assert isinstance(array, zarr.Array)
        rows = {row.image_id: row.row for row in store.index}

        def ours(ids: list[str]) -> np.ndarray:
            return store.read(ids).features

        def zarr_python(ids: list[str]) -> np.ndarray:
            out = np.empty((len(ids), *SHAPE, DIM), np.float16)
            for position, image_id in enumerate(ids):
                out[position] = array[rows[image_id]]
            return out

        def from_lmdb(ids: list[str]) -> np.ndarray:
            out = np.empty((len(ids), SHAPE.cells * DIM), np.float16)
            with environment.begin(buffers=True) as transaction:
                for position, image_id in enumerate(ids):
                    out[position] = np.frombuffer(
                        transaction.get(image_id.encode(), b""), np.float16
                    )
            return out

        report(
            store, arguments.batch, {"ours": ours, "zarr-python": zarr_python, "LMDB": from_lmdb}
        )


def report(
    store: FeatureStore, batch: int, readers: dict[str, Callable[[list[str]], np.ndarray]]
) -> None:
    """Time the readers in turn on the same random batches and print medians and ratios."""
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    for round_number in range(ROUNDS + 1):
        ids = [store.ids[k] for k in rng.permutation(len(store))[:batch]]
        seen = {}
        for name, read in readers.items():
            start = time.perf_counter()
            seen[name] = read(ids)
            if round_number:  # the first round warms the page cache
                seconds[name].append(time.perf_counter() - start)
        first = seen["ours"].ravel()
        assert all(np.array_equal(first, array.ravel()) for array in seen.values())
    print(f"zarr {zarr.__version__}, batch of {batch} of {len(store)} records, {ROUNDS} rounds")
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    for name, median in medians.items():
        ratio = median / medians["ours"]
        print(f"{name:<12} {batch / median:8.0f} records/s   ours is {ratio:5.1f}x as fast")


if __name__ == "__main__":
    main()
