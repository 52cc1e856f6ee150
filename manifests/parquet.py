"""A manifest to and from a Parquet file."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..base.files import atomic_file
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
    columns = zip(*manifest.images, strict=True)
    root = str(manifest.root.resolve())
    table = pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA.with_metadata({ROOT: root.encode()}),
    )
    with atomic_file(path) as file:
        pq.write_table(table, file, compression="zstd")


def read_manifest(path: Path) -> Manifest:
    """Return the manifest that `write_manifest` wrote to `path`.

    Raises ManifestError unless it has the four columns, no nulls, and sound values. Where the
    recorded root is not there, paths are relative to the manifest's own folder.
    """
    try:
        with path.open("rb") as file:
            table = pq.ParquetFile(file).read()
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(
            f"{path}: not a readable manifest ({error!s:.200}); "
            f"make one with: clipfeat manifest DIR -o images.parquet"
        ) from None
    if not table.schema.equals(SCHEMA) or any(column.null_count for column in table.columns):
        raise ManifestError(
            f"{path}: a manifest has the columns {', '.join(SCHEMA.names)} without nulls; "
            f"got {', '.join(table.schema.names)!s:.200}"
        )
    recorded = Path((table.schema.metadata or {}).get(ROOT, b".").decode())
    root = recorded if recorded.is_dir() else path.parent
    columns = (column.to_pylist() for column in table.columns)
    return Manifest.of(root, map(Image._make, zip(*columns, strict=True)))
