"""The order of examples, and reading ahead."""

import threading

import numpy as np
import pytest

from clipfeat.train.loop.batches import cut, epoch_order, prefetch

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
