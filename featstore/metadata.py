"""store.json: what a store is, its digest, and the zarr.json files that follow from it.

docs/store-format.md is the contract.
"""

import errno
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta

from ..base.errors import CorruptStoreError, StoreError
from ..base.files import read_bytes, write_atomically
from ..base.jsonio import as_struct, canonical_json, parse_json
from .geometry import MAX_AREAS, Area, GridShape
from .identity import Array, Identity, Sha256
from .layout import (
    DOCUMENT,
    MAX_DOCUMENTS,
    STORE_JSON,
    TABLES,
    ZARR_GROUP,
    TableName,
    check_plain,
)
from .lookup import MAX_SHAPES, SHAPE_BIT, Status
from .shards import INDEX_CODECS, ShardRow, zarr_codecs

FORMAT = 2
# Bounds on what a store from elsewhere may claim, so that reading it stays within memory.
MAX_STORE_JSON_BYTES = 1 << 22
MAX_DEPTH = 64  # of JSON objects and arrays inside one another
MAX_SHARD_RECORDS = 1 << 20
MAX_RECORD_BYTES = 1 << 27
MAX_IDS = 1 << SHAPE_BIT
MAX_ABOUT_TEXT = 1 << 16  # characters

ShardRecords = Annotated[int, Meta(ge=1, le=MAX_SHARD_RECORDS)]
Rows = Annotated[int, Meta(ge=1, lt=MAX_IDS)]
Count = Annotated[int, Meta(ge=0, lt=MAX_IDS)]
Text = Annotated[str, Meta(min_length=1, max_length=MAX_ABOUT_TEXT)] | None
DocumentName = Annotated[
    str, Meta(pattern=DOCUMENT.pattern, description="the name of a document (docs/store-format.md)")
]


class About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What people say about a store: texts that no program reads, and that can be changed later."""

    title: Text = None
    description: Text = None
    licence: Text = None  # of the features
    source_licence: Text = None  # of the images
    citation: Text = None
    homepage: Text = None

    def texts(self) -> dict[str, str]:
        """Return the texts that are given, by their names as people read them."""
        given = msgspec.structs.asdict(self)
        return {name.replace("_", " "): text for name, text in given.items() if text}


class Loss(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much the grids of a store differ from those of the store that it is derived from.

    x is a cell of the original, y the same cell as readers get it.
    """

    cosine_distance: Annotated[float, Meta(ge=0, le=2)]  # mean of 1 - cos(x, y), for x not 0
    relative_l2: Annotated[float, Meta(ge=0)]  # |x - y| / |x|, each over all numbers of the store
    largest: Annotated[float, Meta(ge=0)]  # absolute difference of a number


class StoreMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """The content of store.json without its checksum, in the order in which it is written."""

    format: Literal[2] = FORMAT
    clipfeat: str  # version that wrote it
    created: str  # ISO 8601, UTC
    identity: Identity
    libraries: dict[str, str]  # name to version
    shard_records: ShardRecords  # in a full shard
    grid_shapes: Annotated[dict[str, Rows], Meta(max_length=MAX_SHAPES)]  # to the arrays' length
    areas: Annotated[tuple[str, ...], Meta(max_length=MAX_AREAS)] = ()  # not written if empty
    counts: dict[Status, Count]
    parents: tuple[Sha256, ...]  # digests
    about: About = About()
    documents: Annotated[dict[DocumentName, Sha256], Meta(max_length=MAX_DOCUMENTS)] = {}
    loss: Loss | None = None
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
    """Return the content of the store.json of a store on this machine; see `parse_metadata`."""
    path = store / STORE_JSON
    check_plain([path])
    try:
        content = read_bytes(path, MAX_STORE_JSON_BYTES)
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        raise CorruptStoreError(
            f"{path}: more than {MAX_STORE_JSON_BYTES:,} bytes are not a store.json",
            code="E-STORE-JSON",
        ) from None
    return parse_metadata(content, str(path))


def parse_metadata(text: bytes, path: str) -> StoreMetadata:
    """Return the content of a store.json, which errors call `path`.

    Raises CorruptStoreError unless it is whole and its values are possible, StoreError for
    another format version.
    """
    content = _parse(text, path)
    if content.get("format") != FORMAT:
        remedy = "a newer clipfeat may read it"
        if content.get("format") == 1:
            remedy = "format 1 was never released: extract the images again"
        raise StoreError(
            f"{path}: format {content.get('format')!r:.80}; this clipfeat reads format {FORMAT}; "
            f"{remedy}",
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
        if metadata.identity.to_json().keys() != content["identity"].keys():
            raise ValueError(
                f"identity must have the keys {', '.join(metadata.identity.to_json())}"
            )
    except (ValueError, StoreError) as error:  # the checksum may have been made to fit
        raise CorruptStoreError(f"{path}: {error}", code="E-STORE-METADATA") from None
    return metadata


def _parse(text: bytes, path: str) -> dict[str, Any]:
    """Return the object of a store.json, bounded in depth."""
    try:
        content: Any = parse_json(text)
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
        size = identity.array("grid", shape).bytes
        if size > MAX_RECORD_BYTES:
            raise ValueError(
                f"grid_shapes: a {shape} grid has {size:,} bytes; "
                f"expected at most {MAX_RECORD_BYTES:,}"
            )
        if identity.regions and shape.cols != 1:
            raise ValueError(f"grid_shapes: regions need grids of one column; got {shape}")
    areas = list(map(Area.parse, metadata.areas))
    if areas != sorted(set(areas)):
        raise ValueError("areas must be sorted by rows, cols, top, left, without duplicates")
    for area in areas:
        if not any(area.lies_in(shape) for shape in shapes):
            raise ValueError(f"areas: no grid shape of the store has room for the area {area}")


def is_written_canonically(store: Path) -> bool:
    """Return whether the bytes of store.json are those that its content must be written as."""
    try:
        return is_canonical(read_bytes(store / STORE_JSON, MAX_STORE_JSON_BYTES))
    except OSError:
        return False


def is_canonical(text: bytes) -> bool:
    """Return whether a store.json is written as its content must be."""
    try:
        return _indented(parse_json(text)) == text
    except ValueError:
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


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """Yield a phrase for each value in which two nested JSON objects differ.

    >>> list(differences({"a": {"b": 1}}, {"a": {"b": 2}}))
    ['a.b is 1 in the store, 2 asked for']
    """
    for name, old, new in different_values(stored, wanted):
        yield f"{name} is {old} in the store, {new} asked for"


def different_values(
    one: Mapping[str, Any], other: Mapping[str, Any], at: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, value, value) where two nested JSON objects differ, None for an absent value.

    Of two lists of objects that differ in length, what only one of them has is yielded.

    >>> list(different_values({"a": {"b": 1}}, {"a": {"b": 2}}))
    [('a.b', 1, 2)]
    >>> list(different_values({"a": [{"b": 1}, {"b": 2}]}, {"a": [{"b": 2}]}))
    [('a', [{'b': 1}], [])]
    """
    for key in sorted(one.keys() | other.keys()):
        value, other_value = one.get(key), other.get(key)
        inner, other_inner = _as_object(value), _as_object(other_value)
        if isinstance(value, list) and inner and other_inner and len(inner) != len(other_inner):
            items, other_items = list(inner.values()), list(other_inner.values())
            yield (
                f"{at}{key}",
                [item for item in items if item not in other_items],
                [item for item in other_items if item not in items],
            )
        elif inner is not None and other_inner is not None:
            yield from different_values(inner, other_inner, f"{at}{key}.")
        elif value != other_value:
            yield f"{at}{key}", value, other_value


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
    identity: Identity, grid_shapes: Mapping[str, int], shard_records: int
) -> dict[str, bytes]:
    """Return {path relative to the store: bytes of that zarr.json} for the whole store.

    `grid_shapes` are the rows of the arrays of each grid shape, as in store.json.
    """
    files: dict[str, dict[str, Any]] = {f"{ZARR_GROUP}/zarr.json": GROUP}
    for shape, length in grid_shapes.items():
        folder = f"{ZARR_GROUP}/{shape}"
        files[f"{folder}/zarr.json"] = GROUP
        for name in identity.arrays:
            array = identity.array(name, GridShape.parse(shape))
            files[f"{folder}/{name}/zarr.json"] = _array(
                array, identity.codec, length, shard_records
            )
    if identity.scale_sha256 is not None:
        files[f"{ZARR_GROUP}/scale/zarr.json"] = _scale_array(identity.dim)
    return {name: _indented(content) for name, content in files.items()}


def _indented(content: Any) -> bytes:
    return json.dumps(content, indent=2).encode()


def _array(array: Array, codec: str, length: int, shard_records: int) -> dict[str, Any]:
    """Return the metadata of one array: a shard holds `shard_records` chunks of one record."""
    sharding = {
        "chunk_shape": [1, *array.shape],
        "codecs": zarr_codecs(codec, array.order),
        "index_codecs": INDEX_CODECS,
        "index_location": "end",
    }
    return _zarr_array(
        (length, *array.shape),
        array.dtype.name,
        (shard_records, *array.shape),
        [{"name": "sharding_indexed", "configuration": sharding}],
        ("record", *array.dims),
    )


def _scale_array(dim: int) -> dict[str, Any]:
    """Return the metadata of the array that turns numbers of 8 bits into values."""
    return _zarr_array((2, dim), "float32", (2, dim), zarr_codecs("none", (0, 1)), ("bound", "dim"))


def _zarr_array(
    shape: tuple[int, ...],
    dtype: str,
    chunk: tuple[int, ...],
    codecs: list[dict[str, Any]],
    names: tuple[str, ...],
) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        # "." keeps every shard of an array in one folder: c.0.0.0.0, c.1.0.0.0, ...
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0.0 if dtype.startswith("float") else 0,
        "codecs": codecs,
        "dimension_names": list(names),
        "attributes": {},
    }
