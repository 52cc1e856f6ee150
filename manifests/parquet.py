"""A manifest to and from a Parquet file."""

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from ..base.files import atomic_file
from ..base.parquet import count_rows, read_rows, read_schema, write_batches
from ..base.text import is_url, printable
from .errors import ManifestError
from .images import Image
from .manifest import Manifest
from .names import ODD, from_disk, to_disk

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("path", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)
ROWS_A_BYTE = 16  # counted ids, the best that can be packed, gave 5
ROOT = b"clipfeat.root"  # key of the schema's metadata that names the image root


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write `manifest` to `path`, with its root."""
    if not path.parent.is_dir():
        raise ManifestError(f"cannot write {path}: {path.parent} is not a folder; make it first")
    if path.exists() and not path.is_file():  # a device, which the file would take the place of
        raise ManifestError(
            f"cannot write {path}: it exists and is not a regular file; pass another name"
        )
    if ODD.search(manifest.root):
        raise ManifestError(
            f"the name of the root {printable(manifest.root)} is not UTF-8; rename the folder, or "
            "give a link to it with --images"
        )
    with atomic_file(path) as file:
        schema = SCHEMA.with_metadata({ROOT: manifest.root.encode()})
        write_batches(file, schema, manifest.images.batches(schema))


def require_bounded(path: Path, refuse: Callable[[str], ManifestError]) -> None:
    """Raise `refuse(why)` for a Parquet file with more rows than different ids fit into it.

    Rows are all held in memory, and a few bytes may say "this row, a billion times".
    """
    rows, size = count_rows(path, refuse), path.stat().st_size
    if rows > ROWS_A_BYTE * size:
        raise refuse(f"{size:,} bytes cannot hold {rows:,} rows with an id each")


def read_manifest(path: Path) -> Manifest:
    """Return the manifest that `write_manifest` wrote to `path`.

    Raises ManifestError unless it has the four columns, no nulls, and sound values. Where the
    recorded root is not there, paths are relative to the manifest's own folder.
    """
    refuse = _refusing(path)
    if path.is_dir() or not path.exists():
        raise refuse("a folder is no manifest" if path.is_dir() else "no such file")
    require_bounded(path, refuse)
    rows = read_rows(path, SCHEMA, refuse)
    return Manifest.of(recorded_root(path), map(Image._make, rows))


def recorded_root(path: Path) -> str:
    """Return the root that the Parquet file `path` names, or else the folder it is in."""
    refuse = _refusing(path)
    recorded = (read_schema(path, refuse).metadata or {}).get(ROOT, b"")
    try:
        root = recorded.decode()
    except UnicodeDecodeError:
        raise refuse(f"its root is no path: {recorded!r:.100}") from None
    if root and (is_url(root) or _is_folder(root)):
        return root
    return from_disk(str(path.parent.absolute()))


def _is_folder(root: str) -> bool:
    try:
        return os.path.isdir(to_disk(root))  # noqa: PTH112
    except (FileNotFoundError, ValueError):  # a name that no folder can have
        return False


def _refusing(path: Path) -> Callable[[str], ManifestError]:
    def refuse(why: str) -> ManifestError:
        remedy = "make a manifest with: clipfeat manifest DIR -o images.parquet"
        return ManifestError(f"{path}: {why}; {remedy}")

    return refuse
