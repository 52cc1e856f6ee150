"""Which record goes into which row of which shard: a pure function of ids and grid shapes."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from .format import ZARR_GROUP, GridShape, canonical_json


@dataclass(frozen=True)
class Shard:
    """One file of `grid` records, and its like of `pooled` vectors: what one task writes.

    ::

        rows of 14x14/grid   0 ... 127 | 128 ... 255 | 256 ... 300
        shard index               0    |      1      |      2        (the last is short)
    """

    number: int  # in the whole store; names the receipt
    shape: GridShape
    index: int  # in the arrays of this shape
    first_row: int
    ids: tuple[str, ...]

    def path(self, array: str) -> str:
        """Return the shard's file of `array` ("grid" or "pooled"), relative to the store."""
        zeros = ".0.0.0" if array == "grid" else ".0"
        return f"{ZARR_GROUP}/{self.shape}/{array}/c.{self.index}{zeros}"


@dataclass(frozen=True)
class Layout:
    """The whole store, cut into shards of `shard_records` records."""

    shard_records: int
    records: Mapping[GridShape, int]
    shards: tuple[Shard, ...]

    def fingerprint(self) -> str:
        """Return a sha256 that two layouts share only if they place the same ids alike."""
        digest = hashlib.sha256(canonical_json(self.shard_records))
        for shard in self.shards:
            digest.update(canonical_json([str(shard.shape), shard.first_row, shard.ids]))
        return digest.hexdigest()


def lay_out(shapes: Mapping[str, GridShape], shard_records: int) -> Layout:
    """Return the layout of `{image_id: grid shape}`: by shape, then ids sorted, then cut.

    It depends on nothing else, neither on devices nor on what is already written.
    """
    by_shape: dict[GridShape, list[str]] = {}
    for image_id in sorted(shapes):
        by_shape.setdefault(shapes[image_id], []).append(image_id)
    shards: list[Shard] = []
    for shape in sorted(by_shape):
        ids = by_shape[shape]
        for index, first in enumerate(range(0, len(ids), shard_records)):
            chunk = tuple(ids[first : first + shard_records])
            shards.append(Shard(len(shards), shape, index, first, chunk))
    return Layout(shard_records, {s: len(i) for s, i in sorted(by_shape.items())}, tuple(shards))
