"""The order of examples, and reading ahead."""

import itertools
import threading
from collections import Counter

import numpy as np
import pytest

from clipfeat.train.batches import Order, cut, epoch_order, prefetch, split_microbatches

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
