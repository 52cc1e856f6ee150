"""Where the parts of a store are read from: a folder on this machine, or one behind a URL."""

from pathlib import Path
from typing import Any, Protocol

from ..base.errors import StoreError
from ..base.files import read_bytes
from ..base.jsonio import parse_json
from .identity import writing_command
from .layout import (
    JOURNAL,
    PLAN,
    STORE_JSON,
    TableName,
    check_folder,
    check_folders,
    check_plain,
    table_file,
)
from .lookup import IdLookup, Lookup
from .metadata import MAX_STORE_JSON_BYTES, StoreMetadata, read_metadata
from .quantise import Scale, read_scale
from .reading import LocalReader, RecordReader
from .shards import ShardRow
from .tables import read_shards


class StoreFiles(Protocol):
    """The parts of one store, each checked when it is read."""

    @property
    def location(self) -> str:
        """The absolute path or the URL of the store, for people and for opening it again."""
        ...

    def metadata(self) -> StoreMetadata:
        """Return the content of store.json."""
        ...

    def store_json(self) -> bytes:
        """Return store.json as it is, without any check."""
        ...

    def table(self, table: TableName, metadata: StoreMetadata) -> Path:
        """Return a file on this machine with a table's content."""
        ...

    def document(self, name: str, metadata: StoreMetadata, limit: int) -> Path:
        """Return a file on this machine with a document's content.

        Raises StoreError (E-REMOTE-SIZE) for one at a URL that has more than `limit` bytes.
        """
        ...

    def shown(self, name: str) -> str:
        """Return what people read as the name of a file of the store."""
        ...

    def shards(self, metadata: StoreMetadata) -> list[ShardRow]:
        """Return the packing list."""
        ...

    def lookup(self, metadata: StoreMetadata) -> IdLookup:
        """Return the ids."""
        ...

    def scale(self, metadata: StoreMetadata) -> Scale | None:
        """Return the scale of a store of uint8, None for others."""
        ...

    def reader(self, metadata: StoreMetadata, *, verify: bool) -> RecordReader:
        """Return what reads records."""
        ...


class LocalFiles:
    """The parts of a store in a folder on this machine."""

    def __init__(self, path: Path):
        self.path = path.absolute()  # the working directory may change later

    @property
    def location(self) -> str:
        """The absolute path of the store."""
        return str(self.path)

    def metadata(self) -> StoreMetadata:
        """Return the content of store.json; raises StoreError if there is no finished store."""
        if not (self.path / STORE_JSON).is_file():
            if (self.path / JOURNAL).is_dir():
                raise StoreError(
                    f"{self.path} is unfinished: it has no {STORE_JSON}; run the same "
                    f"{_command_of(self.path / JOURNAL / PLAN)} command again to finish it",
                    code="E-STORE-UNFINISHED",
                )
            problem = "is not a feature store" if self.path.exists() else "does not exist"
            raise StoreError(
                f"{self.path} {problem}: expected a folder that holds {STORE_JSON}",
                code="E-STORE-ABSENT",
            )
        return read_metadata(self.path)

    def store_json(self) -> bytes:
        """Return store.json as it is."""
        return read_bytes(self.path / STORE_JSON, MAX_STORE_JSON_BYTES)

    def table(self, table: TableName, metadata: StoreMetadata) -> Path:
        """Return the file of a table."""
        return self.path / table_file(table, metadata.generation)

    def document(self, name: str, metadata: StoreMetadata, limit: int) -> Path:
        """Return the file of a document; raises CorruptStoreError for a link."""
        check_folder((self.path / name).parent)
        check_plain([self.path / name])
        return self.path / name

    def shown(self, name: str) -> str:
        """Return the absolute path of a file."""
        return str(self.path / name)

    def shards(self, metadata: StoreMetadata) -> list[ShardRow]:
        """Return the packing list."""
        return read_shards(self.table("shards", metadata), metadata)

    def lookup(self, metadata: StoreMetadata) -> Lookup:
        """Return the ids; a large file is mapped."""
        path = self.table("lookup", metadata)
        return Lookup.open(path, metadata.id_count, metadata.tables["lookup"])

    def scale(self, metadata: StoreMetadata) -> Scale | None:
        """Return the scale of a store of uint8, None for others."""
        identity = metadata.identity
        if identity.scale_sha256 is None:
            return None
        return read_scale(self.path, identity.dim, identity.scale_sha256)

    def reader(self, metadata: StoreMetadata, *, verify: bool) -> LocalReader:
        """Return what reads records; raises CorruptStoreError unless its folders are folders."""
        identity, shapes = metadata.identity, tuple(metadata.grid_shapes)
        check_folders(self.path, shapes, identity.arrays)
        return LocalReader(self.path, identity.codec, shapes, metadata.shard_records, verify=verify)


def _command_of(plan: Path) -> str:
    """Return the command that writes an unfinished store with this plan in its journal."""
    try:
        content: Any = parse_json(read_bytes(plan, MAX_STORE_JSON_BYTES))
        if "pull" in content:
            return "clipfeat store pull"
        identity = content["identity"]
        origin = identity["derived_from"] or {"operation": None}
        return writing_command(origin["operation"], identity["backbone"]["model"])
    except (OSError, ValueError, TypeError, KeyError):  # there is none
        return writing_command(None)
