"""How long `clipfeat store stats` takes over many small records.

python -m benchmarks.stats [--records N] [--dim N]

The records are grids of 2x2 cells, written as a store of the default shards; the page cache is
warm. The numbers are compared with those of the same arrays, taken whole.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from clipfeat.featstore import GridShape, Identity
from clipfeat.featstore.report.stats import store_stats
from clipfeat.featstore.writing.writer import write_store

SHAPE = GridShape(2, 2)
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=64)
    arguments = parser.parse_args()
    count, dim = arguments.records, arguments.dim
    grids = np.random.default_rng(0).standard_normal((count, *SHAPE, dim)).astype(np.float16)
    ids = {f"{k:08}": k for k in range(count)}
    identity = Identity({"model": "bench"}, {}, "float32", "float16", "zstd", dim, None)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        shapes = dict.fromkeys(ids, SHAPE)
        store = write_store(Path(folder) / "s.clipfeat", identity, shapes, lambda i: grids[ids[i]])
        cells = grids.reshape(-1, dim).astype(np.float64)
        for _ in range(ROUNDS):
            start, used = time.perf_counter(), time.process_time()
            found = store_stats(store).grid.channels
            seconds, used = time.perf_counter() - start, time.process_time() - used
            print(f"{count:,} records: {seconds:.2f} s, {used:.2f} s of processor time")
            np.testing.assert_allclose(found.mean, cells.mean(0), rtol=1e-12, atol=1e-15)
            np.testing.assert_allclose(found.std, cells.std(0), rtol=1e-12)


if __name__ == "__main__":
    main()
