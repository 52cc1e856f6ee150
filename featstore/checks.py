"""What a store's folders and packing list must satisfy; it may come from anywhere."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from .errors import CorruptStoreError
from .format import ZARR_GROUP, ShardRow

SHARD_PATH = re.compile(
    rf"{re.escape(ZARR_GROUP)}/(?P<shape>[0-9]+x[0-9]+)/"
    r"(?P<array>grid/c\.(?P<grid>[0-9]{1,12})\.0\.0\.0|pooled/c\.(?P<pooled>[0-9]{1,12})\.0)"
)


def check_folders(store: Path, shapes: Iterable[str], arrays: tuple[str, ...]) -> None:
    """Raise CorruptStoreError if a folder of the store is a link: it may lead anywhere."""
    folders = [ZARR_GROUP]
    for shape in shapes:
        folders += [f"{ZARR_GROUP}/{shape}"]
        folders += [f"{ZARR_GROUP}/{shape}/{array}" for array in arrays]
    for folder in folders:
        if (store / folder).is_symlink():
            raise CorruptStoreError(f"{store / folder} is a link; a store holds no links")


def check_shards(
    path: Path, shards: Iterable[ShardRow], lengths: Mapping[str, int], shard_records: int
) -> None:
    """Raise CorruptStoreError unless paths and rows of the packing list `path` follow from
    each other: a store from elsewhere may name any file, or give one shard another's place.

    `lengths` are those of the arrays, by grid shape.
    """
    for shard in shards:
        match = SHARD_PATH.fullmatch(shard.path)
        if match and match["shape"] == shard.shape and shard.shape in lengths:
            first_row = int(match["grid"] or match["pooled"]) * shard_records
            end = shard.first_row + shard.records
            within = 1 <= shard.records <= shard_records and end <= lengths[shard.shape]
            if shard.first_row == first_row and within:
                continue
        raise CorruptStoreError(
            f"{path}: {shard.path!r:.200} cannot be the shard of "
            f"{shard.records} records of {shard.shape:.20} from row {shard.first_row}"
        )
