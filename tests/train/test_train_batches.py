"""The order of examples, and reading ahead."""

import hashlib
import itertools
import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest

from clipfeat.train.batches import (
    FIRST_WINDOW,
    Order,
    cut,
    epoch_order,
    prefetch,
    split_microbatches,
    window_sizes,
)

IMAGES = np.array([0, 3, 1, 1, 3, 0, 2, 3, 4, 4, 4, 0])  # image of each example


def test_an_epoch_holds_every_example_once_and_images_together() -> None:
    order = epoch_order(IMAGES, seed=0, epoch=0)
    assert sorted(order) == list(range(len(IMAGES)))
    changes = np.count_nonzero(np.diff(IMAGES[order]))
    assert changes == len(set(IMAGES)) - 1


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    orders = {
        (seed, epoch): tuple(epoch_order(IMAGES, seed=seed, epoch=epoch))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(set(orders.values())) == 4
    for (seed, epoch), order in orders.items():
        np.random.random()  # the global generator has no part in it
        assert tuple(epoch_order(IMAGES, seed=seed, epoch=epoch)) == order


def test_cut_keeps_the_short_last_batch() -> None:
    assert [part.tolist() for part in cut(np.arange(5), 2)] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("examples", [1, 2, 5, 12])
@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (1, 3), (2, 1), (2, 3), (8, 2)])
def test_processes_share_a_batch_out(examples: int, processes: int, accumulate: int) -> None:
    batch = np.arange(100, 100 + examples)
    parts = [
        split_microbatches(batch, processes=processes, process=number, microbatches=accumulate)
        for number in range(processes)
    ]
    assert all(len(part) for of_process in parts for _, part in of_process)  # all take part
    counted = [(share, part) for of_process in parts for share, part in of_process if share]
    assert np.concatenate([part for _, part in counted]).tolist() == batch.tolist()
    assert [share for share, _ in counted] == [len(part) / examples for _, part in counted]


MANY = np.random.default_rng(0).integers(0, 200, 1000)  # image of each example


@pytest.mark.parametrize("together", [1, 2, 3, 1000])
def test_few_examples_of_an_image_stay_together(together: int) -> None:
    order = epoch_order(MANY, seed=0, epoch=0, max_per_image=together)
    assert sorted(order) == list(range(len(MANY)))
    runs = [(image, len(list(run))) for image, run in itertools.groupby(MANY[order])]
    groups = sum(-(-count // together) for count in Counter(MANY.tolist()).values())
    # Two groups of an image are side by side by chance: about one in 200 is.
    assert groups - 20 <= len(runs) <= groups
    longer = [count for _, count in runs if count > together]
    assert sum(-(-count // together) - 1 for count in longer) <= groups - len(runs)
    assert tuple(order) == tuple(epoch_order(MANY, seed=0, epoch=0, max_per_image=together))
    assert tuple(order) != tuple(epoch_order(MANY, seed=0, epoch=1, max_per_image=together))


def test_groups_are_in_random_order() -> None:
    """The places of an image's first and last example are far apart, were it not for groups."""
    order = epoch_order(np.repeat(np.arange(50), 10), seed=0, epoch=0, max_per_image=5)
    place = np.argsort(order).reshape(50, 10)
    spread = place.max(axis=1) - place.min(axis=1)
    assert 100 < spread.mean() < 240  # 4 + 500 / 3 is expected


@pytest.mark.parametrize("together", [0, 2])
@pytest.mark.parametrize("size", [7, 32, 100])
def test_batches_of_one_shape(together: int, size: int) -> None:
    shapes = np.random.default_rng(1).integers(0, 4, 200)
    order = Order(MANY, max_per_image=together, shape_of_image=shapes)
    batches = order.batches(size=size, seed=0, epoch=0)
    assert sorted(itertools.chain(*batches)) == list(range(len(MANY)))
    plain = Order(MANY, max_per_image=together).batches(size=size, seed=0, epoch=0)
    assert sorted(map(len, batches)) == sorted(map(len, plain))
    mixed = sum(len(set(shapes[MANY[batch]])) > 1 for batch in batches)
    assert mixed <= 3
    kinds = [int(shapes[MANY[batch[0]]]) for batch in batches]
    assert len(list(itertools.groupby(kinds))) > 4  # shapes come by turns


def test_batches_are_a_function_of_seed_and_epoch() -> None:
    shapes = np.arange(200) % 3

    def listed(seed: int, epoch: int) -> list[list[int]]:
        order = Order(MANY, max_per_image=2, shape_of_image=shapes)
        return [batch.tolist() for batch in order.batches(size=64, seed=seed, epoch=epoch)]

    found = [listed(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(one != other for one, other in itertools.combinations(found, 2))
    assert found == [listed(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]


def test_prefetch_keeps_the_order_and_reads_in_another_thread() -> None:
    results = list(prefetch(range(20), lambda job: (job, threading.current_thread().name)))
    assert [job for job, _ in results] == list(range(20))
    assert all(name.startswith("reader") for _, name in results)


def test_prefetch_raises_what_reading_raised() -> None:
    def read(job: int) -> int:
        if job == 2:
            raise RuntimeError("bad record")
        return job

    stream = prefetch(range(9), read)
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(RuntimeError, match="bad record"):
        next(stream)


def test_prefetch_stops_reading_when_closed() -> None:
    read: list[int] = []
    stream = prefetch(range(1000), read.append)
    next(stream)
    stream.close()
    assert len(read) < 10
    assert not any(thread.name.startswith("reader") for thread in threading.enumerate())


SHARD_OF_IMAGE = np.sort(np.random.default_rng(2).integers(0, 60, 200))
USED = len(set(SHARD_OF_IMAGE[MANY].tolist()))
SHAPES = np.random.default_rng(1).integers(0, 4, 200)


@pytest.mark.parametrize(
    ("options", "sha256"),
    [
        ({}, "ab9deff6edbda283"),
        ({"max_per_image": 2}, "6bbe2fae1afe248d"),
        ({"max_per_image": 2, "shape_of_image": SHAPES}, "61db9eb00a957486"),
    ],
)
def test_without_windows_the_order_is_what_it_always_was(
    options: dict[str, Any], sha256: str
) -> None:
    """Runs on stores on this machine can be repeated with later versions."""
    for shards in (None, SHARD_OF_IMAGE):
        order = Order(MANY, shard_of_image=shards, **options)
        batches = order.batches(size=32, seed=3, epoch=1)
        content = np.concatenate(batches).astype("<i8").tobytes()
        assert hashlib.sha256(content).hexdigest()[:16] == sha256


@pytest.mark.parametrize(("shards", "most"), [(1, 1), (3, 1), (4, 9), (60, 7), (964, 40), (5, 900)])
def test_windows_grow_and_are_bounded(shards: int, most: int) -> None:
    sizes = window_sizes(shards, most)
    assert sum(sizes) == shards
    assert max(sizes) <= most
    assert sizes[0] == min(shards, most, FIRST_WINDOW)
    assert sizes[:-1] == sorted(sizes[:-1])


@pytest.mark.parametrize("shapes", [None, SHAPES])
@pytest.mark.parametrize("window", [1, 7, 1000])
def test_windows_of_shards_hold_every_example_once(window: int, shapes: np.ndarray | None) -> None:
    order = Order(
        MANY, max_per_image=2, shape_of_image=shapes, shard_of_image=SHARD_OF_IMAGE,
        window_shards=window,
    )  # fmt: skip
    batches = order.batches(size=16, seed=0, epoch=0)
    assert sorted(itertools.chain(*batches)) == list(range(len(MANY)))
    assert len(batches) == len(cut(np.arange(len(MANY)), 16))
    groups = order.by_window(batches, seed=0, epoch=0)
    assert [list(batch) for group in groups for batch in group] == [list(b) for b in batches]
    # A window's last batch may end in the next one.
    sizes = window_sizes(USED, window)
    counts = [len(set(SHARD_OF_IMAGE[MANY[np.concatenate(group)]])) for group in groups]
    assert all(count <= window + 16 for count in counts)
    assert len(groups) <= len(sizes)
    shard = SHARD_OF_IMAGE[MANY[np.concatenate(batches)]]
    if shapes is None:  # the shards of a window are done before the next begins
        seen = list(dict.fromkeys(shard.tolist()))
        ends = np.cumsum(sizes)
        for start, end in zip([0, *ends], ends, strict=False):
            inside = np.isin(shard, seen[start:end])
            places = np.flatnonzero(inside)
            assert len(places) == places[-1] - places[0] + 1
    if window > 1:  # and the shards of a window are shuffled together
        assert np.count_nonzero(np.diff(shard)) > 2 * USED


def test_windows_are_a_function_of_seed_and_epoch_and_resume() -> None:
    def listed(seed: int, epoch: int) -> list[list[int]]:
        order = Order(MANY, shard_of_image=SHARD_OF_IMAGE, window_shards=5)
        return [batch.tolist() for batch in order.batches(size=16, seed=seed, epoch=epoch)]

    found = [listed(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(one != other for one, other in itertools.combinations(found, 2))
    assert found == [listed(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    order = Order(MANY, shard_of_image=SHARD_OF_IMAGE, window_shards=5)
    batches = order.batches(size=16, seed=0, epoch=0)
    whole, rest = (order.by_window(b, seed=0, epoch=0) for b in (batches, batches[40:]))
    for group, of_whole in zip(reversed(rest), reversed(whole), strict=False):
        assert all(map(np.array_equal, reversed(group), reversed(of_whole)))


def test_the_images_of_batches_are_listed_shard_by_shard() -> None:
    ids = [f"{image:03}" for image in range(200)]
    order = Order(MANY, shard_of_image=SHARD_OF_IMAGE[::-1], image_ids=ids, window_shards=5)
    shards = order.ids_by_shard([np.arange(30), np.arange(20, 50)])
    assert sorted(itertools.chain(*shards)) == sorted({ids[image] for image in MANY[:50]})
    numbers = [{int(SHARD_OF_IMAGE[::-1][int(i)]) for i in of_shard} for of_shard in shards]
    assert [len(number) for number in numbers] == [1] * len(shards)
    assert len(set.union(*numbers)) == len(shards)
