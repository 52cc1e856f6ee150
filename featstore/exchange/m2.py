"""Detections in one HDF5 file, as aimagelab/meshed-memory-transformer reads them (data/field.py).

`<number>_features` (region, channel), and where they are there `<number>_boxes` (region, 4) and
`<number>_cls_prob` (region, class).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false

import errno
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ...base.errors import UsageError, needs_extra
from ...base.files import free_bytes
from ..identity import Identity
from .destination import Numbered, give_name
from .npyfile import require_size_of_image
from .npyfolders import flat
from .options import Options
from .parts import Parts, PartsReader
from .records import Features

FEATURES = re.compile(r"(\d+)_features", re.ASCII)
PART = ".part"  # ends the name of a file that is being written
SPARE_BYTES = 1 << 24  # that stay free, since the library ends the process where a disk is full


class M2Reader(PartsReader):
    """Reads an HDF5 file; its library lets one thread in at a time."""

    def __init__(self, name: str, sources: Sequence[Path]) -> None:
        """Open the file. Raises UsageError: E-IMPORT-HDF5 for another one, E-EXTRA-MISSING."""
        with needs_extra("exchange"):
            import h5py
        self._h5py: Any = h5py
        if len(sources) > 1 or not sources[0].is_file():
            raise UsageError(
                f"{sources[0]}: {name} is one HDF5 file; import each into a store of its own, and "
                f"merge these",
                code="E-IMPORT-SOURCE",
            )
        self.files = [sources[0]]
        try:
            self._file: Any = h5py.File(sources[0], "r")
        except OSError as error:
            raise UsageError(
                f"{sources[0]} is not an HDF5 file that can be read: {error}; copy it again",
                code="E-IMPORT-HDF5",
            ) from None
        super().__init__(name, sources[0])

    def places(self) -> Iterator[tuple[str, str]]:
        """Yield the number of each image."""
        try:
            for name in self._file:
                if match := FEATURES.fullmatch(name):
                    yield match[1], match[1]
        except (RuntimeError, KeyError, OSError) as error:
            raise UsageError(
                f"{self.files[0]}: its list of arrays is damaged: {error}; copy it again",
                code="E-IMPORT-HDF5",
            ) from None

    def parts(self, image_id: str, place: str) -> Parts:
        """Return the data sets of an image."""
        features = self._data_set(f"{place}_features")
        if features is None:
            raise ValueError("it has no features")
        return Parts(
            features, self._data_set(f"{place}_boxes"), None, self._data_set(f"{place}_cls_prob")
        )

    def whole(self, image_id: str, place: str) -> tuple[Parts, str]:
        """Return the arrays of an image, and the sha256 of their numbers."""
        parts = self.parts(image_id, place)
        digest = hashlib.sha256()
        read: list[np.ndarray | None] = []
        for data_set in (parts.grid, parts.boxes, parts.scores):
            try:
                read.append(None if data_set is None else np.ascontiguousarray(data_set[()]))
            except (OSError, RuntimeError, KeyError) as error:
                raise ValueError(f"its numbers cannot be read: {error}") from None
            if read[-1] is not None:
                digest.update(read[-1].data)
        return Parts(read[0], read[1], None, read[2]), digest.hexdigest()

    def _data_set(self, name: str) -> Any:
        """Return an array that is in this file itself, None if there is none of that name.

        A link could lead to another file, and so could a data set's numbers.
        """
        try:
            if name not in self._file:
                return None
            link = self._file.get(name, getlink=True)
            if not isinstance(link, self._h5py.HardLink):
                raise ValueError(f"{name} is a link, which is not followed")
            data_set = self._file[name]
            if not isinstance(data_set, self._h5py.Dataset):
                raise ValueError(f"{name} is not an array")
            if data_set.external or data_set.is_virtual:
                raise ValueError(f"the numbers of {name} are in another file, which is not read")
            if data_set.dtype.kind not in "fiub" or data_set.shape is None:
                raise ValueError(f"{name} does not hold numbers")
            require_size_of_image(prod(data_set.shape) * data_set.dtype.itemsize)
        except (OSError, RuntimeError, KeyError, TypeError) as error:
            raise ValueError(f"{name} cannot be read: {error}") from None
        return data_set

    def place_text(self, place: str) -> str:
        """Return the name of the features in the file."""
        return f"{place}_features"

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class M2Writer:
    """Writes an HDF5 file. Since a kill may leave it damaged, an interrupted export begins anew."""

    def __init__(self, path: Path) -> None:
        with needs_extra("exchange"):
            import h5py
        self._h5py: Any = h5py
        self._path, self._part = path, path.with_name(f"{path.name}{PART}")
        self._number = Numbered()
        self._file: Any = None

    def written(self) -> set[str]:
        """Return nothing: what an interrupted export has written is not continued."""
        return set()

    def write(self, image_id: str, features: Features) -> None:
        """Write the data sets of one image; grids become rows of cells."""
        number = self._number(image_id)
        if free_bytes(self._part) < features.grid.nbytes + SPARE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._part))
        file = self._opened()
        file.create_dataset(f"{number}_features", data=flat(features))
        if features.boxes is not None:
            file.create_dataset(f"{number}_boxes", data=features.boxes)
        if features.scores is not None:
            file.create_dataset(f"{number}_cls_prob", data=features.scores[:, None])

    def finish(self) -> None:
        """Close the file and give it its name."""
        self._opened().close()
        give_name(self._part, self._path)

    def _opened(self) -> Any:
        if self._file is None:
            self._file = self._h5py.File(self._part, "w", track_order=False)
        return self._file


def open_reader(name: str, sources: Sequence[Path], options: Options) -> M2Reader:
    """Return the reader of a file."""
    return M2Reader(name, sources)


def open_writer(name: str, path: Path, identity: Identity, options: Options) -> M2Writer:
    """Return the writer of a file, in which images are named by their numbers."""
    return M2Writer(path)
