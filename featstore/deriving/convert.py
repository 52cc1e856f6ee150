"""Write a store again with other numbers or another codec."""

from pathlib import Path

import numpy as np

from ...base.errors import StoreError, UsageError
from ..identity import MANTISSA_BITS, Codec, Dtype, Identity
from ..quantise import Scale, scale_sha256
from ..store import FeatureStore
from ..tables import IndexRow
from .derive import Derivation, Origins, Record, check_out, derive, derived_identity
from .loss import add_loss, measure_bounds


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
    Raises UsageError for options that do not fit each other, StoreError for a number beyond
    float16, and as `derive` does.
    """
    check_out(out, [source])
    old = source.identity
    dtype = dtype or ("float16" if mantissa_bits else old.dtype)
    if mantissa_bits is None and dtype == old.dtype:
        mantissa_bits = old.mantissa_bits
    if mantissa_bits is not None and (dtype != "float16" or not 1 <= mantissa_bits < MANTISSA_BITS):
        raise UsageError(
            f"--mantissa-bits must be from 1 to {MANTISSA_BITS - 1}, and goes with --dtype float16; "
            f"got {mantissa_bits} with {dtype}",
            code="E-STORE-CONVERT",
        )
    keeps_numbers = (dtype, mantissa_bits) == (old.dtype, old.mantissa_bits)
    scale = source.scale if keeps_numbers else None
    if dtype == "uint8" and scale is None:
        scale = Scale.of_bounds(*measure_bounds(source))
    identity = derived_identity(
        source,
        "convert",
        {"dtype": dtype, "mantissa_bits": mantissa_bits, "codec": codec},
        dtype=dtype,
        mantissa_bits=mantissa_bits,
        codec=codec or old.codec,
        scale_sha256=None if scale is None else scale_sha256(scale),
    )

    def change(_: IndexRow, record: Record) -> Record:
        if keeps_numbers:
            return record
        changed = {**record, "grid": as_stored(values_of(source, record["grid"]), identity, scale)}
        if "pooled" in record:
            changed["pooled"] = _in_range(record["pooled"], identity)
        return changed

    derivation = Derivation(
        Origins((source,)), identity, source.metadata.shard_records, change, scale
    )
    return add_loss(source, derive(derivation, out))


def values_of(store: FeatureStore, grid: np.ndarray) -> np.ndarray:
    """Return the values (row, col, dim) of a grid's numbers on disk, as readers get them."""
    if store.scale is None:
        return grid
    values = np.empty(grid.shape, store.identity.numpy_dtype)
    store.scale.dequantise(grid.reshape(-1, store.dim), values.reshape(-1, store.dim), axis=1)
    return values


def as_stored(grid: np.ndarray, identity: Identity, scale: Scale | None) -> np.ndarray:
    """Return the numbers of a grid that a store of this identity has on disk."""
    if scale is not None:
        return scale.quantise(grid)
    numbers = _in_range(grid, identity)
    return numbers if identity.mantissa_bits is None else rounded(numbers, identity.mantissa_bits)


def _in_range(numbers: np.ndarray, identity: Identity) -> np.ndarray:
    """Return numbers in the dtype that readers get; raise StoreError for one beyond it."""
    with np.errstate(over="ignore"):
        new = numbers.astype(identity.numpy_dtype)
    if not np.isfinite(new).all():
        raise StoreError(
            f"a number of {np.abs(numbers).max():.4g} is beyond {new.dtype}; choose float32",
            code="E-STORE-RANGE",
        )
    return new


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
