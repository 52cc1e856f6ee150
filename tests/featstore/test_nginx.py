"""A store behind nginx, the web server that most labs have: what a store on this machine gives."""

import numpy as np
import pytest
from click.testing import CliRunner
from fault_server import isolate
from stores import files_of, make_store

from benchmarks.share.servers import serving
from clipfeat.base.ranges import read_file
from clipfeat.cli.main import clipfeat
from clipfeat.featstore import FeatureStore, GridShape, subset, verify
from clipfeat.featstore.audit.contents import Depth
from clipfeat.featstore.audit.remote import verify_remote
from clipfeat.featstore.sharing.pull import pull

RNG = np.random.default_rng(0)
RECORDS = {
    **{f"i{k:02}": RNG.standard_normal((3, 4, 64)).astype(np.float16) for k in range(24)},
    **{f"j{k}": RNG.standard_normal((2, 2, 64)).astype(np.float16) for k in range(3)},
    "gone": None,
}
IDS = [image_id for image_id, grid in RECORDS.items() if grid is not None]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    path = make_store(
        tmp_path_factory.mktemp("served") / "s", RECORDS, shard_size=12, shape=GridShape(3, 4)
    )
    return FeatureStore.open(path)


@pytest.fixture(scope="module")
def nginx(local, tmp_path_factory):
    """A server with the store `s`."""
    with serving(local.path.parent, tmp_path_factory.mktemp("nginx")) as server:
        assert server.name == "nginx", "install nginx (the package nginx of Debian)"
        yield server


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path, [])
    monkeypatch.setenv("CLIPFEAT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def remote(nginx):
    return FeatureStore.open(f"{nginx.url}/s")


def shard_requests(nginx):
    """Return the lines of the log about shards; nginx writes one before it takes another request."""
    read_file(f"{nginx.url}/s/store.json", 1 << 20)
    return [line for line in nginx.log.read_text().splitlines() if "/c." in line]


def test_what_is_read_equals_the_local_store(remote, local):
    assert (remote.digest, remote.metadata) == (local.digest, local.metadata)
    assert (remote.ids, remote.shards, list(remote.index)) == (
        local.ids, local.shards, list(local.index),
    )  # fmt: skip
    assert remote.statuses(["gone", "i01", "?"]) == ["missing", "ok", None]
    for _ in range(2):  # from the server, then from the cache
        ours, theirs = remote.read(IDS), local.read(IDS)
        assert ours.features.tobytes() == theirs.features.tobytes()
        assert (ours.mask == theirs.mask).all()


def test_a_record_takes_one_request(nginx, remote):
    for image_id in ("i00", "i12"):
        assert remote[image_id].any()  # the tables, and the indexes of both shards
    before = len(shard_requests(nginx))
    for image_id in ("i02", "i14", "i06", "i18"):
        assert remote[image_id].tobytes() == RECORDS[image_id].tobytes()
    assert len(shard_requests(nginx)) == before + 4


def test_a_pull_is_the_store(nginx, local, tmp_path):
    pull(f"{nginx.url}/s", tmp_path / "t")
    assert verify(tmp_path / "t", Depth.DEEP) == []
    assert files_of(tmp_path / "t") == files_of(local.path)
    for name in files_of(local.path):
        assert (tmp_path / "t" / name).read_bytes() == (local.path / name).read_bytes(), name


def test_a_pull_continues_in_the_middle_of_a_shard(nginx, local, tmp_path):
    shard = next(row for row in local.shards if row.shape == "3x4")
    content = (local.path / shard.path).read_bytes()
    number = local.shards.index(shard)
    before = len(shard_requests(nginx))
    journal = tmp_path / "t/journal"
    journal.mkdir(parents=True)
    (journal / "plan.json").write_text(f'{{"pull":"{local.digest}"}}')
    (journal / f"{number:08}.partial").write_bytes(content[:1000])
    pull(f"{nginx.url}/s", tmp_path / "t")
    assert files_of(tmp_path / "t") == files_of(local.path)
    lines = [line for line in shard_requests(nginx)[before:] if shard.path in line]
    assert len(lines) == 1
    assert f'" 206 {len(content) - 1000} "' in lines[0]  # status and bytes of the answer


def test_a_subset_by_ids_equals_the_local_one(nginx, remote, local, tmp_path):
    ids = IDS[::3]
    ours, theirs = (subset(s, tmp_path / n, ids=ids) for s, n in ((remote, "o"), (local, "p")))
    assert ours.digest == theirs.digest
    assert verify(ours.path) == []
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    words = ["store", "pull", f"{nginx.url}/s", str(tmp_path / "q")]
    done = CliRunner().invoke(clipfeat, [*words, "--ids", str(tmp_path / "ids.txt")])
    assert done.exit_code == 0, done.output
    assert FeatureStore.open(tmp_path / "q").digest == theirs.digest


def test_it_is_verified_where_it_is(nginx):
    assert verify_remote(f"{nginx.url}/s", Depth.DEEP) == []
