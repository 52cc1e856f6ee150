"""Extract a sample of a received store again, and compare it with what the store holds."""

import logging
import math
import random
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from ..base.errors import ExtractUsageError, needs_extra
from ..base.text import printable
from ..featstore import FeatureStore, GridShape, IndexRow, Status
from ..featstore.deriving.numbers import as_stored, in_range, values_of
from ..featstore.deriving.pool import adaptive_average, within_area
from ..featstore.geometry import area_rule
from ..featstore.identity import IMPORTED
from ..featstore.recipes import before_pooling
from ..featstore.report.deviation import TOLERANCE, Deviation, deviation, relative_error
from ..manifests.contents import require_driver
from .api import choose_device
from .embedding import backbone_spec, check_weights
from .planning.config import MAX_PIXELS
from .planning.plan import Batching, picture_shape
from .planning.recipe import Recipe

if TYPE_CHECKING:
    from .executors.pipeline import FeatureStream
    from .pixels.images import Picture

logger = logging.getLogger(__name__)

BATCH = 16  # images
# Relative error that rounding to 8 bits or fewer mantissa bits may explain. It is measured with the
# store's own scale, so a store with a very coarse one would otherwise be allowed anything.
MAX_ROUNDING = 0.05
OTHER_FILE = "another file than the one extracted (sha256)"


@dataclass(frozen=True)
class Recomputation:
    """The comparison of a sample."""

    deviations: tuple[Deviation, ...]
    skipped: tuple[tuple[str, str], ...]  # image id, why it could not be compared
    other_files: tuple[str, ...]  # ids of those skipped whose file is not the one extracted
    tolerance: float
    seed: int

    @property
    def verdict(self) -> str:
        """Return `same bits`, `same features`, `DIFFERENT`, `other files`, or `not compared`.

        Where a sampled file is not the one that was extracted, the store does not hold the
        features of these images, however right those of the others are.
        """
        if not all(each.relative_error <= self.tolerance for each in self.deviations):
            return "DIFFERENT"  # so is NaN
        if self.other_files:
            return "other files"
        if not self.deviations:
            return "not compared"
        if all(deviation.same_bits for deviation in self.deviations):
            return "same bits"
        return "same features"

    @property
    def is_good(self) -> bool:
        """Whether all that could be compared has the features of the store."""
        return self.verdict in {"same bits", "same features"}

    def to_json(self) -> dict[str, Any]:
        """Return the comparison for scripts."""
        return {"verdict": self.verdict, **asdict(self)}

    def text(self) -> str:
        """Return lines for a person."""
        lines = [f"{image_id}: {reason}" for image_id, reason in self.skipped[:5]]
        if len(self.skipped) > 5:
            lines.append(f"... and {len(self.skipped) - 5} more that could not be compared")
        n = len(self.deviations)
        if n:
            errors = sorted(deviation.relative_error for deviation in self.deviations)
            worst = max(self.deviations, key=lambda deviation: deviation.relative_error)
            cosine = min(deviation.cosine for deviation in self.deviations)
            same = sum(deviation.same_bits for deviation in self.deviations)
            lines.append(
                f"{n} records extracted again: {same} with the same bits; relative error: "
                f"{errors[n // 2]:.2g} (median), {errors[-1]:.2g} (worst, "
                f"{printable(worst.image_id)}), {self.tolerance:.2g} (allowed); "
                f"least cosine of a cell {cosine:.6f}"
            )
        lines.append(f"verdict: {self.verdict} (sample of --seed {self.seed})")
        return "\n".join(lines)


class AsInStore:
    """Pools and rounds grids that were just extracted, as the records of a store were."""

    def __init__(self, store: FeatureStore):
        """Raises StoreError for a recipe that does not say how the grids were pooled."""
        self._store = store
        self.recipe, self._shapes = before_pooling(store.identity)  # that of the extraction
        self._area_of_image = area_rule(self.recipe)
        self.rounding = 0.0  # the largest relative error of a grid's rounding so far

    def __call__(self, row: IndexRow, grid: np.ndarray) -> np.ndarray:
        """Return a grid (row, col, dim) of an image as readers of the store get it."""
        identity = self._store.identity
        for number, shape in enumerate(self._shapes):
            cells = in_range(grid, identity) if number else self._real_cells(row, grid)
            grid = adaptive_average(cells, shape)
        found = values_of(self._store, as_stored(grid, identity, self._store.scale))
        self.rounding = max(self.rounding, relative_error(found, grid))
        return found

    def _real_cells(self, row: IndexRow, grid: np.ndarray) -> np.ndarray:
        return within_area(self._area_of_image, row, grid)


def recompute(
    store: FeatureStore,
    images: str,
    count: int,
    *,
    pretrained: str | None = None,
    model_config: str | None = None,
    ema: bool = False,
    device: str | None = None,
    seed: int | None = None,
) -> Recomputation:
    """Extract `count` records of `store` again from the images below `images`, a folder or URL.

    What is extracted is pooled and rounded as the store's records were. Where they were rounded to
    fewer bits than they had, the tolerance grows by twice the error of that: numbers that hardly
    differ may be rounded to two neighbours. `pretrained`, `model_config` and `ema` are what the
    extraction was given where the weights came from a file. Raises ExtractUsageError if the
    backbone or its weights are not those of the store, or if its features were imported,
    UsageError where the package that reads such a URL is missing, StoreError for a recipe that is
    not one of clipfeat.
    """
    if store.identity.backbone.get("model") == IMPORTED:
        raise ExtractUsageError(
            f"the features of {store.location} were made by another program, and cannot be extracted "
            f"again; import their source again, and compare: clipfeat store diff",
            code="E-STORE-IMPORTED",
        )
    require_driver(images)
    with needs_extra("extract"):
        import torch

        from .backbones.weights import load_backbone
        from .executors.pipeline import FeatureStream
    seed = secrets.randbelow(1 << 32) if seed is None else seed
    rows = sample((row for row in store.index if row.status == Status.OK), count, seed)
    identity = store.identity
    as_in_store = AsInStore(store)
    recipe = Recipe.from_json(as_in_store.recipe)
    spec = backbone_spec(store, pretrained, model_config, ema=ema)
    backbone, described = load_backbone(spec, choose_device(device, torch.cuda.device_count()))
    check_weights(store, spec, described)
    backbone.check_recipe(recipe)
    stream = FeatureStream(backbone, recipe, identity.numpy_dtype.name, identity.order)
    ready: list[tuple[IndexRow, np.ndarray]] = []
    skipped: list[tuple[str, str]] = []
    other_files: list[str] = []
    pictures = decode_rows(rows, images, recipe)
    for row, picture in tqdm(pictures, "again", len(rows), unit="image", disable=None):
        reason = not_comparable(row, picture)
        if reason is None and picture.pixels is not None:
            ready.append((row, picture.pixels))
        else:
            skipped.append((row.image_id, f"{printable(row.source)}: {reason}"))
            other_files += [row.image_id] if reason == OTHER_FILE else []
    deviations: list[Deviation] = []
    on_cpu = backbone.device.type == "cpu"
    batching = Batching.of(BATCH, recipe.views or 1, BATCH, on_cpu=on_cpu)
    for batch, rows_in_batch in bucket_by_shape(ready, batching):
        deviations += compare_batch(store, batch, stream, rows_in_batch, as_in_store)
    if skipped and not deviations:
        logger.warning(
            f"none of the {len(rows)} sampled images could be compared; is {images} their folder?"
        )
    order = {row.image_id: position for position, row in enumerate(rows)}
    deviations.sort(key=lambda deviation: order[deviation.image_id])
    tolerance = TOLERANCE[identity.precision]
    if identity.scale_sha256 is not None or identity.mantissa_bits is not None:
        tolerance += min(2 * as_in_store.rounding, MAX_ROUNDING)
    return Recomputation(tuple(deviations), tuple(skipped), tuple(other_files), tolerance, seed)


def sample(rows: Iterable[IndexRow], count: int, seed: int) -> list[IndexRow]:
    """Return `count` of the rows, each as likely as any other (reservoir sampling)."""
    rng = random.Random(seed)
    kept: list[IndexRow] = []
    for seen, row in enumerate(rows):
        if seen < count:
            kept.append(row)
        elif (position := rng.randrange(seen + 1)) < count:
            kept[position] = row
    return kept


def decode_rows(
    rows: Sequence[IndexRow], images: str, recipe: Recipe
) -> Iterator[tuple[IndexRow, "Picture"]]:
    """Yield each row with its picture, decoded in a process of its own, as in an extraction.

    Sizes are those of the index, which may come from anywhere: one that the recipe makes too
    large is refused before memory is taken for it.
    """
    from .pixels.decoding import Decoders, Limits
    from .pixels.images import Picture, load_picture, resize_problem

    todo = []
    for row in rows:
        if problem := resize_problem(recipe, row.width, row.height):
            yield row, Picture(*problem, row.width, row.height, "")
        else:
            todo.append((row, picture_shape(recipe, (row.width, row.height))))
    if not todo:
        return
    load = partial(load_picture, root=images, recipe=recipe)
    largest = max(math.prod(shape) for _, shape in todo)
    limits = Limits.of(MAX_PIXELS, recipe.views or 1)
    with Decoders(load, 1, 1, largest, limits=limits) as decoders:
        for row, shape in todo:
            decoding = decoders.submit([row.source], 1, shape)
            (picture,) = decoding.result().pictures
            if picture.status == Status.OK:
                picture = replace(picture, pixels=decoding.pixels[0].copy())
            decoding.release()
            yield row, picture


def not_comparable(row: IndexRow, picture: "Picture") -> str | None:
    """Return why an image cannot be compared with its record, if so."""
    if picture.sha256 and picture.sha256 != row.source_sha256:
        return OTHER_FILE
    return None if picture.status == Status.OK else picture.reason


def bucket_by_shape(
    ready: Sequence[tuple[IndexRow, np.ndarray]], batching: Batching
) -> Iterator[tuple[Sequence[tuple[IndexRow, np.ndarray]], int]]:
    """Yield batches of pictures of one shape, each with its number of rows."""
    shapes: dict[tuple[int, ...], list[tuple[IndexRow, np.ndarray]]] = {}
    for row, pixels in ready:
        shapes.setdefault(pixels.shape, []).append((row, pixels))
    for bucket in shapes.values():
        yield from batching.split(bucket)


def compare_batch(
    store: FeatureStore,
    batch: Sequence[tuple[IndexRow, np.ndarray]],
    stream: "FeatureStream",
    rows_in_batch: int,
    as_in_store: AsInStore,
) -> Iterator[Deviation]:
    """Yield the deviation of each picture's grid from its record."""
    pixels = np.zeros((rows_in_batch, *batch[0][1].shape), np.uint8)
    pixels[: len(batch)] = [each for _, each in batch]
    features, _ = stream.compute(pixels).result()
    array = store.identity.array("grid", GridShape(1, 1))
    for (row, _), computed in zip(batch, features["grid"].array, strict=False):
        grid = as_in_store(row, array.from_stored(computed))
        yield deviation(row.image_id, grid, store[row.image_id])
