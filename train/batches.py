"""Which examples each batch holds, and a thread that reads batches ahead of their use."""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Int

Job = TypeVar("Job")
Batch = TypeVar("Batch")
Numbers = Int[np.ndarray, " example"]  # example numbers: positions in a split
BatchNumbers = Int[np.ndarray, " _"]  # those of one batch; batches differ in size

READ_AHEAD = 3  # batches held in memory: more smooths nothing once reading keeps up
# Shards with which an epoch begins, so that its first batch does not wait for more.
FIRST_WINDOW = 4


def epoch_order(
    image_of_example: Numbers, *, seed: int, epoch: int, max_per_image: int = 0
) -> Numbers:
    """Return all example numbers, images in random order and each image's examples together.

    The order depends on nothing but the arguments, so that a resumed run sees the very
    batches it would have seen. Examples of one image stay together so that its record is read
    once in an epoch (twice where a batch ends inside an image); with `max_per_image` they are dealt
    out in groups of at most so many, for batches with more images.
    """
    random = np.random.default_rng((seed, epoch))
    image_rank = random.permutation(image_of_example.max(initial=0) + 1)
    rank_in_image = random.permutation(len(image_of_example))
    order = np.lexsort((rank_in_image, image_rank[image_of_example]))
    if not max_per_image:
        return order
    place = np.arange(len(order))
    begins = np.diff(image_of_example[order], prepend=-1) != 0
    place_in_image = place - np.maximum.accumulate(np.where(begins, place, 0))
    group = np.cumsum(place_in_image % max_per_image == 0) - 1
    return order[np.argsort(random.permutation(len(order))[group], kind="stable")]


@dataclass(frozen=True)
class Order:
    """In which order and in which batches a run sees its examples.

    With `shape_of_image`, the images of a batch have one shape, but where one shape's end meets
    the next one's beginning: less padding.

    With `window_shards`, an epoch goes through the shards in random order, and shuffles together the
    examples of a window of so many of them, then those of the next window: a store behind a URL
    can be read in whole shards. The first windows are smaller. Where the store lies has no part
    in it.
    """

    image_of_example: Numbers
    max_per_image: int = 0  # most examples of an image beside each other; 0: all
    shape_of_image: Int[np.ndarray, " image"] | None = None  # numbers that stand for the shapes
    shard_of_image: Int[np.ndarray, " image"] | None = None  # numbers of the store's shards
    image_ids: Sequence[str] = ()  # of the store, where records are to be fetched before their use
    window_shards: int = 0  # 0: the examples of all shards are shuffled together

    @property
    def shards(self) -> int:
        """The number of shards that have records of the examples; 0 if they are not known."""
        return 0 if self.shard_of_image is None else len(np.unique(self.shard_of_image))

    def batches(self, *, size: int, seed: int, epoch: int) -> list[BatchNumbers]:
        """Return the example numbers of each batch of an epoch, each example once.

        One batch holds what is left, fewer than `size`.
        """
        order = epoch_order(
            self.image_of_example, seed=seed, epoch=epoch, max_per_image=self.max_per_image
        )
        window = self._window_of_example(seed, epoch)
        if self.shape_of_image is None:
            return cut(order[np.argsort(window[order], kind="stable")], size)
        random = np.random.default_rng((seed, epoch, 1))
        shape = self.shape_of_image[self.image_of_example[order]]
        shape_rank = random.permutation(shape.max(initial=0) + 1)
        batches = cut(order[np.lexsort((shape_rank[shape], window[order]))], size)
        shuffled = [batches[number] for number in random.permutation(len(batches))]
        return sorted(shuffled, key=lambda batch: window[batch[0]])

    def by_window(
        self, batches: Sequence[BatchNumbers], *, seed: int, epoch: int
    ) -> list[list[BatchNumbers]]:
        """Return batches of an epoch, in its order, grouped by the window that they begin in."""
        window = self._window_of_example(seed, epoch)
        return [
            list(group) for _, group in itertools.groupby(batches, lambda batch: window[batch[0]])
        ]

    def ids_by_shard(self, batches: Sequence[BatchNumbers]) -> list[list[str]]:
        """Return the image ids of some batches, each once, those of a shard together."""
        shard_of_image = self.shard_of_image
        if shard_of_image is None:
            return []
        images = np.unique(self.image_of_example[np.concatenate(batches)])
        ordered: list[int] = images[np.argsort(shard_of_image[images], kind="stable")].tolist()
        by_shard = itertools.groupby(ordered, lambda image: shard_of_image[image])
        return [[self.image_ids[image] for image in group] for _, group in by_shard]

    def _window_of_example(self, seed: int, epoch: int) -> Numbers:
        """Return the number of each example's window; the windows are used in this order."""
        if not self.window_shards or self.shard_of_image is None:
            return np.zeros_like(self.image_of_example)
        used, shard_of_image = np.unique(self.shard_of_image, return_inverse=True)
        random = np.random.default_rng((seed, epoch, 2))
        place = random.permutation(len(used))
        ends = np.cumsum(window_sizes(len(used), self.window_shards))
        window_of_shard = np.searchsorted(ends, place, side="right")
        return window_of_shard[shard_of_image][self.image_of_example]


def window_sizes(shards: int, most: int) -> list[int]:
    """Return how many of an epoch's shards each window has: few at first, then up to `most`.

    >>> window_sizes(40, 10)
    [4, 8, 10, 10, 8]
    """
    sizes: list[int] = []
    size = min(FIRST_WINDOW, most)
    while (left := shards - sum(sizes)) > 0:
        sizes.append(min(size, left))
        size = min(2 * size, most)
    return sizes


def cut(order: Numbers, size: int) -> list[BatchNumbers]:
    """Return `order` in batches of `size`; the last holds what is left."""
    return [order[start : start + size] for start in range(0, len(order), size)]


def split_microbatches(
    batch: Numbers, *, processes: int, process: int, microbatches: int
) -> list[tuple[float, Int[np.ndarray, " _"]]]:
    """Return the parts of a batch that one process computes, each with its share of the whole.

    The shares of all processes sum to 1. A process that no example is left for gets one that
    counts nothing, since all must take part.
    """
    parts = np.array_split(batch, processes * microbatches)
    mine = parts[process * microbatches : (process + 1) * microbatches]
    if not len(mine[0]):
        return [(0.0, batch[:1])]
    return [(len(part) / len(batch), part) for part in mine if len(part)]


def prefetch(
    jobs: Iterable[Job], read: Callable[[Job], Batch], ahead: int = READ_AHEAD
) -> Generator[Batch, None, None]:
    """Yield `read(job)` for each job in turn, reading in a thread while the caller computes.

    `ahead` is how many results are waiting at most. An error that `read` raises is raised here.
    Close the iterator to stop early.
    """
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader") as reader:
        try:
            for job in jobs:
                waiting.append(reader.submit(read, job))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
