"""A manifest to and from a Parquet file."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from ..base.files import atomic_file
from ..base.parquet import read_rows, read_schema, write_rows
from .contents import is_url
from .errors import ManifestError
from .images import Image
from .manifest import Manifest

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("path", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)
ROOT = b"clipfeat.root"  # key of the schema's metadata that names the image root


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write `manifest` to `path`, with its root."""
    if not path.parent.is_dir():
        raise ManifestError(f"cannot write {path}: {path.parent} is no folder; make it first")
    if path.exists() and not path.is_file():  # a device, which the file would take the place of
        raise ManifestError(f"cannot write {path}: it is there and is no file; pass another name")
    with atomic_file(path) as file:
        metadata = {ROOT: manifest.root.encode()}
        write_rows(file, SCHEMA.with_metadata(metadata), manifest.images)


def read_manifest(path: Path) -> Manifest:
    """Return the manifest that `write_manifest` wrote to `path`.

    Raises ManifestError unless it has the four columns, no nulls, and sound values. Where the
    recorded root is not there, paths are relative to the manifest's own folder.
    """
    refuse = _refusing(path)
    if not path.is_file():
        raise refuse("a folder is no manifest" if path.is_dir() else "no such file")
    rows = read_rows(path, SCHEMA, refuse)
    return Manifest.of(recorded_root(path), map(Image._make, rows))


def recorded_root(path: Path) -> str:
    """Return the root that the Parquet file `path` names, or else the folder it is in."""
    refuse = _refusing(path)
    recorded = (read_schema(path, refuse).metadata or {}).get(ROOT, b"")
    try:
        root = recorded.decode()
        if root and (is_url(root) or Path(root).is_dir()):
            return root
    except UnicodeDecodeError:
        raise refuse(f"its root is no path: {recorded!r:.100}") from None
    return str(path.parent)


def _refusing(path: Path) -> Callable[[str], ManifestError]:
    def refuse(why: str) -> ManifestError:
        remedy = "make a manifest with: clipfeat manifest DIR -o images.parquet"
        return ManifestError(f"{path}: {why}; {remedy}")

    return refuse
