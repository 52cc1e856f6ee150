"""Features of batches to shards on disk; those that cannot be right stop the run.

NaN, Inf and numbers beyond the dtype cost an image its record. If most images of a shard have
such features, or all have the same, the shard is not written.
"""

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ...base.errors import ExtractError
from ...featstore import Identity, IndexRow, Status
from ...featstore.shards import RecordHashes, as_bytes, encode
from ...featstore.writing.receipts import Receipt
from ...featstore.writing.writer import ShardTransaction
from ..pixels.images import Picture
from ..planning.plan import Batch, Job
from .results import BatchResult, StageTimings

MIN_IMAGES = 8  # different images in a shard, below which nothing is concluded from them
# Median distance of the images' mean cells from their common mean, relative to that mean. Random
# ResNets and ViTs on photographs and on grey squares gave 0.007 to 1.1 (docs/log.md).
MIN_SPREAD = 5e-4


@dataclass(frozen=True)
class Features:
    """One array of a batch as it will be stored, with what tells whether it can be right."""

    array: np.ndarray  # (image, ...), each record as it lies on disk
    peaks: np.ndarray  # (image,) largest absolute value before rounding; NaN if there is one
    means: np.ndarray  # (image, dim) float32, over cells


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
    """Collects the features of the images of one shard and checks whether they can be right.

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
                f"--precision and --dtype",
                code="E-FEATURES-INVALID",
            )
        for name, means in self._means.items():
            relative = spread(np.stack(list(means.values())))
            if len(means) >= MIN_IMAGES and relative < MIN_SPREAD:
                raise ExtractError(
                    f"the {name} features of {len(means)} different images are all the same "
                    f"(relative spread {relative:.1g}; expected {MIN_SPREAD} or more), "
                    f"so the run stops: check the weights",
                    code="E-FEATURES-EQUAL",
                )


class Written(NamedTuple):
    """A batch whose records are in their shard's file; with the last one, the shard's commit."""

    counted: BatchResult  # what is known before the commit
    commit: Future[tuple[Receipt, float]] | None  # the receipt, and the seconds it took

    @property
    def is_final(self) -> bool:
        """Return whether `result` returns at once."""
        return self.commit is None or self.commit.done()

    def result(self) -> BatchResult:
        """Wait for the commit, and return the batch with it; raises what stopped the commit."""
        if self.commit is None:
            return self.counted
        receipt, seconds = self.commit.result()
        timings = replace(self.counted.timings, commit=seconds)
        return self.counted._replace(timings=timings, receipt=receipt)


class BatchWriter:
    """Compresses batches and appends them to the shard at hand; runs in the writer's thread.

    A thread of its own commits a shard, which means waiting for the disk, while the next shard is
    written. Two shards are in hand at most. Another thread hashes what was written.
    """

    def __init__(self, job: Job, threads: ThreadPoolExecutor):
        self._job = job
        self._threads = threads
        self._hasher = ThreadPoolExecutor(1)
        self._committer = ThreadPoolExecutor(1)
        self._commit: Future[tuple[Receipt, float]] | None = None  # of the shard before
        self._transaction: ShardTransaction | None = None
        self._gate = ShardGate()
        self._rows: list[IndexRow] = []

    def write(
        self,
        batch: Batch,
        pictures: list[Picture],
        features: dict[str, Features],
        timings: StageTimings,
    ) -> Written:
        """Write one batch, and begin to commit the shard of which it is the last.

        Raises ExtractError if the features of the shard cannot be right, and what stopped the
        commit of the shard before.
        """
        job, shard = self._job, batch.task.shard
        if self._transaction is None:
            self._transaction = ShardTransaction(
                job.store, job.identity, job.shard_records, shard, job.libraries, self._hasher
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
            record = encoding[position].result()
            encode_seconds += record.seconds
            row = shard.rows[batch.start + position]
            if record.arrays is None:
                refused += 1
            else:
                started = time.perf_counter()
                self._transaction.append(row - shard.first_row, record.arrays)
                write_seconds += time.perf_counter() - started
                stored += sum(map(len, record.arrays.values()))
            if picture.status == Status.OK:
                means = {name: array.means[position] for name, array in features.items()}
                problem = record.reason if record.arrays is None else ""
                self._gate.add(picture.sha256, problem, means)
            self._rows.append(
                IndexRow(
                    image_id=image.image_id,
                    status=record.status,
                    reason=record.reason,
                    shape=str(shard.shape),
                    row=row,
                    width=picture.width or image.width,
                    height=picture.height or image.height,
                    source_sha256=picture.sha256,
                    source=image.path,
                    checksum=record.hashes.checksum,
                    record_sha256=record.hashes.record_sha256,
                )
            )
        timings = replace(timings, encode=encode_seconds, write=write_seconds)
        counted = BatchResult(len(pictures), refused, stored, timings)
        return Written(counted, self._begin_commit() if batch.is_last else None)

    def _begin_commit(self) -> Future[tuple[Receipt, float]]:
        """Check the shard at hand and hand it over, once the one before is committed."""
        assert self._transaction is not None
        self._gate.check()
        if self._commit is not None:
            self._commit.result()
        transaction, self._transaction = self._transaction, None
        self._commit = self._committer.submit(_committed, transaction, tuple(self._rows))
        return self._commit

    def close(self) -> None:
        """Wait for the commit that has begun; drop the shard that is not complete, if any."""
        self._committer.shutdown()
        if self._transaction is not None:
            self._transaction.close()
        self._hasher.shutdown()


def _committed(transaction: ShardTransaction, rows: tuple[IndexRow, ...]) -> tuple[Receipt, float]:
    """Commit a shard; return its receipt and the seconds it took. Where it fails, nothing stays."""
    started = time.perf_counter()
    with transaction:
        receipt = transaction.commit(rows)
    return receipt, time.perf_counter() - started


class _Record(NamedTuple):
    """What becomes of one image: its arrays as they stand on disk, or None and why."""

    arrays: dict[str, bytes] | None
    status: Status
    reason: str
    hashes: RecordHashes = RecordHashes()
    seconds: float = 0.0  # that compressing took


def _encode(
    picture: Picture, features: dict[str, Features], position: int, identity: Identity
) -> _Record:
    """Compress the arrays of the picture at `position` in its batch."""
    if picture.status != Status.OK:
        return _Record(None, picture.status, picture.reason)
    for name, array in features.items():
        problem = number_problem(float(array.peaks[position]), identity.dtype)
        if problem:
            return _Record(None, Status.FAILED, f"{name} {problem}")
    started = time.perf_counter()
    arrays = {
        name: encode(identity.codec, as_bytes(array.array[position]))
        for name, array in features.items()
    }
    hashes = RecordHashes.of(arrays.values())
    return _Record(arrays, Status.OK, picture.reason, hashes, time.perf_counter() - started)
