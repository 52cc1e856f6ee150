"""Thousands of random reads from a server with faults at random: what a local read gives, or an error."""

import random
import shutil
import time
from collections import Counter

import numpy as np
import pytest
from fault_server import FAULTS, Answer, FaultServer, isolate, serving
from stores import make_store

from clipfeat.base import ranges
from clipfeat.featstore import FeatureStore, GridShape, StoreError
from clipfeat.featstore.cache import Cache

OFTEN = 0.15  # of the requests have a fault
RARELY = 0.01  # of the faults are those that take time
SLOW = [name for name in FAULTS if name.startswith("stall") or name == "trickle"]
ENDLESS = "trickle in the header"  # ends at the deadline, which is long here
FAST = [name for name in FAULTS if name not in (*SLOW, ENDLESS)]
OPENED = 50  # reads, after which the store is opened again, with an empty cache
MOST_SECONDS = 120.0  # of one read, which must end; the longest faults take two of them
RNG = np.random.default_rng(0)
RECORDS = {
    f"{kind}{k}": RNG.standard_normal((rows, cols, 8)).astype(np.float16)
    for kind, rows, cols in (("wide", 1, 3), ("high", 3, 2))
    for k in range(10)
}


@pytest.fixture(scope="module")
def module_server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("served")) as server:
        make_store(server.folder / "s", RECORDS, shard_size=4, shape=GridShape(1, 3))
        yield server


@pytest.fixture
def server(module_server, monkeypatch, in_memory) -> FaultServer:
    isolate(monkeypatch, in_memory, [])
    monkeypatch.setenv("CLIPFEAT_CACHE", str(in_memory / "cache"))
    monkeypatch.setattr(ranges, "DEADLINE_SECONDS", 100.0)
    monkeypatch.setattr(Cache, "get", lambda self, key, limit: None)  # each read asks the server
    module_server.reset()
    return module_server


@pytest.mark.parametrize("reads", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_every_read_is_equal_to_the_local_one_or_a_named_error(
    reads, server, monkeypatch, in_memory
):
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    local = FeatureStore.open(server.folder / "s")
    ids = list(RECORDS)
    outcomes, made = Counter[str](), Counter[str]()

    def some_fault(answer: Answer, n: int) -> None:
        if draw.random() < OFTEN:
            name = draw.choice(SLOW if draw.random() < RARELY else FAST)
            made[name] += 1
            FAULTS[name][0](answer, draw.randrange(3))

    def read(chosen: list[str]) -> StoreError | None:
        """Compare a read with the local one; return its error."""
        nonlocal store
        theirs = local.read(chosen)
        try:
            store = store or FeatureStore.open(f"{server.url}/s")
            ours = store.read(chosen)
        except StoreError as error:
            return error
        assert ours.features.tobytes() == theirs.features.tobytes(), chosen
        assert (ours.mask == theirs.mask).all()
        assert (ours.grid_shapes == theirs.grid_shapes).all()
        return None

    store: FeatureStore | None = None
    for number in range(reads):
        if number % OPENED == 0:
            store = None
            shutil.rmtree(in_memory / "cache", ignore_errors=True)
            server.requests.clear()
        chosen = draw.sample(ids, draw.choice((1, 1, 1, 3)))
        server.fault = some_fault
        began = time.monotonic()
        with monkeypatch.context() as patch:
            patch.setattr(ranges, "SILENCE_SECONDS", 0.1)
            error = read(chosen)
        outcomes["right" if error is None else error.code] += 1
        if error is not None:
            assert error.code.startswith(("E-REMOTE-", "E-SHARD-", "E-STORE-"))
            assert f"{server.url}/s" in str(error)
            server.fault = None
            assert read(chosen) is None  # nothing of the failure stays
        assert time.monotonic() - began < MOST_SECONDS
    print(dict(outcomes), dict(made))
    assert sum(outcomes.values()) == reads
    assert outcomes["right"] > reads // 2
    assert len(outcomes) > 5
    assert len(made) > len(FAST) // 2
