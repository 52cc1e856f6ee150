"""Formats made to be streamed in order: WebDataset, LitData, MosaicML streaming."""

import contextlib
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from clipfeat.base.machine import usable_cores

from .reader import Package, SequentialReader
from .records import Records

WEBDATASET = Package("webdataset", "webdataset")
LITDATA = Package("litdata", "litdata")
MOSAICML = Package("mosaicml-streaming", "streaming")

SHARD_BYTES = 1 << 26  # 64 MiB: the default of MosaicML, and what LitData's guide takes


def write_webdataset(records: Records, folder: Path) -> None:
    """Write tar files of .npy members."""
    pattern = str(folder / "%06d.tar")
    shards = WEBDATASET.load().ShardWriter(pattern, maxsize=SHARD_BYTES, verbose=0)
    with shards as writer:
        for image_id, grid in zip(records.ids, records.grids, strict=True):
            writer.write({"__key__": image_id, "npy": grid})


class WebDataset(SequentialReader):
    """webdataset in stored order, decoded; it has no random access."""

    name = "webdataset"
    package = WEBDATASET
    random_access = False

    def open(self) -> None:
        shards = sorted(map(str, self.folder.glob("*.tar")))
        dataset = WEBDATASET.load().WebDataset(shards, shardshuffle=False)
        self._dataset = dataset.decode().to_tuple("npy")

    def one(self, row: int) -> np.ndarray:
        raise NotImplementedError("a tar file has no index")

    def items(self) -> Iterator[np.ndarray]:
        return (grid for (grid,) in self._dataset)


def _grid(file: str, shape: tuple[int, int, int], row: int) -> np.ndarray:
    """Return record `row` of a flat file, for LitData's processes, which share no memory."""
    count = int(np.prod(shape))
    return np.fromfile(file, np.float16, count, offset=2 * count * row).reshape(shape)


def write_litdata(records: Records, folder: Path) -> None:
    """Write with litdata.optimize, in as many processes as there are cores.

    Its processes get the records through a flat file; writing that is timed with the rest.
    """
    flat = folder.with_suffix(".flat")
    records.grids.tofile(flat)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        LITDATA.load().optimize(
            fn=partial(_grid, str(flat), records.record_shape),
            inputs=list(range(len(records))),
            output_dir=str(folder),
            num_workers=usable_cores(),
            chunk_bytes=SHARD_BYTES,
            keep_data_ordered=True,
        )
    flat.unlink()


class LitData(SequentialReader):
    """litdata.StreamingDataset on a local folder."""

    name = "litdata"
    package = LITDATA

    def open(self) -> None:
        self._dataset = LITDATA.load().StreamingDataset(str(self.folder))

    def one(self, row: int) -> np.ndarray:
        return self._dataset[row]

    def items(self) -> Iterator[np.ndarray]:
        return iter(self._dataset)


def write_mds(records: Records, folder: Path) -> None:
    """Write MosaicML's shards with a column of fixed shape."""
    shape = ",".join(map(str, records.record_shape))
    writer = MOSAICML.load().MDSWriter(
        out=str(folder), columns={"grid": f"ndarray:float16:{shape}"}, size_limit=SHARD_BYTES
    )
    with writer:
        for grid in records.grids:
            writer.write({"grid": grid})


class Mds(SequentialReader):
    """MosaicML's StreamingDataset on a local folder."""

    name = "MosaicML streaming"
    package = MOSAICML

    def open(self) -> None:
        self._dataset = MOSAICML.load().StreamingDataset(
            local=str(self.folder), shuffle=False, batch_size=1
        )

    def one(self, row: int) -> np.ndarray:
        return self._dataset[row]["grid"]

    def items(self) -> Iterator[np.ndarray]:
        return (sample["grid"] for sample in self._dataset)
