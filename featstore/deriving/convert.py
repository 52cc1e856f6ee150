"""Write a store again with other numbers or another codec."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ...base.errors import StoreError, UsageError
from ..identity import MANTISSA_BITS, Codec, Dtype, Identity
from ..layout import STORE_JSON
from ..metadata import read_metadata
from ..quantise import Scale, read_scale, scale_sha256
from ..store import FeatureStore
from ..tables import IndexRow
from ..writing.journal import Journal
from .derive import Derivation, Origins, Record, check_out, derive, derived_identity
from .loss import add_loss, measure_bounds
from .numbers import as_stored, in_range, values_of


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
    whole store. To find them, the store is read once before; a call that continues uses those of
    the first. With `mantissa_bits` float16 is rounded to nearest, ties to even. At the end the
    loss is measured, as readers of the new store see it. Raises UsageError for options that do not fit each other, StoreError for a number beyond
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
    identity_with = partial(
        derived_identity,
        source,
        "convert",
        {"dtype": dtype, "mantissa_bits": mantissa_bits, "codec": codec},
        dtype=dtype,
        mantissa_bits=mantissa_bits,
        codec=codec or old.codec,
    )
    scale = source.scale if keeps_numbers else None
    if dtype == "uint8" and scale is None:
        begun = _begun_scale(out, source.dim, identity_with)
        scale = begun or Scale.of_bounds(*measure_bounds(source))
    identity = identity_with(scale_sha256=None if scale is None else scale_sha256(scale))

    def change(_: IndexRow, record: Record) -> Record:
        if keeps_numbers:
            return record
        changed = {**record, "grid": as_stored(values_of(source, record["grid"]), identity, scale)}
        if "pooled" in record:
            changed["pooled"] = in_range(record["pooled"], identity)
        return changed

    derivation = Derivation(
        Origins((source,)), identity, source.metadata.shard_records, change, scale
    )
    return add_loss(source, derive(derivation, out))


def _begun_scale(out: Path, dim: int, identity_with: Callable[..., Identity]) -> Scale | None:
    """Return the scale of the store at `out`, finished or not, if its identity is the same with it."""
    try:
        if (out / STORE_JSON).exists():
            begun = read_metadata(out).identity.to_json()
        else:
            plan = Journal(out).plan()
            begun = {} if plan is None else plan.identity
        sha256 = begun.get("scale_sha256")
        if sha256 is None or begun != identity_with(scale_sha256=sha256).to_json():
            return None
        return read_scale(out, dim, sha256)
    except StoreError:
        return None  # whoever writes there says what is wrong
