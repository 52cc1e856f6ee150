"""The feature store: an ordinary Zarr v3 group with an index, a packing list and a digest."""

from ..base.errors import CorruptStoreError, MissingRecordError, StoreError
from .geometry import GridShape
from .lookup import Status
from .metadata import Identity, StoreMetadata
from .store import FeatureBatch, FeatureStore
from .tables import IndexRow

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
    "StoreMetadata",
]
