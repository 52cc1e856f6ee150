"""Stores of the same records: some of a store, those of several, or in shards of another size."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyarrow has no types.

import hashlib
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...base.errors import StoreError, UsageError
from ...base.jsonio import canonical_json
from ...base.text import counted
from ..identity import Identity
from ..layout import Ids
from ..lookup import Status
from ..metadata import different_values
from ..store import FeatureStore
from ..writing.merge import first_of_each, merged
from .derive import Derivation, Origins, check_out, derive, derived_identity

# What two stores must agree on for an id with a record. The rest of a row, such as the path of the
# file, may differ between machines.
OF_RECORD = ("shape", "width", "height", "record_sha256")
EXAMPLES = 3  # that an error names


def subset(
    source: FeatureStore,
    out: Path,
    *,
    ids: Iterable[str] | None = None,
    statuses: Collection[Status | str] = (),
) -> FeatureStore:
    """Write the given ids of a store to `out`, or those with these statuses; return the new store.

    Records are copied unchanged, and ids without a record keep their status. With both options,
    those of `ids` that have one of the statuses. Raises UsageError for ids that the store does not
    know, and as `derive` does.
    """
    check_out(out, [source])
    wanted = None if ids is None else Ids.of(sorted(set(ids)))
    if wanted is not None:
        _check_known(source, wanted)

    def choose(rows: pa.RecordBatch) -> pa.RecordBatch:
        keep = np.ones(len(rows), bool)
        if wanted is not None:
            keep &= wanted.find(rows.column("image_id")) >= 0
        if statuses:
            options = pc.SetLookupOptions(pa.array([str(status) for status in statuses]))
            has_one = pc.call_function("is_in", [rows.column("status")], options)
            keep &= has_one.to_numpy(zero_copy_only=False)
        return rows.filter(pa.array(keep))

    origins = Origins((source,), choose)
    settings = {"ids": len(origins.grids.ids), "ids_sha256": ids_sha256(origins.grids.ids)}
    identity = derived_identity(source, "subset", settings)
    return _copy(origins, identity, source.metadata.shard_records, out)


def ids_sha256(ids: Iterable[str]) -> str:
    """Return the sha256 of sorted ids, each as canonical JSON ended by a newline.

    >>> ids_sha256(["a", "b"])[:8]
    '2ab06bc1'
    """
    digest = hashlib.sha256()
    for image_id in ids:
        digest.update(canonical_json(image_id) + b"\n")
    return digest.hexdigest()


def _check_known(store: FeatureStore, ids: Ids) -> None:
    is_known = np.zeros(len(ids), bool)
    for batch in store.index_batches("image_id"):
        at = ids.find(batch.column("image_id"))
        is_known[at[at >= 0]] = True
    unknown = np.flatnonzero(~is_known).tolist()
    if unknown:
        examples = ", ".join(f"{ids[k]!r:.60}" for k in unknown[:EXAMPLES])
        raise UsageError(
            f"{store.location} does not know {len(unknown):,} of {counted(len(ids), 'id')}, such as "
            f"{examples}; clipfeat store ls {store.location} lists its ids",
            code="E-DERIVE-IDS",
        )


def merge(stores: Sequence[FeatureStore], out: Path) -> FeatureStore:
    """Write the ids of several stores to `out`; return the new store.

    The stores must have the same identity, apart from the store that each is derived from. An id
    may be in several if its record and its status are the same. The new store cites the first one
    as its origin, and the others in the settings. Raises UsageError for less than two stores
    and for one that is given twice, StoreError for another identity and for ids with different records, and as `derive` does.
    """
    if len(stores) < 2:
        raise UsageError("merging needs two stores or more", code="E-MERGE-STORES")
    check_out(out, stores)
    _check_distinct(stores)
    first, *others = stores
    for other in others:
        different = [
            f"{name} is {value} there, {other_value} here"
            for name, value, other_value in different_values(
                _features(first.identity), _features(other.identity)
            )
        ]
        if different:
            raise StoreError(
                f"{other.location} does not have the identity of {first.location}: "
                f"{'; '.join(different):.500}; merge stores of one identity",
                code="E-MERGE-IDENTITY",
            )
    _check_conflicts(stores)
    settings = {"with": [other.digest for other in others]}
    identity = derived_identity(first, "merge", settings)
    return _copy(Origins(tuple(stores)), identity, first.metadata.shard_records, out)


def _check_distinct(stores: Sequence[FeatureStore]) -> None:
    """Raise UsageError if a store is given twice, perhaps as two copies."""
    locations: dict[str, str] = {}
    for store in stores:
        if store.digest in locations:
            raise UsageError(
                f"{locations[store.digest]} and {store.location} are the same store, by their digest; "
                f"pass each store once",
                code="E-MERGE-STORES",
            )
        locations[store.digest] = store.location


def _features(identity: Identity) -> dict[str, Any]:
    """Return what decides the records: all of the identity but where they were copied from."""
    return msgspec.structs.replace(identity, derived_from=None).to_json()


def _check_conflicts(stores: Sequence[FeatureStore]) -> None:
    """Raise StoreError if two stores have an id with different records or statuses."""
    conflicts: dict[str, None] = {}

    def unite(rows: pa.RecordBatch) -> pa.RecordBatch:
        ids, is_ok = rows.column("image_id"), _equal(rows.column("status")[1:], Status.OK.value)
        is_same = {
            name: _equal(rows.column(name)[1:], rows.column(name)[:-1])
            for name in ("image_id", "status", *OF_RECORD)
        }
        same_record = np.logical_and.reduce([is_same[name] for name in OF_RECORD])
        fits = is_same["status"] & (same_record | ~is_ok)
        bad = np.flatnonzero(is_same["image_id"] & ~fits).tolist()
        conflicts.update(dict.fromkeys(ids[k].as_py() for k in bad))
        return first_of_each(rows)

    names = ("image_id", "status", *OF_RECORD)
    for _ in merged((store.index_batches(*names) for store in stores), unite):
        pass
    if conflicts:
        named = ", ".join(
            f"{image_id!r:.60} ({' and '.join(_status(store, image_id) for store in stores)})"
            for image_id in islice(conflicts, EXAMPLES)
        )
        raise StoreError(
            f"{counted(len(conflicts), 'id')} with different records or statuses, such as {named}; "
            f"leave them out of one of the stores with clipfeat store subset",
            code="E-MERGE-CONFLICT",
        )


def _equal(column: pa.Array, other: pa.Array | str) -> np.ndarray:
    return pc.call_function("equal", [column, other]).to_numpy(zero_copy_only=False)


def _status(store: FeatureStore, image_id: str) -> str:
    (status,) = store.statuses([image_id])
    return f"{status or 'unknown'} in {Path(store.location).name}"


def reshard(source: FeatureStore, out: Path, shard_records: int) -> FeatureStore:
    """Write a store to `out` in shards of `shard_records` records; return the new store.

    Records are copied unchanged; gaps that updates have left are gone. Raises as `derive` does.
    """
    check_out(out, [source])
    identity = derived_identity(source, "reshard", {"shard_records": shard_records})
    return _copy(Origins((source,)), identity, shard_records, out)


def _copy(origins: Origins, identity: Identity, shard_records: int, out: Path) -> FeatureStore:
    scale = origins.parents[0].scale
    return derive(Derivation(origins, identity, shard_records, scale=scale), out)
