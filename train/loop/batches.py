"""Which examples each batch holds, and a thread that reads batches ahead of their use."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from jaxtyping import Int

Job = TypeVar("Job")
Batch = TypeVar("Batch")
Numbers = Int[np.ndarray, " example"]  # example numbers: positions in a split

READ_AHEAD = 3  # batches held in memory: more smooths nothing once reading keeps up


def epoch_order(image_of_example: Numbers, *, seed: int, epoch: int) -> Numbers:
    """Return all example numbers, images in random order and each image's examples together.

    The order depends on nothing but the arguments, so that a resumed run goes on with the very
    batches it would have seen. Examples of one image stay together so that its record is read
    once in an epoch (twice where a batch ends inside an image).
    """
    random = np.random.default_rng((seed, epoch))
    image_rank = random.permutation(image_of_example.max(initial=0) + 1)
    rank_in_image = random.permutation(len(image_of_example))
    return np.lexsort((rank_in_image, image_rank[image_of_example]))


def cut(order: Numbers, size: int) -> list[Int[np.ndarray, " _"]]:
    """Return `order` in batches of `size`; the last holds what is left."""
    return [order[start : start + size] for start in range(0, len(order), size)]


def prefetch(jobs: Iterable[Job], read: Callable[[Job], Batch]) -> Generator[Batch, None, None]:
    """Yield `read(job)` for each job in turn, reading in a thread while the caller computes.

    An error that `read` raises is raised here. Close the iterator to stop early.
    """
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader") as reader:
        try:
            for job in jobs:
                waiting.append(reader.submit(read, job))
                if len(waiting) > READ_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
