"""index.parquet and shards.parquet, to and from columns or rows."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..base.errors import CorruptStoreError
from ..base.files import atomic_file, sha256_file
from ..base.parquet import as_batch, read_batches, rows_of, write_batches, write_rows
from ..base.text import printable
from .checks import check_plain
from .format import Identity, IndexRow, ShardRow, Status

INDEX_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("shape", pa.string()),
        ("row", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("source_sha256", pa.string()),
        ("source", pa.string()),
        ("checksum", pa.string()),
    ]
)
SHARDS_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("shape", pa.string()),
        ("first_row", pa.int64()),
        ("records", pa.int64()),
    ]
)


TABLE_BYTES, ROW_BYTES = 1 << 26, 1 << 15  # that a table, and each row of it, may take on disk
SAFE = r"^[ !#-\[\]-~]*$"  # texts that JSON leaves as they are
FROM_SOURCE = "copy it again from its source"
HASHES = {"source_sha256": r"^([0-9a-f]{64})?$", "checksum": r"^([0-9a-f]{8}){0,2}$"}


def index_batch(rows: Iterable[IndexRow]) -> pa.RecordBatch:
    """Return rows of the index as columns."""
    return as_batch(INDEX_SCHEMA, rows)


def index_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[IndexRow]:
    """Yield columns of the index as rows."""
    for batch in batches:
        yield from map(IndexRow._make, rows_of(batch))


def write_index(path: Path, batches: Iterable[pa.RecordBatch]) -> None:
    """Write the index; rows come sorted by image id."""
    with atomic_file(path) as file:
        write_batches(file, INDEX_SCHEMA, batches)


def write_shards(path: Path, rows: Iterable[ShardRow]) -> None:
    """Write the packing list; rows come sorted by path."""
    with atomic_file(path) as file:
        write_rows(file, SHARDS_SCHEMA, rows)


def read_index(
    path: Path, sha256: str, ids: int, names: tuple[str, ...] = ()
) -> Iterator[pa.RecordBatch]:
    """Yield an index of so many ids, whose file has this sha256: all columns, or some of them.

    `names` begin with image_id. Raises CorruptStoreError unless ids are sorted and stand there
    once, and hashes are hashes.
    """
    before = ""
    for batch in _read(path, INDEX_SCHEMA, sha256, range(ids, ids + 1), names):
        column = batch.column("image_id")
        both = pa.concat_arrays([pa.array([before], pa.string()), column])
        rising = pc.call_function("less", [both[:-1], both[1:]])
        at = pc.call_function("index", [rising], pc.IndexOptions(pa.scalar(value=False))).as_py()
        if at >= 0:
            raise CorruptStoreError(
                f"{path}: {both[at + 1].as_py()!r:.100} stands behind "
                f"{both[at].as_py()!r:.100}; ids must be sorted, none empty, none twice"
            )
        before = column[-1].as_py()
        for name in HASHES.keys() & set(batch.schema.names):
            if not _all_match(batch.column(name), HASHES[name]):
                raise CorruptStoreError(
                    f"{path}: {name} must hold hashes, in lower-case hex digits",
                    code="E-STORE-HASH",
                )
        yield batch


def index_lines(batch: pa.RecordBatch) -> bytes:
    """Return the canonical JSON of each row of the index, each ended by a newline."""
    texts = [
        _quoted(column) if pa.types.is_string(column.type) else column.cast(pa.string())
        for column in batch.columns
    ]
    joined = pc.call_function("binary_join_element_wise", [*texts, ","])
    return "".join(f"[{line}]\n" for line in joined.to_pylist()).encode()


def _quoted(texts: pa.Array) -> pa.Array:
    """Return each text as JSON, ASCII only."""
    if _all_match(texts, SAFE):
        return pc.call_function("binary_join_element_wise", ['"', texts, '"', ""])
    return pa.array(list(map(json.dumps, texts.to_pylist())), pa.string())


def _all_match(texts: pa.Array, pattern: str) -> bool:
    found = pc.call_function("match_substring_regex", [texts], pc.MatchSubstringOptions(pattern))
    return bool(pc.call_function("all", [found]).as_py())


def most_shards(lengths: Mapping[str, int], shard_records: int, identity: Identity) -> int:
    """Return how many rows the packing list of arrays of these lengths may have."""
    return len(identity.arrays) * sum(-(-n // shard_records) for n in lengths.values())


def read_shards(path: Path, sha256: str, most: int) -> list[ShardRow]:
    """Return the packing list, of at most so many rows, whose file has this sha256.

    Raises CorruptStoreError unless paths are sorted and stand there once: a few bytes of
    Parquet can say the same row a billion times.
    """
    shards: list[ShardRow] = []
    for batch in _read(path, SHARDS_SCHEMA, sha256, range(most + 1)):
        for shard in map(ShardRow._make, rows_of(batch)):
            if shards and shard.path <= shards[-1].path:
                raise CorruptStoreError(
                    f"{path}: {shard.path!r:.100} stands behind {shards[-1].path!r:.100}; "
                    f"paths must be sorted, none twice"
                )
            shards.append(shard)
    return shards


def table_size_problem(path: Path, rows: int) -> str | None:
    """Return what is wrong with the size of a table of at most so many rows, if anything is."""
    size = path.stat().st_size
    if size > TABLE_BYTES + rows * ROW_BYTES:
        return f"has {size:,} bytes, too many for {rows:,} rows"
    return None


def _read(
    path: Path, schema: pa.Schema, sha256: str, counts: range, names: tuple[str, ...] = ()
) -> Iterator[pa.RecordBatch]:
    """Yield columns, raising CorruptStoreError for a file other than the one that was written."""

    def refuse(why: str) -> CorruptStoreError:
        return CorruptStoreError(f"{path}: {why}; {FROM_SOURCE}")

    check_plain([path])
    if not path.exists():
        raise refuse("no such file (if the store has been added to, open it again)")
    problem = table_size_problem(path, counts[-1])
    if problem:
        raise refuse(problem)
    if sha256_file(path) != sha256:
        raise refuse("has changed: its sha256 is not the one in store.json")
    return read_batches(path, schema, refuse, counts, names)


VIEW = re.compile(r"view \d+: ")  # of a panorama: before what is said of it


def refused_rows(rows: Iterable[IndexRow]) -> tuple[IndexRow, ...]:
    """Return the rows of ids that have no record."""
    return tuple(row for row in rows if row.status != Status.OK)


def reasons(refused: Sequence[IndexRow], most: int = 5) -> list[dict[str, Any]]:
    """Return the most frequent reasons of refusal, each with its number and an id."""
    counts = Counter((row.status, row.reason) for row in refused)
    example = {(row.status, row.reason): row.image_id for row in reversed(refused)}
    return [
        {"images": n, "status": str(why[0]), "reason": why[1], "example": example[why]}
        for why, n in counts.most_common(most)
    ]


def reasons_text(refused: Sequence[IndexRow]) -> str:
    """Return `reasons` for a person's terminal, and how many images have other ones."""
    shown = reasons(refused)
    texts = [
        printable("{images} {status} ({reason}; such as {example})".format_map(why))
        for why in shown
    ]
    others = len(refused) - sum(why["images"] for why in shown)
    return "; ".join(texts + ([f"{others} for other reasons"] if others else []))


def remarks(rows: Iterable[IndexRow], most: int = 10) -> list[dict[str, Any]]:
    """Return the most frequent remarks on images that have a record: number of images, an id.

    An image may have several, parted by semicolons; it counts once for each.
    """
    counts: Counter[str] = Counter()
    example: dict[str, str] = {}
    for row in rows:
        if row.reason and row.status == Status.OK:
            for remark in {VIEW.sub("", text) for text in row.reason.split("; ")}:
                counts[remark] += 1
                example.setdefault(remark, row.image_id)
    return [
        {"images": n, "remark": remark, "example": example[remark]}
        for remark, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
    ]


def remarks_text(found: Sequence[dict[str, Any]]) -> str:
    """Return `remarks` for a person's terminal."""
    return "; ".join(
        printable("{images}: {remark} (such as {example})".format_map(each)) for each in found
    )
