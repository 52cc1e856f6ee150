"""Our store, raw and zstd, and the decompressor that bounds what zstd can give."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numcodecs
import numpy as np

from clipfeat.featstore import FeatureStore, Identity
from clipfeat.featstore.identity import Codec
from clipfeat.featstore.shards import thread_count
from clipfeat.featstore.writing.writer import write_store

from .reader import Reader
from .records import Records

STORE = "records.clipfeat"


def write_ours(codec: Codec, records: Records, folder: Path) -> None:
    """Write a store of the records as extraction writes those of a ResNet: zstd, or none."""
    kind = records.kind
    order = "channels_first" if codec == "zstd" else "channels_last"
    identity = Identity({"model": "bench"}, {}, "float32", "float16", codec, kind.dim, None, order)
    rows = {image_id: row for row, image_id in enumerate(records.ids)}
    write_store(
        folder / STORE,
        identity,
        dict.fromkeys(records.ids, kind.shape),
        lambda image_id: records.grids[rows[image_id]],
    )


class Ours(Reader):
    """The store as its README shows it: every checksum verified, memory of its own."""

    name = "ours"
    cold = True
    verify = True

    def open(self) -> None:
        self._store = FeatureStore.open(self.folder / STORE, verify=self.verify)

    def one(self, row: int) -> np.ndarray:
        return self._store[self.records.ids[row]]

    def batch(self, rows: Sequence[int]) -> np.ndarray:
        ids = [self.records.ids[row] for row in rows]
        return self._store.read(ids).features.reshape(-1, *self.records.record_shape)


class OursUnverified(Ours):
    """No checksum looked at, as the peers that have none."""

    name = "ours, verification off"
    cold = False
    verify = False


class OursOut(Ours):
    """Into memory that the caller has and uses again."""

    name = "ours, out="
    cold = False

    def open(self) -> None:
        super().open()
        self._memory = np.zeros((0, self.records.kind.shape.cells, self.records.kind.dim), "f2")

    def one(self, row: int) -> np.ndarray:
        return self.batch([row])[0]

    def batch(self, rows: Sequence[int]) -> np.ndarray:
        if len(self._memory) < len(rows):  # in the round that warms up, which is not counted
            self._memory = np.zeros((len(rows), *self._memory.shape[1:]), self._memory.dtype)
        out = self._memory[: len(rows)]
        self._store.read([self.records.ids[row] for row in rows], out=out)
        return out.reshape(-1, *self.records.record_shape)


class OursChannelsFirst(Ours):
    """Records as they lie on disk: (image, dim, cell)."""

    name = "ours, channels first"
    cold = False

    def one(self, row: int) -> np.ndarray:
        return self.batch([row])[0]

    def batch(self, rows: Sequence[int]) -> np.ndarray:
        batch = self._store.read([self.records.ids[row] for row in rows], channels_first=True)
        return _channels_last(batch.features, self.records)


def _channels_last(features: np.ndarray, records: Records) -> np.ndarray:
    """Return a view (record, row, col, dim) of features (record, dim, ...)."""
    rows, cols, dim = records.record_shape
    return features.reshape(-1, dim, rows, cols).transpose(0, 2, 3, 1)


class Decompressor(Reader):
    """The same zstd frames, held in memory, into memory used again: no file, no index, no turning."""

    name = "decompressor alone"

    def open(self) -> None:
        self._zstd = numcodecs.Zstd(level=1, checksum=True)
        self._threads = ThreadPoolExecutor(thread_count())
        self._frames = list(self._threads.map(self._encode, self.records.grids))
        self._memory = np.zeros((0, self.records.grids[0].size), np.float16)

    def _encode(self, grid: np.ndarray) -> bytes:
        return self._zstd.encode(np.ascontiguousarray(grid.transpose(2, 0, 1)))

    def close(self) -> None:
        self._threads.shutdown()

    def one(self, row: int) -> np.ndarray:
        return self.batch([row])[0]

    def batch(self, rows: Sequence[int]) -> np.ndarray:
        if len(self._memory) < len(rows):
            self._memory = np.zeros((len(rows), *self._memory.shape[1:]), np.float16)
        out = self._memory[: len(rows)]
        frames = [self._frames[row] for row in rows]
        if len(rows) == 1:
            self._zstd.decode(frames[0], out[0])
        else:
            list(self._threads.map(self._zstd.decode, frames, out))
        return _channels_last(out, self.records)
