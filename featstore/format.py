"""Store format 1: its names, its values and its digest (docs/store-format.md is the contract)."""

import dataclasses
import enum
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from ..base.errors import StoreError

FORMAT = 1
STORE_JSON = "store.json"
ZARR_GROUP = "features.zarr"
JOURNAL = "journal"
TABLE_FILE = re.compile(r"(index|shards)(\.[1-9][0-9]*)?\.parquet|lookup(\.[1-9][0-9]*)?\.bin")
TABLES = {"index": "parquet", "shards": "parquet", "lookup": "bin"}  # name: suffix
SHA256 = re.compile("[0-9a-f]{64}")

PRECISIONS = ("float32", "bfloat16", "float16")
# Bounds on what a store from elsewhere may claim, so that reading it stays within memory.
MAX_DIM = 1 << 16  # channels; the widest open_clip tower has fewer than 6,000
MAX_SIDE = 1 << 12  # rows or cols of a grid
MAX_RECORD_BYTES = 1 << 27
DTYPES = ("float16", "float32")
CODECS = ("zstd", "none")


class Status(enum.StrEnum):
    """What became of an image id. Only `ok` ids have a record."""

    OK = "ok"
    MISSING = "missing"  # the manifest names a file that is not there
    UNDECODABLE = "undecodable"  # the file is there, but no image comes out of it
    TOO_LARGE = "too_large"  # more pixels than are decoded
    UNSUPPORTED = "unsupported"  # an image that the recipe cannot use
    FAILED = "failed"  # anything else


class GridShape(NamedTuple):
    """A grid's rows and columns; its text form, `14x14`, names its arrays on disk."""

    rows: int
    cols: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.cols}"

    @property
    def cells(self) -> int:
        return self.rows * self.cols

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the shape that `text` names, raising StoreError unless it is like `14x14`."""
        rows, _, cols = text.partition("x")
        if not all(n.isascii() and n.isdigit() and n.lstrip("0") == n for n in (rows, cols)):
            raise StoreError(f"a grid shape must read like 14x14; got {text!r:.80}")
        shape = cls(int(rows[:9]), int(cols[:9]))
        if not 1 <= min(shape) <= max(shape) <= MAX_SIDE:
            raise StoreError(f"a grid has 1 to {MAX_SIDE} rows and cols; got {text!r:.80}")
        return shape


@dataclasses.dataclass(frozen=True)
class Identity:
    """All that was asked of a record: stores of equal identity hold the same features per id,
    up to the rounding of the device that computed them.

    `backbone` and `recipe` are plain JSON values that the extractor fills; `dim` is the
    number of channels of a cell, `pooled_dim` that of the pooled vector, or None.
    """

    backbone: Mapping[str, Any]
    recipe: Mapping[str, Any]
    precision: str
    dtype: str
    codec: str
    dim: int
    pooled_dim: int | None

    def __post_init__(self) -> None:
        for field, allowed in (("precision", PRECISIONS), ("dtype", DTYPES), ("codec", CODECS)):
            value = getattr(self, field)
            if value not in allowed:
                raise StoreError(
                    f"{field}: expected one of {', '.join(allowed)}; got {value!r:.80}"
                )
        for field in ("backbone", "recipe"):
            if not isinstance(getattr(self, field), Mapping):
                raise StoreError(
                    f"{field}: expected a JSON object; got {getattr(self, field)!r:.80}"
                )
        for field in ("dim", "pooled_dim"):
            value = getattr(self, field)
            if field == "pooled_dim" and value is None:
                continue
            if type(value) is not int or not 1 <= value <= MAX_DIM:
                raise StoreError(f"{field}: expected 1 to {MAX_DIM} channels; got {value!r:.80}")

    def to_json(self) -> dict[str, Any]:
        return json.loads(canonical_json(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Return the identity that `to_json` gave, raising StoreError on any other value."""
        fields = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(value, dict) or value.keys() != set(fields):
            raise StoreError(f"identity must have the keys {', '.join(fields)}; got {value!r:.200}")
        return cls(**value)

    @property
    def arrays(self) -> tuple[str, ...]:
        """Return the names of the arrays that each grid shape has."""
        return ("grid",) if self.pooled_dim is None else ("grid", "pooled")

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """Return the dtype on disk, little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")


class IndexRow(NamedTuple):
    """One image id asked for, as a row of index.parquet."""

    image_id: str
    status: str
    reason: str
    shape: str
    row: int  # in the array of its shape
    width: int  # pixels of the source image, 0 where it could not be read
    height: int
    source_sha256: str  # of the source file's bytes, "" where it could not be read
    source: str  # path relative to the image root
    checksum: str  # last 4 bytes of its grid on disk, then of its pooled vector, as hex digits


class ShardRow(NamedTuple):
    """One file of features, as a row of shards.parquet, the packing list."""

    path: str  # relative to the store, with forward slashes
    bytes: int
    sha256: str
    shape: str
    first_row: int
    records: int


def table_file(table: str, generation: int) -> str:
    """Return the file of a table; each update of a store writes its own beside the old ones.

    >>> table_file("index", 0), table_file("lookup", 2)
    ('index.parquet', 'lookup.2.bin')
    """
    return f"{table}{f'.{generation}' if generation else ''}.{TABLES[table]}"


def is_table_file(name: str) -> bool:
    """Return whether `name` is what `table_file` gives for some table and generation."""
    return TABLE_FILE.fullmatch(name) is not None


def canonical_json(value: Any) -> bytes:
    """Return `value` as JSON with sorted keys, no spaces and ASCII only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def is_sha256(value: Any) -> bool:
    """Return whether `value` is a sha256 as a store writes it: 64 lower-case hex digits."""
    return isinstance(value, str) and SHA256.fullmatch(value) is not None


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


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """Yield a phrase for each value in which two nested JSON objects differ.

    >>> list(differences({"a": {"b": 1}}, {"a": {"b": 2}}))
    ['a.b is 1 in the store, 2 asked for']
    """
    for key in sorted(stored.keys() | asked.keys()):
        old, new = _by_key(stored.get(key)), _by_key(asked.get(key))
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{at}{key}.")
        elif old != new:
            yield f"{at}{key} is {old} in the store, {new} asked for"


def _by_key(value: Any) -> Any:
    """Return a list of objects as an object, by position; anything else as it is."""
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return {str(position): item for position, item in enumerate(value)}
    return value


ImageId = str | int | np.integer[Any]

# Names of files come in either: macOS and some archives part letters from their accents.
NormalForm = Literal["NFC", "NFD"]
NORMAL_FORMS: tuple[NormalForm, ...] = ("NFC", "NFD")


def id_text(image_id: object) -> str:
    """Return the id that a text or a whole number names; a number is its decimal text.

    Raises TypeError for anything else.
    """
    if isinstance(image_id, str):
        return image_id
    if isinstance(image_id, int | np.integer) and not isinstance(image_id, bool):
        return str(int(image_id))
    raise TypeError(
        f"an image id is a text or a whole number; got {image_id!r:.80} ({type(image_id).__name__})"
    )


def id_texts(ids: Iterable[ImageId]) -> list[str]:
    """Return the ids that a list, a tuple or an array of texts or whole numbers names.

    Raises TypeError for one that is neither, and for a single text, which is no list of ids
    though Python can iterate over its letters.
    """
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise TypeError(
            f"expected a list of image ids; got {ids!r:.80} ({type(ids).__name__}); "
            f"for a single id pass [id]"
        )
    items = ids.tolist() if isinstance(ids, np.ndarray) and ids.ndim else ids
    return [item if type(item) is str else id_text(item) for item in items]


def in_normal_form(form: NormalForm, image_id: str) -> str:
    """Return the id in one of Unicode's normal forms."""
    return unicodedata.normalize(form, image_id)


def quoted(image_id: str, example: str) -> tuple[str, str]:
    """Return two ids as an error shows them: told apart even if they look the same.

    >>> quoted("b", "a"), quoted("\\u00e9", "e\\u0301")
    (("'b'", "'a'"), ("'\\\\xe9'", "'e\\\\u0301'"))
    """
    alike = unicodedata.normalize("NFC", image_id) == unicodedata.normalize("NFC", example)
    show = ascii if alike else repr
    return show(image_id)[:100], show(example)[:100]
