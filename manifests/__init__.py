"""Which images to extract: sources of images, and the manifest they are checked into."""

from .contents import read_content
from .errors import ManifestError
from .images import Image, Images
from .manifest import Manifest
from .parquet import read_manifest, write_manifest
from .sources import Choices, folder_manifest, make_manifest
from .views import VIEWS, view_files, view_paths

__all__ = [
    "VIEWS",
    "Choices",
    "Image",
    "Images",
    "Manifest",
    "ManifestError",
    "folder_manifest",
    "make_manifest",
    "read_content",
    "read_manifest",
    "view_files",
    "view_paths",
    "write_manifest",
]
