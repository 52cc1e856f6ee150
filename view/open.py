"""Open what a user names: stores and the root of their images."""

from collections.abc import Sequence
from pathlib import Path

from ..base.errors import UsageError
from ..featstore import FeatureStore
from .explorer import Explorer, OpenStore
from .images import ImageFiles
from .records import ViewedStore
from .texts import WeightFiles

NO_FILES = WeightFiles()
KEYS = "abcdefgh"  # of stores, in the order in which they are named


def open_explorer(
    stores: Sequence[str | Path], *, images: str | None = None, weights: WeightFiles = NO_FILES
) -> Explorer:
    """Return an explorer of the stores at paths or URLs; their ids are read now.

    `images` is the root of the images, `weights` are for stores whose weights came from a file.
    Raises UsageError (E-VIEW-STORES) for too many, and as `FeatureStore.open`, `Catalogue.of` and
    `ImageFiles` do.
    """
    if not 1 <= len(stores) <= len(KEYS):
        raise UsageError(
            f"1 to {len(KEYS)} stores can be viewed at once; got {len(stores)}",
            code="E-VIEW-STORES",
        )
    files = None if images is None else ImageFiles(images)
    opened = {
        key: OpenStore(ViewedStore(key, FeatureStore.open(path)), weights)
        for key, path in zip(KEYS, stores, strict=False)
    }
    return Explorer(opened, files)
