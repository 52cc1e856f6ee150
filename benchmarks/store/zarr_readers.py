"""Zarr's own readers, on the files of our store."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import zarr

from .ours import STORE
from .reader import PASS_BATCH, Package, Reader

ZARRS = Package("zarrs", "zarrs")
TENSORSTORE = Package("tensorstore", "tensorstore")


# In zarr 3.1, the last for Python 3.11, a selection of rows takes 45 times the memory of its records,
# 18 GB for 384 MB, and is 20 times as slow as record by record; in 3.4 it is twice as fast.
SELECTS_ROWS = tuple(map(int, zarr.__version__.split(".")[:2])) >= (3, 4)


class ZarrPython(Reader):
    """zarr-python with its defaults; a batch is one orthogonal selection, where that is faster than
    record by record. Threads or asyncio were slower than either."""

    name = "zarr-python"
    cold = True
    pipeline = "zarr.core.codec_pipeline.BatchedCodecPipeline"

    def open(self) -> None:
        group = self.folder / STORE / "features.zarr"
        with zarr.config.set({"codec_pipeline.path": self.pipeline}):
            array = zarr.open_group(group, mode="r")[f"{self.records.kind.shape}/grid"]
        assert isinstance(array, zarr.Array)
        self._array: zarr.Array[Any] = array

    def one(self, row: int) -> np.ndarray:
        return np.asarray(self._array[row])

    def batch(self, rows: Sequence[int]) -> np.ndarray:
        if not SELECTS_ROWS:
            return super().batch(rows)
        return np.asarray(self._array.oindex[np.asarray(rows)])

    def batches(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self.records), PASS_BATCH):
            yield np.asarray(self._array[start : start + PASS_BATCH])


class Zarrs(ZarrPython):
    """zarr-python with the pipeline of zarrs, which hands integer selections back to
    zarr-python; so a batch is its records asked for together."""

    name = "zarrs"
    package = ZARRS
    cold = False
    pipeline = "zarrs.ZarrsCodecPipeline"

    def open(self) -> None:
        ZARRS.load()  # registers the pipeline
        super().open()
        self._runner = asyncio.Runner()

    def close(self) -> None:
        self._runner.close()

    def batch(self, rows: Sequence[int]) -> np.ndarray:
        out = np.empty((len(rows), *self.records.record_shape), self.dtype)

        async def fill(place: np.ndarray, row: int) -> None:
            place[...] = await self._array.async_array.getitem(row)

        async def fill_all() -> None:
            await asyncio.gather(*map(fill, out, rows))

        self._runner.run(fill_all())
        return out


class TensorStore(Reader):
    """tensorstore without a cache; a batch copies record by record, all at once, into its
    memory, which was faster here than one gather or a ts.Batch."""

    name = "tensorstore"
    package = TENSORSTORE
    cold = True

    def open(self) -> None:
        self._ts = TENSORSTORE.load()
        array = self.folder / STORE / "features.zarr" / str(self.records.kind.shape) / "grid"
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(array)}}
        context = self._ts.Context({"cache_pool": {"total_bytes_limit": 0}})
        self._array: Any = self._ts.open(spec, context=context, read=True, open=True).result()

    def one(self, row: int) -> np.ndarray:
        return self._array[row].read().result()

    def batch(self, rows: Sequence[int]) -> np.ndarray:
        out = np.empty((len(rows), *self.records.record_shape), self.dtype)
        into = self._ts.array(out)
        copies = [into[place].write(self._array[row]) for place, row in enumerate(rows)]
        for copy in copies:
            copy.result()
        return out
