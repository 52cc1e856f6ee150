"""Which images to extract: sources of images, and the manifest they are checked into."""

from ..base.errors import ManifestError
from .contents import read_content
from .manifest import Image, Images, Manifest, read_manifest, write_manifest
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
