"""A manifest to and from a Parquet file."""

from pathlib import Path

import pyarrow as pa

from ..base.files import atomic_file
from ..base.parquet import read_rows, read_schema, write_rows
from .errors import ManifestError
from .manifest import Image, Manifest

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
    """Write `manifest` to `path`; its root is recorded as an absolute path."""
    if not path.parent.is_dir():
        raise ManifestError(f"cannot write {path}: {path.parent} is no folder; make it first")
    root = str(manifest.root.resolve())
    with atomic_file(path) as file:
        write_rows(file, SCHEMA.with_metadata({ROOT: root.encode()}), manifest.images)


def read_manifest(path: Path) -> Manifest:
    """Return the manifest that `write_manifest` wrote to `path`.

    Raises ManifestError unless it has the four columns, no nulls, and sound values. Where the
    recorded root is not there, paths are relative to the manifest's own folder.
    """

    def refuse(why: str) -> ManifestError:
        remedy = "make a manifest with: clipfeat manifest DIR -o images.parquet"
        return ManifestError(f"{path}: {why}; {remedy}")

    recorded = Path(((read_schema(path, refuse).metadata or {}).get(ROOT, b".")).decode())
    root = recorded if recorded.is_dir() else path.parent
    return Manifest.of(root, map(Image._make, read_rows(path, SCHEMA, refuse)))
