"""Open what a user names: stores and the root of their images."""

from collections.abc import Sequence
from pathlib import Path

from ..base.errors import UsageError
from ..featstore import FeatureStore
from .explorer import Explorer, OpenStore
from .images import ImageFiles
from .records import ViewedStore

KEYS = "abcdefgh"  # of stores, in the order in which they are named


def open_explorer(stores: Sequence[str | Path], *, images: str | None = None) -> Explorer:
    """Return an explorer of the stores at paths or URLs; their ids are read now.

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
        key: OpenStore(ViewedStore(key, FeatureStore.open(path)))
        for key, path in zip(KEYS, stores, strict=False)
    }
    return Explorer(opened, files)
