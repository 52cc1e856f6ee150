"""A store for other libraries: a read-only zarr group, and an xarray Dataset of each grid shape.

Both are lazy: opening reads metadata, and numbers are read when they are used.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyarrow has no types, and those of zarr and xarray are partial.

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.errors import CorruptStoreError, StoreError, needs_extra
from ..base.parquet import rows_of
from .geometry import GridShape
from .layout import ZARR_GROUP, has_content
from .lookup import Status
from .shards import ShardRow, shard_size_problem

if TYPE_CHECKING:
    import pyarrow as pa
    from xarray import Dataset
    from zarr import Group


def open_group(path: Path, metadata: Mapping[str, bytes], shards: Iterable[ShardRow]) -> "Group":
    """Return the arrays of the store at `path` as a zarr group that cannot be written to.

    `metadata` are its zarr.json files, as store.json implies them. Raises CorruptStoreError if one
    of them differs, and for a shard that is missing, of another size or a link: zarr would read
    zeros, or follow the link.
    """
    import zarr

    for name, content in metadata.items():
        if not has_content(path / name, content):
            raise CorruptStoreError(
                f"{path / name}: is not what store.json implies; type: clipfeat store repair {path}",
                code="E-STORE-ZARR",
            )
    for shard in shards:
        if problem := shard_size_problem(path, shard):
            raise CorruptStoreError(
                f"{path / shard.path}: {problem}; type: clipfeat store verify {path}",
                code="E-STORE-SHARD",
            )
    return zarr.open_group(path / ZARR_GROUP, mode="r", zarr_format=3, use_consolidated=False)


def open_dataset(
    group: "Group", shape: GridShape, ids: Sequence[str], rows: np.ndarray, mask: np.ndarray
) -> "Dataset":
    """Return the records of one grid shape as a Dataset; see `FeatureStore.to_xarray`.

    `ids` are those that have a record, `rows` (record,) where it is, `mask` (record, cell).
    """
    with needs_extra("xarray"):
        import xarray

    options: dict[str, Any] = {"consolidated": False, "chunks": None, "decode_cf": False}
    source, name = group.store, str(shape)
    dataset = xarray.open_zarr(source, name, drop_variables="pooled", **options)
    if f"{name}/pooled" in group:
        pooled = xarray.open_zarr(source, name, drop_variables="grid", **options)
        dataset = dataset.assign(pooled=pooled["pooled"].rename(dim="pooled_dim"))
    if len(rows) < dataset.sizes["record"]:
        dataset = dataset.isel(record=rows)
    dataset = dataset.assign(mask=(("record", "row", "col"), mask.reshape(-1, *shape)))
    return dataset.assign_coords(image_id=("record", np.array(ids, object)))


def choose_shape(
    path: Path, shapes: Sequence[GridShape], wanted: GridShape | str | None
) -> GridShape:
    """Return the shape that is wanted, or the only one; raises StoreError where there is none."""
    if wanted is None and len(shapes) == 1:
        return shapes[0]
    for shape in shapes:
        if str(shape) == str(wanted):
            return shape
    problem = f"has no {wanted} grids" if wanted else f"has {len(shapes)} grid shapes"
    raise StoreError(
        f"{path} {problem}; choose one of {', '.join(map(str, shapes)):.200}", code="E-STORE-SHAPE"
    )


def records_of_shape(
    index: "Iterable[pa.RecordBatch]", shape: GridShape
) -> tuple[list[str], np.ndarray]:
    """Return the ids that have a record of a grid shape, in the order of their rows, and these.

    The columns of `index` are image_id, status, shape and row.
    """
    pairs: list[tuple[int, str]] = []
    for batch in index:
        for image_id, status, text, row in rows_of(batch):
            if status == Status.OK and text == str(shape):
                pairs.append((row, image_id))
    pairs.sort()
    return [image_id for _, image_id in pairs], np.array([row for row, _ in pairs], np.int64)
