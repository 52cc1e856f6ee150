"""Open what a user names: stores and the root of their images."""

from collections.abc import Sequence
from pathlib import Path

from ..base.errors import UsageError
from ..featstore import FeatureStore
from .explorer import Explorer, OpenStore
from .images import ImageFiles
from .records import ViewedStore
from .runs import ViewedRun
from .texts import WeightFiles

NO_FILES = WeightFiles()
MAX_RUNS = 8
KEYS = "abcdefgh"  # of stores, in the order in which they are named


def open_explorer(
    stores: Sequence[str | Path],
    *,
    images: str | None = None,
    runs: Sequence[Path] = (),
    weights: WeightFiles = NO_FILES,
) -> Explorer:
    """Return an explorer of the stores at paths or URLs; their ids are read now.

    `images` is the root of the images, `weights` are for stores whose weights came from a file.
    Raises UsageError (E-VIEW-STORES, E-VIEW-RUNS) for too many, and as `FeatureStore.open`,
    `Catalogue.of`, `ImageFiles` and `ViewedRun` do.
    """
    if not 1 <= len(stores) <= len(KEYS):
        raise UsageError(
            f"1 to {len(KEYS)} stores can be viewed at once; got {len(stores)}",
            code="E-VIEW-STORES",
        )
    if len(runs) > MAX_RUNS:
        raise UsageError(
            f"at most {MAX_RUNS} runs can be viewed at once; got {len(runs)}", code="E-VIEW-RUNS"
        )
    files = None if images is None else ImageFiles(images)
    opened = {
        key: OpenStore(ViewedStore(key, FeatureStore.open(path)), weights)
        for key, path in zip(KEYS, stores, strict=False)
    }
    by_key = {key: each.viewed.store for key, each in opened.items()}
    viewed = {f"r{k}": ViewedRun(f"r{k}", run, by_key) for k, run in enumerate(runs)}
    return Explorer(opened, files, viewed)
