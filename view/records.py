"""A store that is viewed: its records, checked and kept for a while, and what is known of them."""

from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from ..base.errors import StoreUsageError
from ..base.text import counted
from ..featstore import FeatureStore, GridShape
from ..featstore.report.deviation import relative_error
from ..featstore.report.summary import sentence
from .geometry import box_shares, covered_part, is_turned
from .ids import Catalogue

MAX_CELLS = 1 << 14  # of a grid that is shown; a page of more would be slow
KEPT_BYTES = 1 << 28  # of records in memory


class Grid(NamedTuple):
    """The cells of one image, in reading order, and which of them hold pixels of it."""

    shape: GridShape
    cells: np.ndarray  # (cell, dim) float32, as readers get them
    mask: np.ndarray  # (cell,) bool, False where the recipe has padded
    norms: np.ndarray  # (cell,) float64, the L2 norm

    @property
    def units(self) -> np.ndarray:
        """The cells divided by their norms: (cell, dim) float32; a cell of zeros stays."""
        return unit_rows(self.cells)


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (n, dim), each divided by its L2 norm, as float32; zeros stay zeros."""
    widened = vectors.astype(np.float32)
    norms = np.sqrt(np.einsum("nd,nd->n", widened, widened, dtype=np.float64))
    return widened / np.where(norms > 0, norms, 1).astype(np.float32)[:, None]


class ViewedStore:
    """A store that is open in the explorer, with its ids in memory.

    Every record is read with its checksum. The last ones are kept, KEPT_BYTES of them. Safe to
    share between threads.
    """

    def __init__(self, key: str, store: FeatureStore):
        """Read the index; errors are those of `Catalogue.of`."""
        self.key = key
        self.store = store
        self.catalogue = Catalogue.of(store)
        self._kept: OrderedDict[str, Grid] = OrderedDict()
        self._lock = Lock()

    def grid(self, image_id: str) -> Grid:
        """Return the cells of an image.

        Raises MissingRecordError for an id without a record, CorruptStoreError for bytes that have
        changed, StoreUsageError for a grid of more than MAX_CELLS cells.
        """
        with self._lock:
            known = self._kept.get(image_id)
            if known is not None:
                self._kept.move_to_end(image_id)
                return known
        rows, cols = self.store.shapes([image_id])[0].tolist()
        if rows * cols > MAX_CELLS:
            raise StoreUsageError(
                f"{self.store.location}: the grid of image id {image_id!r:.100} has "
                f"{counted(rows * cols, 'cell')}, and at most {MAX_CELLS:,} are shown; make smaller "
                f"grids: clipfeat store pool",
                code="E-VIEW-CELLS",
            )
        values = self.store[image_id].reshape(rows * cols, -1).astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            norms = np.sqrt(np.einsum("cd,cd->c", values, values, dtype=np.float64))
        grid = Grid(GridShape(rows, cols), values, self.store.mask(image_id).ravel(), norms)
        with self._lock:
            self._kept[image_id] = grid
            while sum(each.cells.nbytes for each in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
        return grid

    def record(self, image_id: str) -> dict[str, Any]:
        """Return what is shown of one id, without its colours; an id without a record has a reason.

        Raises as `grid` does, but not for an id without a record.
        """
        entry = self.catalogue.find(image_id)
        found: dict[str, Any] = {
            **entry.to_json(),
            "dim": self.store.dim,
            "image_size": None if entry.size is None else [*entry.size],
            "mask": None,
            "boxes": None,
            "norms": [],
            "crop": [0.0, 0.0, 1.0, 1.0],
            "upright": self._is_turned,
        }
        if entry.shape is None:
            return found
        grid = self.grid(entry.image_id)
        if not grid.mask.all():
            found["mask"] = grid.mask.tolist()
        found["norms"] = shown_numbers(grid.norms)
        if "boxes" in self.store.identity.regions:
            boxes = self.store.read([entry.image_id]).boxes
            assert boxes is not None
            found["boxes"] = shown_numbers(box_shares(boxes[0], entry.size))
        found["crop"] = [*covered_part(self.store.identity, entry.size, entry.shape)]
        return found

    @cached_property
    def _is_turned(self) -> bool:
        return is_turned(self.store.identity)

    def to_json(self) -> dict[str, Any]:
        """Return what the page shows of the store."""
        store, identity = self.store, self.store.identity
        shapes = self.catalogue.shapes
        most = [*shapes.items()][:50]
        return {
            "key": self.key,
            "location": store.location,
            "digest": store.digest,
            "sentence": sentence(shapes, store.dim, len(store)),
            "model": _text(identity.backbone, "model"),
            "recipe": _text(identity.recipe, "name"),
            "dim": store.dim,
            "records": len(store),
            "statuses": {str(s): n for s, n in store.metadata.counts.items() if n},
            "shapes": [{"shape": [*GridShape.parse(s)], "count": n} for s, n in most],
            "regions": bool(identity.regions),
            "vectors": identity.pooled_dim is not None,
            "views": identity.recipe.get("views") is not None,
        }


def difference(a: ViewedStore, b: ViewedStore, image_id: str) -> dict[str, Any]:
    """Return how the records of an image differ in two stores, as `clipfeat store diff` measures it.

    "largest" is the largest absolute difference of a number, "relative_error" the norm of the
    difference over that of the record of `b`, "cosine" that of each cell. They are None, and "why"
    says why, where grids or channels do not fit each other. Raises as `ViewedStore.grid` does.
    """
    one, other = a.grid(image_id), b.grid(image_id)
    found: dict[str, Any] = {
        "same": False,
        "shape": [[*one.shape], [*other.shape]],
        "largest": None,
        "relative_error": None,
        "cosine": None,
        "why": None,
    }
    if one.cells.shape[1] != other.cells.shape[1]:
        dims = (one.cells.shape[1], other.cells.shape[1])
        found["why"] = f"the stores have {dims[0]} and {dims[1]} channels"
    elif one.shape != other.shape:
        found["why"] = f"the grids are {one.shape} and {other.shape}"
    else:
        x, y = one.cells.astype(np.float64), other.cells.astype(np.float64)
        norms = one.norms * other.norms
        both_zero = (one.norms == 0) & (other.norms == 0)
        with np.errstate(invalid="ignore"):
            cosine = np.where(both_zero, 1.0, (x * y).sum(axis=1) / np.where(norms > 0, norms, 1))
            found["largest"] = float(np.abs(x - y).max())
            found["relative_error"] = relative_error(x, y)
        found["same"] = bool(np.array_equal(x, y, equal_nan=True))
        found["cosine"] = np.round(cosine, 6).tolist()
    return found


def shown_numbers(values: np.ndarray) -> list[Any]:
    """Return numbers with four decimals, as nested lists; msgspec writes NaN as null."""
    return np.round(values.astype(np.float64), 4).tolist()


def _text(content: Mapping[str, Any], key: str) -> str:
    """Return a text of an identity, which may hold anything."""
    return str(content.get(key, "not recorded"))[:200]
