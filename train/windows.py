"""Training on a store behind a URL: whole windows of shards are fetched before they are used."""

import itertools
import os
import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from ..base.errors import UsageError
from ..base.text import is_url, size_text
from ..featstore import FeatureStore
from ..featstore.cache import Cache
from .batches import FIRST_WINDOW, BatchNumbers, Order, prefetch
from .task import Task

Part = TypeVar("Part")

# While a window is used and the next one is fetched, the cache still has the previous one: it was
# used later than some records of this window were fetched. The fourth is for all else.
WINDOWS_IN_CACHE = 4
SHARDS_AT_A_TIME = 4  # fetched together; a run that is interrupted waits for no more
HUB_LIMIT = "the Hugging Face Hub allows 3,000 to 5,000 requests in 5 minutes"


def choose_window(store: FeatureStore, order: Order) -> int:
    """Return how many shards a new run shuffles together if its settings do not state it.

    0, which is all of them, for a store on this machine and where the shards are not known.
    """
    if not is_url(store.location) or order.shard_of_image is None:
        return 0
    most = Cache.of_user().limit // (WINDOWS_IN_CACHE * _largest_shard(store))
    return min(max(most, FIRST_WINDOW), order.shards)


def require_window(store: FeatureStore, order: Order) -> None:
    """Raise UsageError (E-RUN-WINDOW) for an order that cannot have its window.

    That is one that does not know the shards, or one whose windows, of a store behind a URL, do not
    fit the cache.
    """
    if not order.window_shards:
        return
    if order.shard_of_image is None:
        raise UsageError(
            f"window_shards {order.window_shards}: the task's order does not know the shards; give "
            "Order shard_of_image and image_ids (docs/own-task.md), or set window_shards to 0",
            code="E-RUN-WINDOW",
        )
    if not is_url(store.location):
        return
    window, limit = min(order.window_shards, order.shards), Cache.of_user().limit
    needed = WINDOWS_IN_CACHE * window * _largest_shard(store)
    if needed > limit:
        raise UsageError(
            f"window_shards {window} needs a cache of {size_text(needed)}, since a window has up "
            f"to {size_text(needed // WINDOWS_IN_CACHE)}, and the cache has {size_text(limit)}; "
            f"set CLIPFEAT_CACHE_GB={needed / 1e9 + 0.01:.2f}, or copy the store with --pull-first",
            code="E-RUN-WINDOW",
        )


def describe_reading(store: FeatureStore, order: Order) -> str:
    """Return how a store behind a URL is read in training, and why, as a line for people."""
    if order.shard_of_image is None or not order.window_shards:
        return (
            f"{store.location}: records are read in random order (window_shards=0), with a request "
            f"for each that is not in the cache; {HUB_LIMIT}, so --pull-first DIR, which copies "
            "the store first, may be faster"
        )
    from ..featstore.remote import SPAN_BYTES

    used = order.shards
    sizes = _shard_sizes(store)
    size = used * sum(sizes.values()) // len(sizes)
    requests = size // SPAN_BYTES + 2 * used * len(store.identity.arrays)
    return (
        f"{store.location}: examples are shuffled in windows of {min(order.window_shards, used)} of "
        f"{used} shards, which are fetched before their use: about {requests:,} requests for "
        f"{size_text(size)}, less what is in the cache, instead of one for each of "
        f"{len(order.shard_of_image):,} images; {HUB_LIMIT}"
    )


def fetched(
    task: Task[Any, Any], batches: Sequence[BatchNumbers], epoch: int
) -> Generator[BatchNumbers, None, None]:
    """Yield batches of an epoch; the records of a window are in the cache before its first batch.

    While a window is used, a thread fetches the next one. Of several processes on a machine, each
    fetches some of a window's shards, since they share the cache. For a store on this machine
    nothing is fetched.
    """
    order = task.order
    if not order.window_shards or not is_url(task.store.location):
        yield from batches
        return
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    process = int(os.environ.get("LOCAL_RANK", "0"))

    def parts_of(window: list[BatchNumbers]) -> list[list[str]]:
        shards = order.ids_by_shard(window)[process::processes]
        starts = range(0, len(shards), SHARDS_AT_A_TIME)
        return [list(itertools.chain(*shards[n : n + SHARDS_AT_A_TIME])) for n in starts]

    windows = order.by_window(batches, seed=task.settings.seed, epoch=epoch)
    yield from fetch_ahead(windows, parts_of, task.fetch)


def fetch_ahead(
    groups: Sequence[list[BatchNumbers]],
    parts_of: Callable[[list[BatchNumbers]], list[Part]],
    fetch: Callable[[Part], None],
) -> Generator[BatchNumbers, None, None]:
    """Yield the batches of groups; `fetch` has had all parts of a group before its first batch.

    While a group is used, a thread fetches the next one, in the parts that `parts_of` lists. Close
    the generator to stop it after the current part.
    """
    stopped = threading.Event()

    def fetch_group(group: list[BatchNumbers]) -> list[BatchNumbers]:
        for part in parts_of(group):
            if not stopped.is_set():
                fetch(part)
        return group

    fetched_groups = prefetch(groups, fetch_group, ahead=1)
    try:
        for group in fetched_groups:
            yield from group
    finally:
        stopped.set()
        fetched_groups.close()


def _shard_sizes(store: FeatureStore) -> Counter[tuple[str, int]]:
    """Return the bytes of each shard, with all of its arrays."""
    sizes: Counter[tuple[str, int]] = Counter()
    for row in store.shards:
        sizes[row.shape, row.first_row] += row.bytes
    return sizes


def _largest_shard(store: FeatureStore) -> int:
    return max(_shard_sizes(store).values(), default=1)
