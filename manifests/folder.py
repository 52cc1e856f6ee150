"""A folder's image files as images: ids are file stems, or paths."""

import os
from collections.abc import Iterable

from .errors import ManifestError
from .images import Image
from .manifest import SURROGATE
from .walk import SUFFIXES, suffix


def folder_images(folder: str, names: Iterable[str], prefix: str, ids: str) -> list[Image]:
    """Return the image files among the files of `folder`, their sizes unknown.

    `prefix` leads from the root to the folder. `ids` is "stem", the file's name without its
    ending, or "path", the path from the root without its ending. Raises ManifestError for a
    folder without an image file.
    """
    paths = [prefix + name for name in names if suffix(name) in SUFFIXES]
    for path in paths:
        if SURROGATE.search(path):
            raise ManifestError(f"{path!r}: a file name must be UTF-8 text; rename it")
    if not paths:
        raise ManifestError(
            f"{folder} holds no image file; expected names ending in {', '.join(sorted(SUFFIXES))}"
        )
    bare = (os.path.splitext(path)[0] for path in paths)  # noqa: PTH122
    return [
        Image(path.rpartition("/")[2] if ids == "stem" else path, file, 0, 0)
        for path, file in zip(bare, paths, strict=True)
    ]
