"""Formats that look a record up by its key: LMDB, HDF5, one file a record."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from .reader import PASS_BATCH, Package, Reader
from .records import Records

LMDB = Package("lmdb", "lmdb")
H5PY = Package("h5py", "h5py")

HDF5_FILE = "records.h5"


def write_lmdb(records: Records, folder: Path) -> None:
    """Write one value a record, all in one transaction."""
    size = 2 * records.grids.nbytes + (1 << 24)
    with (
        LMDB.load().open(str(folder), map_size=size) as environment,
        environment.begin(write=True) as transaction,
    ):
        for image_id, grid in zip(records.ids, records.grids, strict=True):
            transaction.put(image_id.encode(), grid.data, append=True)


class Lmdb(Reader):
    """LMDB as it recommends for random reads of a map larger than memory: no lock, no readahead,
    values as buffers into the map, copied once."""

    name = "LMDB"
    package = LMDB
    cold = True
    readahead = False

    def open(self) -> None:
        self._environment = LMDB.load().open(
            str(self.folder), readonly=True, lock=False, readahead=self.readahead
        )

    def close(self) -> None:
        self._environment.close()

    def one(self, row: int) -> np.ndarray:
        return self.batch([row])[0]

    def batch(self, rows: Sequence[int]) -> np.ndarray:
        out = np.empty((len(rows), *self.records.record_shape), self.dtype)
        with self._environment.begin(buffers=True) as transaction:
            for place, row in zip(out.reshape(len(rows), -1), rows, strict=True):
                value = transaction.get(self.records.ids[row].encode())
                place[...] = np.frombuffer(value, self.dtype)
        return out


class LmdbReadahead(Lmdb):
    """LMDB with the kernel's readahead: without, a cold record comes page by page."""

    name = "LMDB, readahead"
    readahead = True


def write_hdf5(records: Records, folder: Path) -> None:
    """Write one dataset with a chunk a record."""
    with H5PY.load().File(folder / HDF5_FILE, "w") as file:
        file.create_dataset("grid", data=records.grids, chunks=(1, *records.record_shape))


class Hdf5(Reader):
    """h5py; a batch in stored order straight into its memory. Sorted fancy indexing, which h5py
    also offers, was a hundred times slower."""

    name = "h5py"
    package = H5PY
    cold = True

    def open(self) -> None:
        self._file = H5PY.load().File(self.folder / HDF5_FILE, "r")
        self._grids = self._file["grid"]

    def close(self) -> None:
        self._file.close()

    def one(self, row: int) -> np.ndarray:
        return self._grids[row]

    def batch(self, rows: Sequence[int]) -> np.ndarray:
        out = np.empty((len(rows), *self.records.record_shape), self.dtype)
        for place in np.argsort(rows):
            self._grids.read_direct(out, np.s_[int(rows[place])], np.s_[int(place)])
        return out

    def batches(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self.records), PASS_BATCH):
            yield self._grids[start : start + PASS_BATCH]


def write_npy(records: Records, folder: Path) -> None:
    """Write one .npy file a record."""
    for image_id, grid in zip(records.ids, records.grids, strict=True):
        np.save(folder / f"{image_id}.npy", grid)


class Npy(Reader):
    """numpy.load of one file a record."""

    name = "npy"
    cold = True

    def open(self) -> None:
        """Nothing stays open."""

    def one(self, row: int) -> np.ndarray:
        return np.load(self.folder / f"{self.records.ids[row]}.npy")


def write_npz(records: Records, folder: Path) -> None:
    """Write as most extraction scripts do: numpy.savez_compressed of the float32 of the model."""
    for image_id, grid in zip(records.ids, records.grids, strict=True):
        np.savez_compressed(folder / f"{image_id}.npz", grid=records.unrounded(grid))


class Npz(Npy):
    """numpy.load of one compressed file a record, float32."""

    name = "npz float32"
    dtype = np.float32

    def one(self, row: int) -> np.ndarray:
        with np.load(self.folder / f"{self.records.ids[row]}.npz") as file:
            return file["grid"]
