"""What decides the features of a store, and what follows from it: its arrays and their numbers.

docs/store-format.md is the contract.
"""

import json
import math
import re
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from ..base.errors import StoreError
from ..base.jsonio import as_struct, canonical_json, check_fields
from .geometry import GridShape

MAX_DIM = 1 << 16  # channels; the widest open_clip tower has fewer than 6,000
MANTISSA_BITS = 10  # of a float16
BLOCK = 256  # channels of a record that are turned at a time

Precision = Literal["float32", "bfloat16", "float16"]
Dtype = Literal["float16", "float32", "uint8"]
FloatDtype = Literal["float16", "float32"]
Codec = Literal["zstd", "none"]
Order = Literal["channels_last", "channels_first"]
Region = Literal["boxes", "classes", "scores"]
Sha256 = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="a sha256: 64 lower-case hex digits")
]
Channels = Annotated[int, Meta(ge=1, le=MAX_DIM)]

REGIONS: tuple[Region, ...] = ("boxes", "classes", "scores")
Numbers = np.dtype[Any]


def is_sha256(value: Any) -> bool:
    """Return whether `value` is a sha256 as a store writes it: 64 lower-case hex digits."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


class DerivedFrom(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The store that another one was made from, and how."""

    digest: Sha256
    operation: Annotated[str, Meta(min_length=1, max_length=100)]
    settings: dict[str, Any]


IMPORTED = "imported"  # the model of a backbone whose features other programs have made


def writing_command(operation: object, model: object = None) -> str:
    """Return what a user types to write a store that is derived by `operation`, None: by none.

    `model` is that of its backbone.

    >>> writing_command("pool"), writing_command(None), writing_command(None, IMPORTED)
    ('clipfeat store pool', 'clipfeat extract', 'clipfeat import')
    """
    if operation == "subset":
        return "clipfeat store subset or clipfeat store pull"
    if operation in ("merge", "reshard", "convert", "pool"):
        return f"clipfeat store {operation}"
    return "clipfeat import" if model == IMPORTED else "clipfeat extract"


class Array(NamedTuple):
    """One array of the grids of one shape; `dims` and `shape` are those of a record."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: Numbers  # little-endian
    order: tuple[int, ...]  # the dimensions as they follow one another on disk

    @property
    def bytes(self) -> int:
        """The size of a record before compression."""
        return math.prod(self.shape) * self.dtype.itemsize

    def as_stored(self, record: np.ndarray) -> np.ndarray:
        """Return a record (*shape) with its dimensions and numbers as they lie on disk."""
        turned = record.transpose(self.order)
        stored = np.empty(turned.shape, self.dtype)
        copy_blocks(turned, stored)
        return stored

    def from_stored(self, stored: np.ndarray) -> np.ndarray:
        """Return a view of what `as_stored` gave, of the record's shape."""
        return stored.transpose(np.argsort(self.order))


def copy_blocks(source: np.ndarray, out: np.ndarray) -> None:
    """Copy an array into one of the same shape whose dimensions lie otherwise in memory.

    Block by block, both fit a processor's cache: 2.4 times as fast as at once.
    """
    for start in range(0, len(source), BLOCK):
        out[start : start + BLOCK] = source[start : start + BLOCK]


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What decides the features: stores of equal identity hold the same features for an image id,
    up to the rounding of the device that computed them.

    `backbone` and `recipe` are JSON objects that the extractor fills; `dim` is the number of
    channels of a cell, `pooled_dim` that of the pooled vector, None where there is none. Raises
    StoreError for a value that the format does not allow.
    """

    backbone: dict[str, Any]
    recipe: dict[str, Any]
    precision: Precision  # of the forward pass
    dtype: Dtype  # on disk
    codec: Codec
    dim: Channels
    pooled_dim: Channels | None
    order: Order = "channels_last"  # of the numbers of a grid on disk
    mantissa_bits: Annotated[int, Meta(ge=1, lt=MANTISSA_BITS)] | None = None  # None: all
    scale_sha256: Sha256 | None = None  # of the bytes of the array `scale`, see `Scale`
    regions: tuple[Region, ...] = ()  # what each cell has, where cells are regions of an image
    derived_from: DerivedFrom | None = None

    def __post_init__(self) -> None:
        try:
            check_fields(self, "identity")
            self._check()
        except ValueError as error:
            raise StoreError(str(error), code="E-STORE-IDENTITY") from None

    def _check(self) -> None:
        """Raise ValueError for fields that do not fit each other."""
        if self.mantissa_bits is not None and self.dtype != "float16":
            raise ValueError(f"identity.mantissa_bits are of float16; dtype is {self.dtype}")
        if (self.scale_sha256 is not None) != (self.dtype == "uint8"):
            raise ValueError("identity.scale_sha256 must be given for dtype uint8, and only for it")
        if self.regions != tuple(name for name in REGIONS if name in self.regions):
            raise ValueError(
                f"identity.regions must be some of {', '.join(REGIONS)}, in this order; "
                f"got {', '.join(self.regions)}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of plain values, keys sorted."""
        return json.loads(canonical_json(msgspec.to_builtins(self)))

    @classmethod
    def from_json(cls, value: Any) -> "Identity":
        """Return the identity that `to_json` gave, raising StoreError for any other value."""
        try:
            return as_struct(value, cls, "identity")
        except ValueError as error:
            raise StoreError(str(error), code="E-STORE-IDENTITY") from None

    @property
    def arrays(self) -> tuple[str, ...]:
        """The names of the arrays that each grid shape has."""
        return ("grid", *(() if self.pooled_dim is None else ("pooled",)), *self.regions)

    @property
    def numpy_dtype(self) -> Numbers:
        """The dtype of the features that readers get: float16 of a store of uint8."""
        return np.dtype("float16" if self.dtype == "uint8" else self.dtype).newbyteorder("<")

    @property
    def stored_dtype(self) -> Numbers:
        """The dtype of the grids on disk, little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")

    def record_bytes(self, shape: GridShape) -> int:
        """Return the bytes of the numbers of a record with this grid shape, before compression."""
        return sum(self.array(name, shape).bytes for name in self.arrays)

    def array(self, name: str, shape: GridShape) -> Array:
        """Return one of `arrays`, as it is for the grids of one shape."""
        if name == "grid":
            order = (2, 0, 1) if self.order == "channels_first" else (0, 1, 2)
            return Array(name, ("row", "col", "dim"), (*shape, self.dim), self.stored_dtype, order)
        if name == "pooled":
            return Array(name, ("dim",), (self.pooled_dim or 0,), self.numpy_dtype, (0,))
        if name == "boxes":
            sides = (shape.cells, 4)
            return Array(name, ("region", "side"), sides, np.dtype("<f4"), (0, 1))
        dtype = np.dtype("<i4" if name == "classes" else "<f4")
        return Array(name, ("region",), (shape.cells,), dtype, (0,))
