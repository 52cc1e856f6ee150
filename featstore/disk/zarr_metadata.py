"""The Zarr v3 metadata of a store's arrays, written once and compared whole when read."""

import json
from collections.abc import Mapping
from typing import Any

from ..format import ZARR_GROUP, GridShape, Identity
from .codecs import INDEX_CODECS, ZARR_CODECS

GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {}}


def metadata_files(
    identity: Identity, records: Mapping[GridShape, int], shard_records: int
) -> dict[str, bytes]:
    """Return {path relative to the store: bytes of that zarr.json} for the whole store."""
    files: dict[str, dict[str, Any]] = {f"{ZARR_GROUP}/zarr.json": GROUP}
    for shape, count in records.items():
        folder = f"{ZARR_GROUP}/{shape}"
        files[f"{folder}/zarr.json"] = GROUP
        files[f"{folder}/grid/zarr.json"] = _array(
            identity, (count, *shape, identity.dim), ("record", "row", "col", "dim"), shard_records
        )
        if identity.pooled_dim is not None:
            files[f"{folder}/pooled/zarr.json"] = _array(
                identity, (count, identity.pooled_dim), ("record", "dim"), shard_records
            )
    return {name: json.dumps(content, indent=2).encode() for name, content in files.items()}


def _array(
    identity: Identity, shape: tuple[int, ...], names: tuple[str, ...], shard_records: int
) -> dict[str, Any]:
    """Return the metadata of one array: a shard holds `shard_records` chunks of one record."""
    record = list(shape[1:])
    sharding = {
        "chunk_shape": [1, *record],
        "codecs": ZARR_CODECS[identity.codec],
        "index_codecs": INDEX_CODECS,
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": identity.dtype,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [shard_records, *record]},
        },
        # "." keeps every shard of an array in one folder: c.0.0.0.0, c.1.0.0.0, ...
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0.0,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "dimension_names": list(names),
        "attributes": {},
    }
