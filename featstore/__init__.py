"""The feature store: an ordinary Zarr v3 group with an index, a packing list and a digest."""

from ..base.errors import CorruptStoreError, MissingRecordError, StoreError
from .format import GridShape, Identity, IndexRow, Status
from .store import FeatureBatch, FeatureStore

__all__ = [
    "CorruptStoreError",
    "FeatureBatch",
    "FeatureStore",
    "GridShape",
    "Identity",
    "IndexRow",
    "MissingRecordError",
    "Status",
    "StoreError",
]
