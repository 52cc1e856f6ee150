"""Grids of 8 bits: 256 values for each channel, evenly spaced over what the channel reaches."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..base.errors import CorruptStoreError
from ..base.files import read_bytes
from .identity import BLOCK
from .layout import ZARR_GROUP, check_folder, check_plain
from .shards import CRC_BYTES, crc32c

SCALE_FILE = f"{ZARR_GROUP}/scale/c.0.0"
LEVELS = 255  # steps between the 256 values

Float32 = np.ndarray[Any, np.dtype[np.float32]]


class Scale(NamedTuple):
    """From a stored number q of a channel to its value: low + step x q, computed in float32."""

    low: Float32  # (dim,)
    step: Float32  # (dim,)

    @classmethod
    def of_bounds(cls, low: Float32, high: Float32) -> "Scale":
        """Return the scale of channels that reach from `low` to `high`, (dim,) each.

        A channel without negative values starts at 0, which is then exact: half of the values
        behind a ReLU are zeros.
        """
        low = np.minimum(low, 0).astype("<f4")
        step = ((high.astype(np.float64) - low) / LEVELS).astype("<f4")
        return cls(low, step)

    def quantise(self, grid: np.ndarray) -> np.ndarray:
        """Return the stored numbers (..., dim) uint8 of values (..., dim), rounded to nearest."""
        numbers = np.subtract(grid, self.low, dtype=np.float32)
        numbers /= np.where(self.step > 0, self.step, 1)
        return np.clip(np.rint(numbers, out=numbers), 0, LEVELS, out=numbers).astype("u1")

    def dequantise(self, stored: np.ndarray, out: np.ndarray, axis: int) -> None:
        """Fill `out` with the values of stored numbers of the same shape; `axis` is the channels'."""
        step, low = (v[:, None] if axis == 0 else v for v in (self.step, self.low))
        for start in range(0, len(stored), BLOCK):  # as in copy_blocks
            part = slice(start, start + BLOCK)
            channels = part if axis == 0 else slice(None)
            values = stored[part] * step[channels] + low[channels]
            out[part] = values.astype(out.dtype)  # before it is turned, which is slow in two bytes

    def to_bytes(self) -> bytes:
        """Return the content of SCALE_FILE: the array (bound, dim), then its crc32c."""
        content = np.stack(self).astype("<f4").tobytes()
        return content + crc32c(content)


def scale_sha256(scale: Scale) -> str:
    """Return the sha256 of SCALE_FILE, which the identity has."""
    return hashlib.sha256(scale.to_bytes()).hexdigest()


def scale_bytes(dim: int) -> int:
    """Return the size of SCALE_FILE for `dim` channels."""
    return 2 * 4 * dim + CRC_BYTES


def read_scale(store: Path, dim: int, sha256: str) -> Scale:
    """Return the scale of a store on this machine; see `parse_scale`."""
    path = store / SCALE_FILE
    check_folder(path.parent)
    check_plain([path])
    try:
        content = read_bytes(path, scale_bytes(dim))
    except OSError as error:
        raise CorruptStoreError(
            f"{path}: cannot be read ({error.strerror}); copy it again from its source",
            code="E-STORE-SCALE",
        ) from None
    return parse_scale(content, dim, sha256, str(path))


def parse_scale(content: bytes, dim: int, sha256: str, path: str) -> Scale:
    """Return the scale of a store of `dim` channels from the content of SCALE_FILE at `path`.

    Raises CorruptStoreError unless it has this sha256 and holds finite numbers.
    """
    if len(content) != scale_bytes(dim) or hashlib.sha256(content).hexdigest() != sha256:
        raise CorruptStoreError(
            f"{path}: has changed: its sha256 is not the one in store.json; "
            f"copy it again from its source",
            code="E-STORE-SCALE",
        )
    values = np.frombuffer(content, "<f4", 2 * dim).reshape(2, dim)
    if not np.isfinite(values).all() or (values[1] < 0).any():
        raise CorruptStoreError(
            f"{path}: holds numbers that are no scale; copy it again from its source",
            code="E-STORE-SCALE",
        )
    return Scale(values[0], values[1])
