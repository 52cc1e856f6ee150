"""A store for other libraries: a read-only zarr group, and an xarray Dataset of each grid shape.

Both are lazy: opening reads metadata, and numbers are read when they are used.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyarrow has no types, and those of zarr and xarray are partial.

from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.errors import CorruptStoreError, StoreError, needs_extra
from ..base.parquet import rows_of
from .geometry import GridShape
from .layout import ZARR_GROUP, has_content
from .lookup import Status
from .shards import shard_size_problem

if TYPE_CHECKING:
    from xarray import Dataset
    from zarr import Group

    from .store import FeatureStore


def open_group(store: "FeatureStore") -> "Group":
    """Return `features.zarr` as a zarr group that cannot be written to.

    Raises CorruptStoreError if a zarr.json is not the one that store.json implies, and for a shard
    that is missing, of another size or a link: zarr would read zeros, or follow the link.
    """
    import zarr

    for name, content in store.zarr_metadata().items():
        if not has_content(store.path / name, content):
            raise CorruptStoreError(
                f"{store.path / name}: is not what store.json implies; "
                f"type: clipfeat store repair {store.path}",
                code="E-STORE-ZARR",
            )
    for shard in store.shards:
        if problem := shard_size_problem(store.path, shard):
            raise CorruptStoreError(
                f"{store.path / shard.path}: {problem}; type: clipfeat store verify {store.path}",
                code="E-STORE-SHARD",
            )
    return zarr.open_group(store.path / ZARR_GROUP, mode="r", zarr_format=3, use_consolidated=False)


def open_dataset(store: "FeatureStore", grid_shape: GridShape | str | None) -> "Dataset":
    """Return the records of one grid shape as a Dataset; see `FeatureStore.to_xarray`."""
    with needs_extra("xarray"):
        import xarray

    shape = _choose_shape(store, grid_shape)
    ids, rows = _records(store, shape)
    options: dict[str, Any] = {"consolidated": False, "chunks": None, "decode_cf": False}
    source, group = open_group(store).store, str(shape)
    dataset = xarray.open_zarr(source, group, drop_variables="pooled", **options)
    if store.identity.pooled_dim is not None:
        pooled = xarray.open_zarr(source, group, drop_variables="grid", **options)
        dataset = dataset.assign(pooled=pooled["pooled"].rename(dim="pooled_dim"))
    if len(rows) < dataset.sizes["record"]:
        dataset = dataset.isel(record=rows)
    mask = store.masks(ids).reshape(-1, *shape)
    dataset = dataset.assign(mask=(("record", "row", "col"), mask))
    dataset = dataset.assign_coords(image_id=("record", np.array(ids, object)))
    return dataset.assign_attrs(digest=store.digest)


def _choose_shape(store: "FeatureStore", grid_shape: GridShape | str | None) -> GridShape:
    shapes = store.grid_shapes
    if grid_shape is None and len(shapes) == 1:
        return shapes[0]
    for shape in shapes:
        if str(shape) == str(grid_shape):
            return shape
    problem = f"has no {grid_shape} grids" if grid_shape else f"has {len(shapes)} grid shapes"
    raise StoreError(
        f"{store.path} {problem}; choose one of {', '.join(map(str, shapes)):.200}",
        code="E-STORE-SHAPE",
    )


def _records(store: "FeatureStore", shape: GridShape) -> tuple[list[str], np.ndarray]:
    """Return the ids that have a record of a grid shape, in the order of their rows, and these."""
    pairs: list[tuple[int, str]] = []
    for batch in store.index_batches("image_id", "status", "shape", "row"):
        for image_id, status, text, row in rows_of(batch):
            if status == Status.OK and text == str(shape):
                pairs.append((row, image_id))
    pairs.sort()
    return [image_id for _, image_id in pairs], np.array([row for row, _ in pairs], np.int64)
