"""A store in S3, whose protocol for reading is that of a web server; obstore is the real client."""

import multiprocessing as mp
import sys

import numpy as np
import pytest
from fault_server import FAULTS, isolate, serving
from refused import refuses
from stores import make_store

from clipfeat.base import objects
from clipfeat.base.errors import CorruptStoreError, UsageError
from clipfeat.base.ranges import read_file, read_range
from clipfeat.featstore import Depth, FeatureStore, verify

RNG = np.random.default_rng(0)
RECORDS = {f"image{k}": RNG.standard_normal((3, 4, 64)).astype(np.float16) for k in range(9)}
HEADERS = {"ETag": '"x"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}  # S3 always has them
SHARD = "s3://lab/s/features.zarr/3x4/grid/c.0.0.0.0"


@pytest.fixture(scope="module")
def module_server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s3")
    make_store(folder / "lab" / "s", RECORDS)
    with serving(folder) as server:
        yield server


@pytest.fixture
def server(module_server, monkeypatch, tmp_path):
    """An S3 server without faults, with the bucket `lab`."""
    isolate(monkeypatch, tmp_path, [])
    monkeypatch.setenv("CLIPFEAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_ENDPOINT", module_server.url)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setattr(objects, "_process", None)
    objects._opened.cache_clear()
    module_server.reset()
    module_server.fault = lambda answer, n: answer.headers.update(HEADERS)
    return module_server


def test_a_store_in_a_bucket_is_read_and_verified(server):
    store = FeatureStore.open("s3://lab/s/")
    assert store.location == "s3://lab/s"
    for image_id, grid in RECORDS.items():
        assert store[image_id].tobytes() == grid.tobytes()
    assert (
        store.read(list(RECORDS)).features.tobytes() == np.stack(list(RECORDS.values())).tobytes()
    )
    assert verify("s3://lab/s", Depth.DEEP) == []
    with refuses("E-STORE-ABSENT", "s3://lab/other"):
        FeatureStore.open("s3://lab/other")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("503 twice", ""), ("500 twice", ""), ("drop midway", ""), ("reset in the body", ""),
        ("403", "E-REMOTE-DENIED"), ("401", "E-REMOTE-DENIED"), ("404", "E-REMOTE-ABSENT"),
        ("Range ignored", "E-REMOTE-CONNECT"), ("no Content-Range", "E-REMOTE-CONNECT"),
        ("short, lying range", "E-REMOTE-SIZE"), ("long", "E-REMOTE-SIZE"),
        ("gzip always", "E-REMOTE-SIZE"), ("503 always", "E-REMOTE-CONNECT"),
    ],
)  # fmt: skip
def test_faults_end_in_the_right_bytes_or_a_named_error(server, name, code):
    honest, fault = server.fault, FAULTS[name][0]
    content = (server.folder / SHARD.removeprefix("s3://")).read_bytes()

    def change(answer, n):
        honest(answer, n)
        fault(answer, n)

    server.fault = change
    if not code:
        assert read_range(SHARD, 5, 900, size=len(content)) == content[5:905]
        return
    with refuses(code, SHARD):
        read_range(SHARD, 5, 900, size=len(content))


def test_an_object_of_another_size_is_refused(server):
    with refuses("E-REMOTE-SIZE", SHARD, kind=CorruptStoreError):
        read_range(SHARD, 0, 5, size=7)
    with refuses("E-REMOTE-CONNECT", SHARD):  # S3 answers with 416
        read_range(SHARD, 1 << 20, 5)
    with refuses("E-REMOTE-SIZE", SHARD, "10", kind=CorruptStoreError):
        read_file(SHARD, 10)


def outcome_in_child(store, pipe):
    try:
        pipe.send(store["image8"].tobytes())
    except Exception as error:
        pipe.send((type(error).__name__, getattr(error, "code", "")))


# Python 3.12 warns of every fork where there are threads; this is the case that it warns of.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("fork", ("StoreError", "E-REMOTE-FORK")),
        pytest.param("spawn", RECORDS["image8"].tobytes(), marks=pytest.mark.slow),
    ],
)
def test_a_forked_child_gets_an_error_and_does_not_hang(server, method, expected):
    store = FeatureStore.open("s3://lab/s")
    store["image0"]
    context = mp.get_context(method)
    parent_end, child_end = context.Pipe()
    child = context.Process(target=outcome_in_child, args=(store, child_end))
    child.start()
    assert parent_end.poll(60), "the child hangs"
    assert parent_end.recv() == expected
    child.join()


def test_without_the_extra_the_error_says_what_to_install(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with refuses("E-EXTRA-MISSING", "cloud", kind=UsageError):
        FeatureStore.open("s3://lab/s")
