"""Which images to extract: sources of images, and the manifest they are checked into."""

from .errors import ManifestError
from .folder import folder_manifest
from .manifest import Image, Manifest
from .parquet import read_manifest, write_manifest

__all__ = [
    "Image",
    "Manifest",
    "ManifestError",
    "folder_manifest",
    "read_manifest",
    "write_manifest",
]
