"""Write a store again with other numbers or another codec, and measure what that has cost."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from tqdm import tqdm

from ...base.errors import StoreError, UsageError
from ..geometry import GridShape
from ..identity import MANTISSA_BITS, Codec, DerivedFrom, Dtype, Identity
from ..layout import Grids, Shard, lay_out
from ..lookup import Status
from ..metadata import Loss
from ..quantise import Scale, scale_sha256
from ..shards import RecordHashes, thread_count
from ..store import FeatureStore
from ..tables import IndexRow
from .describe import set_loss
from .run import finished_store
from .writer import ShardTransaction, StoreWriter, encode_record

CHUNK = 16  # records in memory at a time


def convert(
    source: FeatureStore,
    out: Path,
    *,
    dtype: Dtype | None = None,
    mantissa_bits: int | None = None,
    codec: Codec | None = None,
) -> FeatureStore:
    """Write the store `source` to `out` with the given numbers and codec; return the new store.

    The new store has the same ids, and its identity names the old one. What an option does not
    name stays as it is. With dtype uint8 each channel has 256 values between its bounds in the
    whole store, which is read once before for them. With `mantissa_bits` float16 is rounded to
    nearest, ties to even. At the end the loss is measured, as readers of the new store see it.
    Continues a conversion that was interrupted. Raises UsageError for options that do not fit each
    other, StoreError if something else is at `out`, and for a number beyond float16.
    """
    dtype = dtype or ("float16" if mantissa_bits else source.identity.dtype)
    settings = {"dtype": dtype, "mantissa_bits": mantissa_bits, "codec": codec}
    if mantissa_bits is not None and (dtype != "float16" or not 1 <= mantissa_bits < MANTISSA_BITS):
        raise UsageError(
            f"--mantissa-bits must be from 1 to {MANTISSA_BITS - 1}, and goes with --dtype float16; "
            f"got {mantissa_bits} with {dtype}",
            code="E-STORE-CONVERT",
        )
    if out.absolute() == source.path:
        raise UsageError(
            f"{out} is the store to convert; choose another folder", code="E-STORE-CONVERT"
        )
    scale = _measure_scale(source) if dtype == "uint8" else None
    identity = msgspec.structs.replace(
        source.identity,
        dtype=dtype,
        mantissa_bits=mantissa_bits,
        codec=codec or source.identity.codec,
        scale_sha256=None if scale is None else scale_sha256(scale),
        derived_from=DerivedFrom(source.digest, "convert", settings),
    )
    store = finished_store(out, identity)
    if store is None:
        store = _write(source, out, identity, scale)
    if store.metadata.loss is None:
        set_loss(out, _measure_loss(source, store))
    return FeatureStore.open(out)


def _write(
    source: FeatureStore, out: Path, identity: Identity, scale: Scale | None
) -> FeatureStore:
    rows = {row.image_id: row for row in source.index}
    shapes = {image_id: GridShape.parse(row.shape) for image_id, row in rows.items()}
    layout = lay_out(Grids.of(shapes), source.metadata.shard_records)
    change = partial(_as_dtype, identity=identity, scale=scale)
    with (
        StoreWriter(out, identity, layout, scale=scale) as writer,
        ThreadPoolExecutor(thread_count()) as threads,
        tqdm(total=len(rows), desc="convert", unit="image", disable=None) as bar,
    ):
        pending = {shard.number for shard in writer.pending}
        bar.update(sum(len(s.ids) for s in layout.shards if s.number not in pending))
        for shard in writer.pending:
            libraries = source.metadata.libraries
            with ShardTransaction(out, identity, layout.shard_records, shard, libraries) as files:
                written: list[IndexRow] = []
                for encoded, row in _encoded_rows(source, shard, rows, identity, change, threads):
                    if encoded is not None:
                        files.append(row.row - shard.first_row, encoded)
                    written.append(row)
                    bar.update()
                files.commit(tuple(written))
        return writer.commit()


def _encoded_rows(
    source: FeatureStore,
    shard: Shard,
    rows: Mapping[str, IndexRow],
    identity: Identity,
    change: Callable[[np.ndarray], np.ndarray],
    threads: ThreadPoolExecutor,
) -> Iterator[tuple[dict[str, bytes] | None, IndexRow]]:
    """Yield the record of each id of a shard as it will lie on disk, and its row of the index."""

    def encode_one(record: dict[str, np.ndarray]) -> dict[str, bytes]:
        return encode_record(identity, shard.shape, {**record, "grid": change(record["grid"])})

    places = iter(zip(shard.ids, shard.rows, strict=True))
    while some := list(islice(places, CHUNK)):
        ok = [image_id for image_id, _ in some if rows[image_id].status == Status.OK]
        encoded = iter(threads.map(encode_one, _records(source, ok, shard.shape)))
        for image_id, row in some:
            old = rows[image_id]
            record = next(encoded) if old.status == Status.OK else None
            hashes = RecordHashes() if record is None else RecordHashes.of(record.values())
            yield record, old._replace(row=row, **hashes._asdict())


def _records(
    source: FeatureStore, ids: Sequence[str], shape: GridShape
) -> list[dict[str, np.ndarray]]:
    """Return the arrays of records of one grid shape."""
    if not ids:
        return []
    batch = source.read(ids)
    beside = {name: getattr(batch, name) for name in source.identity.arrays[1:]}
    grids = batch.features.reshape(len(ids), *shape, -1)
    return [
        {"grid": grid, **{name: values[k] for name, values in beside.items()}}
        for k, grid in enumerate(grids)
    ]


def _as_dtype(grid: np.ndarray, identity: Identity, scale: Scale | None) -> np.ndarray:
    """Return the numbers of a grid that are stored for it."""
    if scale is not None:
        return scale.quantise(grid)
    with np.errstate(over="ignore"):
        numbers = grid.astype(identity.numpy_dtype)
    if not np.isfinite(numbers).all():
        raise StoreError(
            f"a number of {np.abs(grid).max():.4g} is beyond {identity.dtype}; choose float32",
            code="E-STORE-RANGE",
        )
    return numbers if identity.mantissa_bits is None else rounded(numbers, identity.mantissa_bits)


def rounded(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Return finite float16 numbers with only `bits` bits of the mantissa that are not zero.

    To nearest, ties to even; not beyond the largest number of so many bits.

    >>> rounded(np.array([1.0, 1.01, 1.02, -3.3], np.float16), 5)
    array([ 1.     ,  1.     ,  1.03125, -3.3125 ], dtype=float16)
    """
    drop = MANTISSA_BITS - bits
    raw = numbers.view(np.uint16)
    kept = np.uint16(0xFFFF << drop & 0xFFFF)
    half = np.uint16((1 << (drop - 1)) - 1)
    up = (raw + half + (raw >> drop & 1)) & kept
    too_large = (up & 0x7C00) == 0x7C00
    return np.where(too_large, raw & kept, up).astype(np.uint16).view(np.float16)


def _measure_scale(source: FeatureStore) -> Scale:
    """Return the scale between the bounds of each channel over all records."""
    low = np.full(source.dim, np.inf, np.float32)
    high = np.full(source.dim, -np.inf, np.float32)
    for cells in _cells(source, "bounds"):
        low, high = np.minimum(low, cells.min(axis=0)), np.maximum(high, cells.max(axis=0))
    return Scale.of_bounds(low, high)


def _cells(store: FeatureStore, label: str) -> Iterator[np.ndarray]:
    """Yield the cells (cell, dim) of a few records after another, of all of the store."""
    ids = store.ids
    with tqdm(total=len(ids), desc=label, unit="image", disable=None) as bar:
        for start in range(0, len(ids), CHUNK):
            some = ids[start : start + CHUNK]
            counts: list[int] = store.shapes(some).prod(axis=1).tolist()
            records = zip(store.read(some).features, counts, strict=True)
            yield np.concatenate([record[:cells] for record, cells in records])
            bar.update(len(some))


class _Sums(NamedTuple):
    error: float = 0.0  # squares of differences
    size: float = 0.0  # squares of the original
    cosine: float = 0.0  # of cells that are not zero
    cells: int = 0  # that are not zero
    largest: float = 0.0


def _measure_loss(source: FeatureStore, store: FeatureStore) -> Loss:
    """Return how much the grids of `store` differ from those of `source`."""
    sums = _Sums()
    for x, y in zip(_cells(source, "loss"), _cells(store, "loss (new)"), strict=True):
        sums = _add(sums, x.astype(np.float32), y.astype(np.float32))
    return Loss(
        cosine_distance=min(2.0, max(0.0, 1 - sums.cosine / sums.cells)) if sums.cells else 0.0,
        relative_l2=float(np.sqrt(sums.error / sums.size)) if sums.size else 0.0,
        largest=sums.largest,
    )


def _add(sums: _Sums, x: np.ndarray, y: np.ndarray) -> _Sums:
    difference = x - y
    kinds: dict[str, Any] = {"dtype": np.float64}
    xx, yy, xy = (np.einsum("cd,cd->c", a, b, **kinds) for a, b in ((x, x), (y, y), (x, y)))
    real = xx > 0
    norms = np.sqrt(xx[real] * np.maximum(yy[real], 1e-300))
    return _Sums(
        sums.error + float(np.einsum("cd,cd->", difference, difference, **kinds)),
        sums.size + float(xx.sum()),
        sums.cosine + float((xy[real] / norms).sum()),
        sums.cells + int(real.sum()),
        max(sums.largest, float(np.abs(difference).max(initial=0))),
    )
