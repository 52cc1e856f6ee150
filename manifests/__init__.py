"""Which images to extract: folders, tar files and lists of images become a checked manifest.

```python
from pathlib import Path

from clipfeat.manifests import make_manifest, read_content, write_manifest

manifest = make_manifest([Path("images")])
write_manifest(manifest, Path("images.parquet"))
read_content(manifest.root, manifest.images[0].path)  # the bytes of the first image
```
"""

from ..base.errors import ManifestError
from .contents import read_content
from .manifest import Image, Images, Manifest, read_manifest, write_manifest
from .sources import SourceOptions, folder_manifest, make_manifest
from .summary import ManifestSummary, summarize_manifest
from .views import VIEWS, view_files, view_paths

__all__ = [
    "VIEWS",
    "Image",
    "Images",
    "Manifest",
    "ManifestError",
    "ManifestSummary",
    "SourceOptions",
    "folder_manifest",
    "make_manifest",
    "read_content",
    "read_manifest",
    "summarize_manifest",
    "view_files",
    "view_paths",
    "write_manifest",
]
