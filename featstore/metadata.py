"""store.json: what a store is, its identity and digest, and the zarr.json files that follow from it.

docs/store-format.md is the contract.
"""

import errno
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import msgspec
import numpy as np
from msgspec import Meta

from ..base.errors import CorruptStoreError, StoreError
from ..base.files import read_bytes, write_atomically
from ..base.jsonio import as_struct, canonical_json, check_fields, parse_json
from .geometry import MAX_AREAS, Area, GridShape
from .layout import STORE_JSON, TABLES, ZARR_GROUP, TableName, check_plain
from .lookup import MAX_SHAPES, SHAPE_BIT, Status
from .shards import INDEX_CODECS, ZARR_CODECS, ShardRow

FORMAT = 1
# Bounds on what a store from elsewhere may claim, so that reading it stays within memory.
MAX_STORE_JSON_BYTES = 1 << 22
MAX_DEPTH = 64  # of JSON objects and arrays inside one another
MAX_SHARD_RECORDS = 1 << 20
MAX_DIM = 1 << 16  # channels; the widest open_clip tower has fewer than 6,000
MAX_RECORD_BYTES = 1 << 27
MAX_IDS = 1 << SHAPE_BIT

Precision = Literal["float32", "bfloat16", "float16"]
Dtype = Literal["float16", "float32"]
Codec = Literal["zstd", "none"]
Sha256 = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="a sha256: 64 lower-case hex digits")
]
Channels = Annotated[int, Meta(ge=1, le=MAX_DIM)]
ShardRecords = Annotated[int, Meta(ge=1, le=MAX_SHARD_RECORDS)]
Rows = Annotated[int, Meta(ge=1, lt=MAX_IDS)]
Count = Annotated[int, Meta(ge=0, lt=MAX_IDS)]


def is_sha256(value: Any) -> bool:
    """Return whether `value` is a sha256 as a store writes it: 64 lower-case hex digits."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What decides the features: stores of equal identity hold the same features for an image id,
    up to the rounding of the device that computed them.

    `backbone` and `recipe` are JSON objects that the extractor fills; `dim` is the number of
    channels of a cell, `pooled_dim` that of the pooled vector, None where there is none. Raises
    StoreError for a value that the format does not allow.
    """

    backbone: dict[str, Any]
    recipe: dict[str, Any]
    precision: Precision  # of the forward pass
    dtype: Dtype  # on disk
    codec: Codec
    dim: Channels
    pooled_dim: Channels | None

    def __post_init__(self) -> None:
        try:
            check_fields(self, "identity")
        except ValueError as error:
            raise StoreError(str(error), code="E-STORE-IDENTITY") from None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of plain values, keys sorted."""
        return json.loads(canonical_json(msgspec.to_builtins(self)))

    @classmethod
    def from_json(cls, value: Any) -> "Identity":
        """Return the identity that `to_json` gave, raising StoreError for any other value."""
        try:
            return as_struct(value, cls, "identity")
        except ValueError as error:
            raise StoreError(str(error), code="E-STORE-IDENTITY") from None

    @property
    def arrays(self) -> tuple[str, ...]:
        """The names of the arrays that each grid shape has."""
        return ("grid",) if self.pooled_dim is None else ("grid", "pooled")

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype on disk, little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")


class StoreMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """The content of store.json without its checksum, in the order in which it is written."""

    format: Literal[1] = FORMAT
    clipfeat: str  # version that wrote it
    created: str  # ISO 8601, UTC
    identity: Identity
    libraries: dict[str, str]  # name to version
    shard_records: ShardRecords  # in a full shard
    grid_shapes: Annotated[dict[str, Rows], Meta(max_length=MAX_SHAPES)]  # to the arrays' length
    areas: Annotated[tuple[str, ...], Meta(max_length=MAX_AREAS)] = ()  # not written if empty
    counts: dict[Status, Count]
    parents: tuple[Sha256, ...]  # digests
    licence: str | None = None
    note: str | None = None
    generation: Annotated[int, Meta(ge=0, le=10**9)]
    tables: dict[TableName, Sha256]
    digest: Sha256

    @property
    def id_count(self) -> int:
        """The number of image ids, with or without a record."""
        return sum(self.counts.values())

    def to_json(self) -> dict[str, Any]:
        """Return the object that store.json holds, its checksum included."""
        content: dict[str, Any] = {
            **msgspec.to_builtins(self),
            "identity": self.identity.to_json(),
        }
        if not self.areas:
            del content["areas"]
        return {**content, "checksum": hashlib.sha256(canonical_json(content)).hexdigest()}


def write_metadata(store: Path, metadata: StoreMetadata) -> None:
    """Write store.json, which completes the store: everything else in it counts from now on.

    Raises StoreError if it would be larger than readers accept.
    """
    content = _indented(metadata.to_json())
    if len(content) > MAX_STORE_JSON_BYTES:
        raise StoreError(
            f"{store}: {STORE_JSON} would have {len(content):,} bytes; "
            f"at most {MAX_STORE_JSON_BYTES:,} are read",
            code="E-STORE-SIZE",
        )
    write_atomically(store / STORE_JSON, content)


def read_metadata(store: Path) -> StoreMetadata:
    """Return the content of store.json.

    Raises CorruptStoreError unless it is whole and its values are possible, StoreError for
    another format version.
    """
    path = store / STORE_JSON
    content = _read_content(path)
    if content.get("format") != FORMAT:
        raise StoreError(
            f"{path}: format {content.get('format')!r:.80}; this clipfeat reads format {FORMAT}. "
            f"A newer clipfeat may read it",
            code="E-STORE-FORMAT",
        )
    sealed = {key: value for key, value in content.items() if key != "checksum"}
    if hashlib.sha256(canonical_json(sealed)).hexdigest() != content.get("checksum"):
        raise CorruptStoreError(
            f"{path}: has changed: its content does not match its checksum; "
            f"copy it again from its source",
            code="E-STORE-CHECKSUM",
        )
    try:
        metadata = as_struct(content, StoreMetadata)
        _check_values(metadata)
    except (ValueError, StoreError) as error:  # the checksum may have been made to fit
        raise CorruptStoreError(f"{path}: {error}", code="E-STORE-METADATA") from None
    return metadata


def _read_content(path: Path) -> dict[str, Any]:
    """Return the parsed JSON of store.json, bounded in size and depth."""
    check_plain([path])
    try:
        content: Any = parse_json(read_bytes(path, MAX_STORE_JSON_BYTES))
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        raise CorruptStoreError(
            f"{path}: more than {MAX_STORE_JSON_BYTES:,} bytes are not a store.json",
            code="E-STORE-JSON",
        ) from None
    except ValueError as error:
        raise CorruptStoreError(f"{path}: not valid JSON: {error}", code="E-STORE-JSON") from None
    if not isinstance(content, dict):
        raise CorruptStoreError(f"{path}: is not a JSON object", code="E-STORE-JSON")
    values: list[Any] = [content]  # of one level, then of the next
    for _ in range(MAX_DEPTH):
        values = [inner for value in values for inner in _inner_values(value)]
    if any(isinstance(value, dict | list) for value in values):
        raise CorruptStoreError(
            f"{path}: objects are nested more than {MAX_DEPTH} levels deep", code="E-STORE-JSON"
        )
    return cast(dict[str, Any], content)


def _inner_values(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return cast(dict[str, Any], value).values()
    return cast(list[Any], value) if isinstance(value, list) else ()


def _check_values(metadata: StoreMetadata) -> None:
    """Raise ValueError or StoreError for values that types alone do not exclude."""
    if metadata.tables.keys() != TABLES.keys():
        raise ValueError(f"tables must have the keys {', '.join(TABLES)}")
    if metadata.counts.keys() != set(Status):
        raise ValueError(f"counts must have a number for each of {', '.join(Status)}")
    if not 1 <= metadata.id_count < MAX_IDS:
        raise ValueError(f"counts must add up to 1 to {MAX_IDS} ids; got {metadata.id_count}")
    shapes = list(map(GridShape.parse, metadata.grid_shapes))
    if shapes != sorted(shapes):
        raise ValueError("grid_shapes must be sorted by rows, then cols")
    identity = metadata.identity
    for shape in shapes:
        size = shape.cells * identity.dim * identity.numpy_dtype.itemsize
        if size > MAX_RECORD_BYTES:
            raise ValueError(
                f"grid_shapes: a {shape} grid has {size:,} bytes; "
                f"expected at most {MAX_RECORD_BYTES:,}"
            )
    areas = list(map(Area.parse, metadata.areas))
    if areas != sorted(set(areas)):
        raise ValueError("areas must be sorted by rows, cols, top, left, without duplicates")
    for area in areas:
        if not any(area.lies_in(shape) for shape in shapes):
            raise ValueError(f"areas: no grid shape of the store has room for the area {area}")


def is_written_canonically(store: Path) -> bool:
    """Return whether the bytes of store.json are those that its content must be written as."""
    try:
        content = read_bytes(store / STORE_JSON, MAX_STORE_JSON_BYTES)
        return _indented(parse_json(content)) == content
    except (OSError, ValueError):
        return False


def store_digest(identity: Identity, shards: Iterable[ShardRow], index: Iterable[bytes]) -> str:
    """Return the digest that a paper cites: equal digests, equal features for equal ids.

    It is the sha256 of lines of canonical JSON, each ended by a newline: the identity with
    the format number, then [path, sha256] of each shard sorted by path, then each row of the
    index sorted by image id. `index` are the lines of the rows, as `index_lines` gives them.
    """
    digest = hashlib.sha256()
    digest.update(canonical_json({"format": FORMAT, **identity.to_json()}) + b"\n")
    for shard in sorted(shards):
        digest.update(canonical_json([shard.path, shard.sha256]) + b"\n")
    for lines in index:
        digest.update(lines)
    return digest.hexdigest()


def differences(
    stored: Mapping[str, Any], wanted: Mapping[str, Any], at: str = ""
) -> Iterator[str]:
    """Yield a phrase for each value in which two nested JSON objects differ.

    >>> list(differences({"a": {"b": 1}}, {"a": {"b": 2}}))
    ['a.b is 1 in the store, 2 asked for']
    """
    for key in sorted(stored.keys() | wanted.keys()):
        old, new = stored.get(key), wanted.get(key)
        inner_old, inner_new = _as_object(old), _as_object(new)
        if inner_old is not None and inner_new is not None:
            yield from differences(inner_old, inner_new, f"{at}{key}.")
        elif old != new:
            yield f"{at}{key} is {old} in the store, {new} asked for"


def _as_object(value: Any) -> Mapping[str, Any] | None:
    """Return an object as it is, a list of objects by position, None for anything else."""
    if isinstance(value, Mapping):
        return cast(Mapping[str, Any], value)
    items = cast(list[Any], value) if isinstance(value, list) else []
    if items and all(isinstance(item, Mapping) for item in items):
        return {str(position): item for position, item in enumerate(items)}
    return None


GROUP: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": {}}


def zarr_metadata_files(
    identity: Identity, lengths: Mapping[GridShape, int], shard_records: int
) -> dict[str, bytes]:
    """Return {path relative to the store: bytes of that zarr.json} for the whole store.

    `lengths` are the rows of the arrays of each grid shape.
    """
    files: dict[str, dict[str, Any]] = {f"{ZARR_GROUP}/zarr.json": GROUP}
    for shape, length in lengths.items():
        folder = f"{ZARR_GROUP}/{shape}"
        files[f"{folder}/zarr.json"] = GROUP
        files[f"{folder}/grid/zarr.json"] = _array(
            identity, (length, *shape, identity.dim), ("record", "row", "col", "dim"), shard_records
        )
        if identity.pooled_dim is not None:
            files[f"{folder}/pooled/zarr.json"] = _array(
                identity, (length, identity.pooled_dim), ("record", "dim"), shard_records
            )
    return {name: _indented(content) for name, content in files.items()}


def _indented(content: Any) -> bytes:
    return json.dumps(content, indent=2).encode()


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
