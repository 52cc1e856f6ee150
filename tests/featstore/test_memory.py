"""Memory is given out again when nobody has it any more, and never before."""

import threading

import numpy as np
import pytest
import torch

from clipfeat.featstore.reading import KEPT, BufferPool


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_that_nobody_has_is_given_out_again():
    pool = BufferPool()
    first = address(pool.take(1000))
    assert address(pool.take(1000)) == first
    assert address(pool.take(10)) == first
    assert pool.take(10).size == 10


@pytest.mark.parametrize(
    "keep",
    [
        lambda a: a,
        lambda a: a[3:5],
        lambda a: a.view("f4").reshape(5, 50)[1:, ::2],
        lambda a: memoryview(a)[7:],
        lambda a: torch.from_numpy(a)[2:],
        lambda a: iter(a),
    ],
    ids=["array", "view", "view of views", "memoryview", "tensor", "iterator"],
)
def test_memory_that_somebody_has_is_not(keep):
    pool = BufferPool()
    taken = pool.take(1000)
    start = address(taken)
    kept = keep(taken)
    del taken
    others = [pool.take(1000) for _ in range(3)]
    assert start not in map(address, others)
    assert kept is not None


def test_no_more_than_a_few_buffers_stay():
    pool = BufferPool()
    taken = [pool.take(1000) for _ in range(10)]
    assert len(set(map(address, taken))) == 10
    assert len(pool._buffers) == KEPT


def test_threads_never_share_memory():
    pool = BufferPool()
    shared = []

    def work(mark):
        for _ in range(2000):
            taken = pool.take(64)
            taken[:] = mark
            if not (taken == mark).all():
                shared.append(mark)
            del taken

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not shared
    assert np.all([buffer.size == 64 for buffer in pool._buffers])
