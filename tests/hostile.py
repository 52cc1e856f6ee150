"""Change a store and make its own hashes fit again, as a forger would."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipfeat.featstore import FeatureStore, Status
from clipfeat.featstore.lookup import LookupBuilder, lookup_bytes
from clipfeat.featstore.metadata import store_digest
from clipfeat.featstore.shards import ShardRow, decode_index, encode_index
from clipfeat.featstore.tables import INDEX_SCHEMA, index_lines
from clipfeat.featstore.writing.receipts import Receipt, _column


def reseal(store: Path, **changes: Any) -> None:
    """Change keys of store.json and give it the hashes of its tables and its own checksum."""
    path = store / "store.json"
    card = {**json.loads(path.read_text()), **changes}
    for table, name in (("index", "index.parquet"), ("shards", "shards.parquet"),
                        ("lookup", "lookup.bin")):  # fmt: skip
        if "tables" not in changes:
            card["tables"][table] = hashlib.sha256((store / name).read_bytes()).hexdigest()
    del card["checksum"]
    text = json.dumps(card, sort_keys=True, separators=(",", ":"))
    card["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(card, indent=2))


def reconcile(store: Path) -> None:
    """Make lookup, counts and digest follow from a forged index, as its writer's would."""
    opened = FeatureStore.open(store)
    lookup = LookupBuilder(map(str, opened.grid_shapes), opened.identity.recipe)
    counts = dict.fromkeys(Status, 0)
    for batch in opened.index_batches():
        lookup.add(batch)
    for row in opened.index:
        counts[Status(row.status)] += 1
    (store / "lookup.bin").write_bytes(lookup_bytes(lookup.columns()))
    reseal(store, counts=counts)
    opened = FeatureStore.open(store)
    lines = map(index_lines, opened.index_batches())
    reseal(store, digest=store_digest(opened.identity, opened.shards, lines))


def forge_column(store: Path, table: str, column: str, values: Any) -> None:
    """Put other values into a column of index.parquet or shards.parquet, and reseal."""
    path = store / f"{table}.parquet"
    old = pq.read_table(path)
    at = old.schema.get_field_index(column)
    values = values if isinstance(values, pa.Array) else pa.array(values, old.schema.field(at).type)
    pq.write_table(old.set_column(at, old.schema.field(at), [values]), path)
    reseal(store)


def misplace(cache: Path, shard: ShardRow) -> None:
    """Give a shard another index in the cache, right in form: two records have swapped places."""
    (path,) = cache.glob(f"*/{shard.sha256}.index")
    index = decode_index(path.read_bytes(), shard.bytes).copy()
    index[[0, 1]] = index[[1, 0]]
    path.write_bytes(encode_index(index))


def change_receipt(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Let `change` change a receipt, a dict with the rows of the index under `records`."""
    receipt = msgspec.msgpack.decode(path.read_bytes())
    whole = msgspec.msgpack.decode(path.read_bytes(), type=Receipt)
    columns = [_column(name, [whole]).to_pylist() for name in INDEX_SCHEMA.names]
    del receipt["columns"]
    receipt["records"] = list(map(list, zip(*columns, strict=True)))
    change(receipt)
    records = receipt.pop("records")
    columns = [[row[k] for row in records] for k in range(len(INDEX_SCHEMA))]
    receipt["columns"] = list(map(_buffers, INDEX_SCHEMA.types, columns))
    path.write_bytes(_packed(receipt))


def _buffers(kind: pa.DataType, values: list[Any]) -> list[Any]:
    """Return the buffers of a column, the values themselves where a column cannot hold them."""
    if kind == pa.string() and all(isinstance(value, str) for value in values):
        texts = [value.encode("utf-8", "surrogatepass") for value in values]
        ends = np.cumsum([len(text) for text in texts], dtype="<i4")
        return [ends.tobytes(), b"".join(texts)]
    try:
        numbers = np.array(values, kind.to_pandas_dtype())
    except (TypeError, ValueError, OverflowError):
        return values
    # numpy 1 lets large numbers begin again at the lowest one.
    return [numbers.tobytes()] if numbers.tolist() == values else values


def _packed(receipt: dict[str, Any]) -> bytes:
    """Return a receipt as bytes, its integers and texts as far as MessagePack has them."""

    def packable(value: Any) -> Any:
        if isinstance(value, dict):
            return {packable(key): packable(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [packable(inner) for inner in value]
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
            return float(value)
        return (
            value.encode("utf-8", "surrogatepass")
            if isinstance(value, str) and not value.isascii()
            else value
        )

    return msgspec.msgpack.encode(packable(receipt))
