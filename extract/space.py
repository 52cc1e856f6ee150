"""How much room features take on disk, and how much there is."""

import shutil
from pathlib import Path

from ..featstore import GridShape, Identity
from ..featstore.layout import Layout


def record_bytes(shape: GridShape, identity: Identity) -> int:
    """Return the bytes of one record's numbers, before compression."""
    numbers = shape.cells * identity.dim + (identity.pooled_dim or 0)
    return numbers * identity.numpy_dtype.itemsize


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
