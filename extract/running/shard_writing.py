"""Batches of features into the file of a shard: checked, compressed, appended, committed."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ...featstore import Identity, IndexRow, Status
from ...featstore.disk.codecs import checksum, encode
from ...featstore.disk.shard_file import as_bytes
from ...featstore.writing.transaction import ShardTransaction
from ..pixels.images import Picture
from ..planning.job import Job
from .batches import Batch, Step
from .features import Features
from .plausibility import ShardGate, number_problem
from .profile import Spent


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
