"""Similarities of cells and images, and the nearest ones of a store."""

from collections.abc import Sequence
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from ..base.errors import ClipfeatError, CorruptStoreError, UsageError
from ..base.text import is_url
from .records import Grid, ViewedStore, shown_numbers, unit_rows

SAMPLE_IMAGES = 2000  # that a scan compares, at most
FAR_IMAGES = 200  # the same of a store at a URL, where they have to be fetched first
SAMPLE_BYTES = 1 << 30  # of their cells in memory, at most
READ_IMAGES, READ_NUMBERS = 32, 1 << 25  # read at a time, at most, or one image
BLOCK_CELLS = 1 << 14  # compared at a time


class Sample:
    """The cells of a random sample of a store's images in memory, each of length 1.

    It is drawn with a fixed seed, so that two people see the same. Padding is left out, and so is a
    record that is corrupt. Of a store with few images it has all.
    """

    def __init__(self, viewed: ViewedStore):
        """Read the records: SAMPLE_IMAGES or FAR_IMAGES of them, or fewer that take SAMPLE_BYTES."""
        count = FAR_IMAGES if is_url(viewed.store.location) else SAMPLE_IMAGES
        ids = viewed.catalogue.with_record(count)
        self.of = len(viewed.store)
        sizes = viewed.store.shapes(ids).prod(axis=1) if ids else np.zeros(0, np.int64)
        most = SAMPLE_BYTES // (4 * viewed.store.dim)
        ids = ids[: int(np.searchsorted(sizes.cumsum(), most, side="right"))]
        self.units = np.empty((int(sizes[: len(ids)].sum()), viewed.store.dim), np.float32)
        self.ids: list[str] = []
        starts = [0]
        self.places: list[np.ndarray] = []  # of each image, the numbers of its cells that are here
        vectors: list[np.ndarray] = []
        largest = int(sizes.max(initial=1)) * viewed.store.dim
        step = max(1, min(READ_IMAGES, READ_NUMBERS // largest))
        for start in range(0, len(ids), step):
            for image in _read(viewed, ids[start : start + step]):
                end = starts[-1] + len(image.units)
                self.units[starts[-1] : end] = image.units
                self.ids.append(image.image_id)
                self.places.append(image.places)
                vectors.append(image.vector)
                starts.append(end)
        self.units = self.units[: starts[-1]]
        self.starts = np.array(starts)
        length = len(vectors[0]) if vectors else viewed.store.dim
        self.vectors = unit_rows(np.array(vectors, np.float32).reshape(-1, length))

    @property
    def scanned(self) -> dict[str, Any]:
        """What was compared, as the page says it."""
        how = "all" if len(self.ids) == self.of else "sample"
        return {"images": len(self.ids), "of": self.of, "how": how}

    def similarities(self, unit: np.ndarray) -> np.ndarray:
        """Return the cosine of every cell to a vector (dim,) of length 1: (cell,) float32."""
        found = np.empty(len(self.units), np.float32)
        for start in range(0, len(found), BLOCK_CELLS):
            end = start + BLOCK_CELLS
            np.dot(self.units[start:end], unit, out=found[start:end])
        return found


class _Image(NamedTuple):
    """What a sample keeps of an image."""

    image_id: str
    units: np.ndarray  # (cell, dim) float32, without padding, of length 1
    places: np.ndarray  # (cell,) their numbers in the grid
    vector: np.ndarray  # the pooled vector, or the mean of `units`


def _read(viewed: ViewedStore, ids: Sequence[str]) -> list[_Image]:
    """Return the images whose records are whole."""
    try:
        batch = viewed.store.read(ids)
    except CorruptStoreError:
        if len(ids) == 1:
            return []
        return [found for image_id in ids for found in _read(viewed, [image_id])]
    images: list[_Image] = []
    for k, image_id in enumerate(ids):
        mask = batch.mask[k]
        units = unit_rows(batch.features[k][mask])
        vector = mean_vector(units) if batch.pooled is None else batch.pooled[k]
        images.append(_Image(image_id, units, np.flatnonzero(mask), vector))
    return images


def mean_vector(units: np.ndarray) -> np.ndarray:
    """Return the mean of cells of length 1, (cell, dim): what stands for an image without a vector."""
    return units.mean(axis=0) if len(units) else np.zeros(units.shape[1], np.float32)


class Neighbours:
    """Finds the nearest cells and images of a store; the sample is read when first used.

    One scan runs at a time: several at once would only wait for the same memory.
    """

    def __init__(self, viewed: ViewedStore):
        self._viewed = viewed
        self._lock = Lock()

    @cached_property
    def _sample(self) -> Sample:
        return Sample(self._viewed)

    def cells(self, image_id: str, cell: int, count: int) -> dict[str, Any]:
        """Return the `count` cells of other images that are nearest to a cell, by cosine."""
        unit = unit_of_cell(self._viewed.grid(image_id), cell)
        with self._lock:
            sample = self._sample
            found = sample.similarities(unit)
        nearest: list[dict[str, Any]] = []
        for k in best(found, count + len(self._viewed.grid(image_id).cells)):
            image = int(np.searchsorted(sample.starts, k, side="right")) - 1
            found_id = sample.ids[image]
            if found_id == image_id:
                continue
            nearest.append(
                {
                    "id": found_id,
                    "cell": int(sample.places[image][k - sample.starts[image]]),
                    "similarity": shown_numbers(found[k]),
                    "shape": self._viewed.store.shapes([found_id])[0].tolist(),
                }
            )
            if len(nearest) == count:
                break
        return {"scanned": sample.scanned, "cells": nearest}

    def images(self, image_id: str, count: int) -> dict[str, Any]:
        """Return the `count` other images nearest to one, by pooled vector or mean of cells."""
        store = self._viewed.store
        has_pooled = store.identity.pooled_dim is not None
        if has_pooled:
            own = store.pooled([image_id])[0]
        else:
            grid = self._viewed.grid(image_id)
            own = mean_vector(grid.units[grid.mask])
        with self._lock:
            sample = self._sample
            found = sample.vectors @ unit_rows(own[None])[0]
        nearest = [
            {"id": sample.ids[k], "similarity": shown_numbers(found[k])}
            for k in best(found, count + 1)
            if sample.ids[k] != image_id
        ]
        by = "pooled vector" if has_pooled else "mean of cells"
        return {"by": by, "scanned": sample.scanned, "images": nearest[:count]}


def best(values: np.ndarray, count: int) -> list[int]:
    """Return the places of the `count` largest numbers, the largest first; NaN comes last."""
    known = np.nan_to_num(values, nan=-np.inf)
    count = min(count, len(known))
    if not count:
        return []
    places = np.argpartition(-known, count - 1)[:count]
    return places[np.lexsort((places, -known[places]))].tolist()


def unit_of_cell(grid: Grid, cell: int) -> np.ndarray:
    """Return a cell of length 1: (dim,) float32; UsageError (E-VIEW-CELL) for another number."""
    if not 0 <= cell < len(grid.cells):
        raise UsageError(
            f"cell must be 0 to {len(grid.cells) - 1} in a {grid.shape} grid; got {cell}",
            code="E-VIEW-CELL",
        )
    return unit_rows(grid.cells[cell : cell + 1])[0]


def similar(viewed: ViewedStore, image_id: str, cell: int, others: Sequence[str]) -> dict[str, Any]:
    """Return the cosine of every cell of an image, and of others, to one of its cells.

    An image that cannot be read is in "missing", with the reason. Raises as `unit_of_cell` and
    `ViewedStore.grid` do for the image itself.
    """
    unit = unit_of_cell(viewed.grid(image_id), cell)
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for each in dict.fromkeys((image_id, *others)):
        try:
            grid = viewed.grid(each)
        except (ClipfeatError, OSError) as error:
            if each == image_id:
                raise
            missing[each] = str(error)
            continue
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines = grid.cells @ unit / np.where(grid.norms > 0, grid.norms, 1)
        found[each] = shown_numbers(cosines)
    return {"similar": found, "missing": missing}
