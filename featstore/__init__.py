"""The feature store: an ordinary Zarr v3 group with an index, a packing list and a digest."""

from ..base.errors import CorruptStoreError, MissingRecordError, StoreError
from .audit.contents import Depth, Problem
from .audit.repair import Repair, repair
from .audit.verify import verify
from .deriving.convert import convert
from .deriving.copies import merge, reshard, subset
from .deriving.pool import pool
from .geometry import GridShape
from .identity import Identity
from .lookup import Status
from .metadata import StoreMetadata
from .reading import FeatureBatch
from .shards import ShardRow
from .store import FeatureStore
from .tables import IndexRow
from .writing.describe import describe
from .writing.writer import write_store

__all__ = [
    "CorruptStoreError",
    "Depth",
    "FeatureBatch",
    "FeatureStore",
    "GridShape",
    "Identity",
    "IndexRow",
    "MissingRecordError",
    "Problem",
    "Repair",
    "ShardRow",
    "Status",
    "StoreError",
    "StoreMetadata",
    "convert",
    "describe",
    "merge",
    "pool",
    "repair",
    "reshard",
    "subset",
    "verify",
    "write_store",
]
