"""What a store must satisfy before anything is read from it; it may come from anywhere."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import CorruptStoreError, StoreError
from .format import (
    FORMAT,
    MAX_RECORD_BYTES,
    SHARDS_PARQUET,
    STORE_JSON,
    ZARR_GROUP,
    GridShape,
    Identity,
    ShardRow,
)

MAX_SHARD_RECORDS = 1 << 20
CARD_KEYS = {
    "clipfeat": str,
    "created": str,
    "identity": dict,
    "libraries": dict,
    "shard_records": int,
    "grid_shapes": dict,
    "counts": dict,
    "parents": list,
    "digest": str,
}
SHARD_PATH = re.compile(
    rf"{re.escape(ZARR_GROUP)}/(?P<shape>[0-9]+x[0-9]+)/"
    r"(grid/c\.(?P<grid>[0-9]{1,12})\.0\.0\.0|pooled/c\.(?P<pooled>[0-9]{1,12})\.0)"
)


def read_card(path: Path) -> dict[str, Any]:
    """Return store.json, checked for the keys that reading relies on."""
    try:
        card = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CorruptStoreError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        found = card.get("format") if isinstance(card, dict) else None
        raise StoreError(
            f"{path}: format {found!r:.80}; this clipfeat reads format {FORMAT}. "
            f"A newer clipfeat may read it"
        )
    for key, kind in CARD_KEYS.items():
        if type(card.get(key)) is not kind:
            raise CorruptStoreError(f"{path}: {key} must be a {kind.__name__}")
    if not 1 <= card["shard_records"] <= MAX_SHARD_RECORDS:
        raise CorruptStoreError(f"{path}: shard_records must be 1 to {MAX_SHARD_RECORDS}")
    return card


def check_places(
    store: Path, identity: Identity, card: Mapping[str, Any], shards: Iterable[ShardRow]
) -> None:
    """Raise CorruptStoreError unless shapes, paths and rows are what the layout implies.

    A store from elsewhere may name any file, or give one shard the place of another.
    """
    counts, shard_records = card["grid_shapes"], card["shard_records"]
    folders = [ZARR_GROUP]
    for text, records in counts.items():
        size = GridShape.parse(text).cells * identity.dim * identity.numpy_dtype.itemsize
        if size > MAX_RECORD_BYTES or type(records) is not int or records < 1:
            raise CorruptStoreError(
                f"{store / STORE_JSON}: {records!r:.80} records of {size:,} bytes at "
                f"{text}; expected at least one of at most {MAX_RECORD_BYTES:,} bytes"
            )
        folders += [f"{ZARR_GROUP}/{text}"]
        folders += [f"{ZARR_GROUP}/{text}/{array}" for array in identity.arrays]
    for folder in folders:
        if (store / folder).is_symlink():
            raise CorruptStoreError(f"{store / folder} is a link; a store holds no links")
    for shard in shards:
        match = SHARD_PATH.fullmatch(shard.path)
        if match and match["shape"] == shard.shape and shard.shape in counts:
            first_row = int(match["grid"] or match["pooled"]) * shard_records
            records = min(shard_records, counts[shard.shape] - first_row)
            if (shard.first_row, shard.records) == (first_row, records) and records > 0:
                continue
        raise CorruptStoreError(
            f"{store / SHARDS_PARQUET}: {shard.path!r:.200} cannot be the shard of "
            f"{shard.records} records of {shard.shape:.20} from row {shard.first_row}"
        )
