"""Features that cannot be right: NaN, Inf, numbers beyond the dtype, one grid for every image."""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from ...base.errors import ExtractError
from ...featstore import Identity, IndexRow, Status
from ...featstore.shards import as_bytes, checksum, encode
from ...featstore.writing.writer import ShardTransaction
from ..pixels.images import Picture
from ..planning.plan import Job
from .batches import Batch, Spent, Step
from .features import Features

MIN_IMAGES = 8  # different images in a shard, below which nothing is concluded from them
# Median distance of the images' mean cells from their common mean, relative to that mean. Random
# ResNets and ViTs on photographs and on grey squares gave 0.007 to 1.1 (docs/log.md).
MIN_SPREAD = 5e-4


def number_problem(peak: float, dtype: str) -> str | None:
    """Return why features whose largest absolute value is `peak` cannot be stored, or None.

    >>> number_problem(70000.0, "float16")
    'reaches 7e+04, beyond the 65504 of float16; try --dtype float32'
    """
    if math.isnan(peak):
        return "holds NaN"
    if math.isinf(peak):
        return "holds Inf"
    largest = float(np.finfo(dtype).max)
    if peak > largest:
        return f"reaches {peak:.4g}, beyond the {largest:.5g} of {dtype}; try --dtype float32"
    return None


def spread(vectors: np.ndarray) -> float:
    """Return the median distance of (image, dim) vectors from their mean, relative to its norm."""
    mean = vectors.mean(axis=0)
    distances = np.linalg.norm(vectors - mean, axis=1)
    return float(np.median(distances) / max(float(np.linalg.norm(mean)), 1e-30))


class ShardGate:
    """Collects what the images of one shard gave and says whether it can be right.

    The published code once wrote the same vector for every image, and nobody noticed
    (CLIP-ViL, issue 18).
    """

    def __init__(self) -> None:
        self._problems: list[str] = []
        self._images = 0
        self._means: dict[str, dict[str, np.ndarray]] = {}

    def add(self, sha256: str, problem: str, means: dict[str, np.ndarray]) -> None:
        """Add a decoded image: its file's sha256, why it was refused or "", its mean vectors."""
        self._images += 1
        if problem:
            self._problems.append(problem)
            return
        for name, mean in means.items():
            self._means.setdefault(name, {})[sha256] = mean

    def check(self) -> None:
        """Raise ExtractError if most images were refused for their numbers, or all are alike."""
        if self._images >= MIN_IMAGES and len(self._problems) > self._images / 2:
            raise ExtractError(
                f"{len(self._problems)} of the {self._images} images of a shard gave no usable "
                f"features ({self._problems[0]}), so the run stops: check the weights, "
                f"--precision and --dtype"
            )
        for name, means in self._means.items():
            found = spread(np.stack(list(means.values())))
            if len(means) >= MIN_IMAGES and found < MIN_SPREAD:
                raise ExtractError(
                    f"the {name} features of {len(means)} different images are all the same "
                    f"(relative spread {found:.1g}; expected {MIN_SPREAD} or more), "
                    f"so the run stops: check the weights"
                )


class BatchWriter:
    """Compresses batches and appends them to the shard in hand; runs in the writer's thread."""

    def __init__(self, job: Job, threads: ThreadPoolExecutor):
        self._job = job
        self._threads = threads
        self._transaction: ShardTransaction | None = None
        self._gate = ShardGate()
        self._rows: list[IndexRow] = []

    def write(
        self, batch: Batch, pictures: list[Picture], features: dict[str, Features], spent: Spent
    ) -> Step:
        """Write one batch; the last one of a shard commits it.

        Raises ExtractError if the features of the shard cannot be right.
        """
        job, shard = self._job, batch.task.shard
        if self._transaction is None:
            self._transaction = ShardTransaction(
                job.store, job.identity, job.shard_records, shard, job.libraries
            )
            self._gate = ShardGate()
            self._rows = []
        encoding = [
            self._threads.submit(_encode, picture, features, position, job.identity)
            for position, picture in enumerate(pictures)
        ]
        refused = stored = 0
        encode_seconds = write_seconds = 0.0
        for position, (image, picture) in enumerate(zip(batch.images, pictures, strict=True)):
            encoded, status, reason, seconds = encoding[position].result()
            encode_seconds += seconds
            row = shard.rows[batch.start + position]
            if encoded is not None:
                started = time.perf_counter()
                self._transaction.append(row - shard.first_row, encoded)
                write_seconds += time.perf_counter() - started
                stored += sum(map(len, encoded.values()))
            refused += encoded is None
            if picture.status == Status.OK:
                means = {name: array.means[position] for name, array in features.items()}
                self._gate.add(picture.sha256, "" if encoded else reason, means)
            size = (picture.width or image.width, picture.height or image.height)
            check = checksum(encoded.values()) if encoded else ""
            self._rows.append(
                IndexRow(
                    image.image_id,
                    status,
                    reason,
                    str(shard.shape),
                    row,
                    *size,
                    picture.sha256,
                    image.path,
                    check,
                )
            )
        receipt = None
        if batch.is_last:
            self._gate.check()
            started = time.perf_counter()
            receipt = self._transaction.commit(tuple(self._rows))
            write_seconds += time.perf_counter() - started
            self._transaction = None
        spent = replace(spent, encode=encode_seconds, write=write_seconds)
        return Step(len(pictures), refused, stored, spent, receipt)

    def close(self) -> None:
        """Drop the shard in hand, if any."""
        if self._transaction is not None:
            self._transaction.close()


def _encode(
    picture: Picture, features: dict[str, Features], position: int, identity: Identity
) -> tuple[dict[str, bytes] | None, Status, str, float]:
    """Return the encoded arrays of one record, or None; its status and reason; seconds."""
    if picture.status != Status.OK:
        return None, picture.status, picture.reason, 0.0
    for name, array in features.items():
        problem = number_problem(float(array.peaks[position]), identity.dtype)
        if problem:
            return None, Status.FAILED, f"{name} {problem}", 0.0
    started = time.perf_counter()
    encoded = {
        name: encode(identity.codec, as_bytes(array.array[position]))
        for name, array in features.items()
    }
    return encoded, Status.OK, picture.reason, time.perf_counter() - started
