"""Which records of a store are looked at where not all of them are."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyarrow has no types.

import numpy as np
import pyarrow as pa

from ..store import FeatureStore
from ..tables import IndexRow, has_record, index_rows

SAMPLE_SEED = 0  # of what is shown of a store, so that all show the same


def drawn(total: int, count: int, seed: int) -> np.ndarray:
    """Return `count` of the numbers 0 to total - 1, or all, in an order that `seed` decides.

    The first numbers do not depend on `count`. It takes 8 bytes for each of `total`.
    """
    return np.random.default_rng(seed).permutation(total)[:count]


def sample_rows(store: FeatureStore, count: int, seed: int) -> list[IndexRow]:
    """Return the index rows of `count` records, or of all, as `drawn` decides.

    The index is read once; besides the sample, 8 bytes a record are in memory.
    """
    order = drawn(len(store), count, seed)
    ascending = np.sort(order)
    rows: dict[int, IndexRow] = {}
    start = 0
    for batch in store.index_batches():
        some = batch.filter(has_record(batch))
        first, end = np.searchsorted(ascending, (start, start + len(some))).tolist()
        chosen = ascending[first:end]
        found = index_rows([some.take(pa.array(chosen - start))])
        rows.update(zip(chosen.tolist(), found, strict=True))
        start += len(some)
    return [rows[position] for position in order.tolist() if position in rows]
