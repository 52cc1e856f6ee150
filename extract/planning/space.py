"""How much room features take on disk, and how much there is."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from ...featstore import GridShape, Identity
from ...featstore.format import MAX_RECORD_BYTES
from ...featstore.layout import Layout
from ..errors import ExtractUsageError


def record_bytes(shape: GridShape, identity: Identity) -> int:
    """Return the bytes of one record's numbers, before compression."""
    numbers = shape.cells * identity.dim + (identity.pooled_dim or 0)
    return numbers * identity.numpy_dtype.itemsize


def check_record_sizes(shapes: Iterable[GridShape], identity: Identity) -> None:
    """Raise ExtractUsageError if a grid would be larger than a store may hold."""
    largest = max(set(shapes), key=lambda shape: shape.cells)
    size = largest.cells * identity.dim * identity.numpy_dtype.itemsize
    if size > MAX_RECORD_BYTES:
        raise ExtractUsageError(
            f"a grid of {largest}x{identity.dim} {identity.dtype} has {size:,} bytes, and a store "
            f"holds grids of at most {MAX_RECORD_BYTES:,}; choose a recipe with fewer pixels"
        )


def layout_bytes(layout: Layout, identity: Identity) -> int:
    """Return the bytes of all numbers that a layout's shards hold, before compression."""
    return sum(len(s.ids) * record_bytes(s.shape, identity) for s in layout.shards)


def free_bytes(path: Path) -> int:
    """Return the free bytes of the disk on which `path` lies or will lie."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def shortage(out: Path, layout: Layout, identity: Identity) -> str | None:
    """Return a warning if the features might not fit on the disk of `out`."""
    most, free = layout_bytes(layout, identity), free_bytes(out)
    if most <= free:
        return None
    return (
        f"the features take up to {most / 1e9:.1f} GB before compression, and {free / 1e9:.1f} GB "
        f"are free; --dry-run measures how much it will be"
    )
