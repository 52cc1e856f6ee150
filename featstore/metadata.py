"""store.json: what a store is, sealed by a checksum of its own."""

import errno
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..base.errors import CorruptStoreError, StoreError
from ..base.files import read_bytes, write_atomically
from ..base.jsonio import parse_json
from .checks import check_plain
from .format import (
    FORMAT,
    MAX_RECORD_BYTES,
    STORE_JSON,
    TABLES,
    ZARR_GROUP,
    GridShape,
    Identity,
    Status,
    canonical_json,
    is_sha256,
)
from .geometry import MAX_AREAS, Area
from .lookup import MAX_SHAPES, SHAPE_BIT
from .shards import INDEX_CODECS, ZARR_CODECS

MAX_SHARD_RECORDS = 1 << 20
MAX_CARD_BYTES = 1 << 22
MAX_DEPTH = 64  # of objects in one another
CARD_KEYS = {
    "format": int,
    "clipfeat": str,
    "created": str,
    "identity": dict,
    "libraries": dict,
    "shard_records": int,
    "grid_shapes": dict,
    "counts": dict,
    "parents": list,
    "generation": int,
    "tables": dict,
    "digest": str,
    "checksum": str,
}


def card_bytes(card: dict[str, Any]) -> bytes:
    """Return store.json as it stands on disk, with the checksum of `card` in it."""
    return json.dumps({**card, "checksum": card_checksum(card)}, indent=2).encode()


def card_checksum(card: dict[str, Any]) -> str:
    """Return the sha256 of the canonical JSON of everything in the card but the checksum."""
    rest = {key: value for key, value in card.items() if key != "checksum"}
    return hashlib.sha256(canonical_json(rest)).hexdigest()


def write_card(store: Path, card: dict[str, Any]) -> None:
    """Write store.json, which makes everything else in the store count.

    Raises StoreError if it would be larger than readers take.
    """
    content = card_bytes(card)
    if len(content) > MAX_CARD_BYTES:
        raise StoreError(f"{store}: {STORE_JSON} would have {len(content):,} bytes, too many")
    write_atomically(store / STORE_JSON, content)


def read_card(store: Path) -> dict[str, Any]:
    """Return store.json, raising StoreError unless it is whole and its values make sense."""
    path = store / STORE_JSON
    check_plain([path])
    try:
        card = parse_json(read_bytes(path, MAX_CARD_BYTES))
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        raise CorruptStoreError(
            f"{path}: more than {MAX_CARD_BYTES:,} bytes are not a store.json"
        ) from None
    except ValueError as error:
        raise CorruptStoreError(f"{path}: not valid JSON: {error}") from None
    if _depth(card) > MAX_DEPTH:
        raise CorruptStoreError(f"{path}: objects lie more than {MAX_DEPTH} levels deep")
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        found = card.get("format") if isinstance(card, dict) else None
        raise StoreError(
            f"{path}: format {found!r:.80}; this clipfeat reads format {FORMAT}. "
            f"A newer clipfeat may read it"
        )
    for key, kind in CARD_KEYS.items():
        if type(card.get(key)) is not kind:
            raise CorruptStoreError(f"{path}: {key} must be a {kind.__name__}")
    if card_checksum(card) != card["checksum"]:
        raise CorruptStoreError(
            f"{path}: has changed: its content does not match its checksum; "
            f"copy it again from its source"
        )
    _check_values(path, card)
    return card


def _depth(value: Any) -> int:
    """Return how many objects and arrays lie in one another, without recursion."""
    depth, level = 0, [value]
    while level := [v for v in level if isinstance(v, dict | list)]:
        depth += 1
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)]
    return depth


def _check_values(path: Path, card: dict[str, Any]) -> None:
    """Refuse numbers beyond what the format allows; the checksum may be a stranger's too."""

    def refuse(what: str, code: str = "") -> CorruptStoreError:
        return CorruptStoreError(f"{path}: {what}", code=code)

    if not 1 <= card["shard_records"] <= MAX_SHARD_RECORDS:
        raise refuse(f"shard_records must be 1 to {MAX_SHARD_RECORDS}")
    if not 0 <= card["generation"] <= 10**9:
        raise refuse("generation must be 0 or more")
    if card["tables"].keys() != TABLES.keys():
        raise refuse(f"tables must have the keys {', '.join(TABLES)}")
    for value in (card["digest"], *card["tables"].values(), *card["parents"]):
        if not is_sha256(value):
            raise refuse(
                f"digest, parents and tables must be sha256, 64 lower-case hex digits each; "
                f"got {value!r:.80}",
                code="E-STORE-HASH",
            )
    counts = card["counts"]
    if counts.keys() != set(Status) or any(type(n) is not int or n < 0 for n in counts.values()):
        raise refuse(f"counts must have a number for each of {', '.join(Status)}")
    if not 1 <= sum(counts.values()) < 1 << SHAPE_BIT:
        raise refuse(f"counts must add up to 1 to {1 << SHAPE_BIT} ids")
    identity = Identity.from_json(card["identity"])
    if len(card["grid_shapes"]) > MAX_SHAPES:
        raise refuse(f"at most {MAX_SHAPES} grid shapes; got {len(card['grid_shapes'])}")
    shapes = list(map(GridShape.parse, card["grid_shapes"]))
    if shapes != sorted(shapes):
        raise refuse("grid_shapes must be sorted by rows, then cols")
    for text, records in card["grid_shapes"].items():
        size = GridShape.parse(text).cells * identity.dim * identity.numpy_dtype.itemsize
        within = type(records) is int and 1 <= records < 1 << SHAPE_BIT
        if size > MAX_RECORD_BYTES or not within:
            raise refuse(
                f"{records!r:.80} records of {size:,} bytes at {text}; expected 1 to "
                f"{1 << SHAPE_BIT} of at most {MAX_RECORD_BYTES:,} bytes"
            )
    _check_areas(card.get("areas", []), shapes, refuse)


def _check_areas(
    texts: Any, shapes: list[GridShape], refuse: Callable[[str], CorruptStoreError]
) -> None:
    """Refuse real areas other than those that `LookupBuilder.areas` can give."""
    if not isinstance(texts, list) or len(texts) > MAX_AREAS:
        raise refuse(f"areas must be a list of at most {MAX_AREAS}")
    areas = list(map(Area.parse, texts))
    if areas != sorted(set(areas)):
        raise refuse("areas must be sorted by rows, cols, top, left, and none twice")
    for area in areas:
        if not any(area.lies_in(shape) for shape in shapes):
            raise refuse(f"no grid shape of the store has room for the area {area}")


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
