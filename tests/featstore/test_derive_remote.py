"""Stores made of stores behind URLs: those that local parents give, with few requests."""

import contextlib
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fault_server import FAULTS, always, isolate, serving
from hostile import forge_column, misplace, reseal
from refused import refuses
from stores import extend_store, files_of, make_store

from clipfeat.base import ranges
from clipfeat.base.errors import CorruptStoreError, StoreError, UsageError
from clipfeat.cli.main import clipfeat
from clipfeat.featstore import (
    FeatureStore,
    GridShape,
    convert,
    merge,
    pool,
    reshard,
    spans,
    subset,
    verify,
)
from clipfeat.featstore.deriving import derive as derive_module
from clipfeat.featstore.deriving import received
from clipfeat.featstore.metadata import store_digest
from clipfeat.featstore.sharing.pull import pull
from clipfeat.featstore.tables import index_lines

RNG = np.random.default_rng(0)
RECORDS = {
    **{f"i{k:02}": RNG.standard_normal((2, 3, 64)).astype(np.float16) for k in range(24)},
    **{f"j{k}": RNG.standard_normal((4, 2, 64)).astype(np.float16) for k in range(3)},
    "none": None,
}
IDS = sorted(RECORDS)
SHARD_SIZE = 12
FIRST, SECOND = (f"/s/features.zarr/2x3/grid/c.{k}.0.0.0" for k in range(2))


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A folder with the store `s`, which is not changed."""
    folder = tmp_path_factory.mktemp("origin")
    make_store(folder / "s", RECORDS, shard_size=SHARD_SIZE, shape=GridShape(2, 3))
    return folder


@pytest.fixture(scope="module")
def local(origin):
    return FeatureStore.open(origin / "s")


@pytest.fixture(scope="module")
def some(local, tmp_path_factory):
    """What a subset of the first ids must be."""
    return subset(local, tmp_path_factory.mktemp("some") / "s", ids=IDS[:5])


@pytest.fixture(scope="module")
def module_server(origin):
    with serving(origin) as server:
        yield server


@pytest.fixture
def tmp_path(in_memory):
    return in_memory


@pytest.fixture
def server(module_server, monkeypatch, tmp_path):
    """A server without faults; this test has a cache of its own."""
    isolate(monkeypatch, tmp_path, [])
    monkeypatch.setenv("CLIPFEAT_CACHE", str(tmp_path / "cache"))
    module_server.reset()
    return module_server


@pytest.fixture
def remote(server):
    return FeatureStore.open(f"{server.url}/s")


@pytest.fixture
def copy(origin):
    """A copy of the store that may be changed, as `copy` of the server."""
    yield Path(shutil.copytree(origin / "s", origin / "copy"))
    shutil.rmtree(origin / "copy")


def is_same(store, expected):
    """Assert that two stores have the same digest and the same files."""
    assert store.digest == expected.digest
    assert verify(store.path) == []
    assert files_of(store.path) == files_of(expected.path)
    return True


def ranges_of(server, path):
    """Return (first byte, bytes) of each request for a file."""
    spans = [
        map(int, headers["range"].removeprefix("bytes=").split("-"))
        for asked, headers in server.requests
        if asked == path
    ]
    return [(first, last + 1 - first) for first, last in spans]


class TestTheSameStore:
    def test_a_subset(self, remote, local, server, tmp_path):
        ids = IDS[::2]
        store = subset(remote, tmp_path / "o", ids=ids)
        assert is_same(store, subset(local, tmp_path / "p", ids=ids))
        origin = store.identity.derived_from
        assert origin is not None
        assert origin.digest == local.digest
        assert set(server.paths().values()) <= {1, 2}  # a shard: its index and its records

    @pytest.mark.parametrize(
        "act",
        [
            lambda store, out: reshard(store, out, 5),
            lambda store, out: convert(store, out, codec="none"),
            lambda store, out: convert(store, out, dtype="uint8"),
            lambda store, out: pool(store, out, GridShape(1, 2)),
        ],
        ids=["reshard", "codec", "uint8", "pool"],
    )
    def test_other_operations(self, remote, local, tmp_path, act):
        assert is_same(act(remote, tmp_path / "o"), act(local, tmp_path / "p"))

    def test_a_merge_of_a_url_and_a_folder(self, remote, local, tmp_path):
        other = FeatureStore.open(
            make_store(tmp_path / "other", {"k": RECORDS["i00"], "i01": RECORDS["i01"]})
        )
        store = merge([remote, other], tmp_path / "o")
        assert is_same(store, merge([local, other], tmp_path / "p"))
        assert "k" in store
        changed = make_store(tmp_path / "changed", {"i01": RECORDS["i00"]})
        with refuses("E-MERGE-CONFLICT", "'i01' (ok in s and ok in changed)"):
            merge([remote, FeatureStore.open(changed)], tmp_path / "q")

    def test_little_is_held_and_little_is_asked_for_at_once(
        self, remote, local, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(received, "AHEAD_BYTES", 1)
        monkeypatch.setattr(spans, "SPAN_BYTES", 1)
        monkeypatch.setattr(received, "IN_FLIGHT", 1)
        assert is_same(reshard(remote, tmp_path / "o", 5), reshard(local, tmp_path / "p", 5))


class TestRequests:
    def test_neighbours_share_a_request(self, remote, server, tmp_path):
        subset(remote, tmp_path / "o", ids=IDS[:8])
        (index, records) = ranges_of(server, FIRST)
        assert index[1] == 16 * SHARD_SIZE + 4
        assert records[0] == 0
        assert server.paths()[SECOND] == 0

    def test_a_request_has_at_most_a_span(self, remote, server, tmp_path, monkeypatch):
        size = FeatureStore.open(server.folder / "s").shards[0].bytes // SHARD_SIZE
        monkeypatch.setattr(spans, "SPAN_BYTES", 4 * size)
        subset(remote, tmp_path / "o", ids=IDS[:12])
        _, *records = ranges_of(server, FIRST)
        assert 3 <= len(records) <= 4
        ends = [first + length for first, length in sorted(records)]
        assert [first for first, _ in sorted(records)[1:]] == ends[:-1]  # no byte twice

    def test_a_large_gap_is_not_received(self, remote, server, tmp_path, monkeypatch):
        monkeypatch.setattr(received, "GAP_BYTES", 0)
        subset(remote, tmp_path / "o", ids=IDS[:12:2])
        assert server.paths()[FIRST] == 1 + 6

    def test_records_do_not_fill_the_cache(self, remote, server, tmp_path):
        subset(remote, tmp_path / "o", ids=IDS)
        cached = [path.name for path in (tmp_path / "cache").glob("*/*")]
        assert cached
        assert [name for name in cached if re.search(r"\.[0-9]+$", name)] == []

    def test_unknown_ids_are_named_before_any_record_is_received(self, remote, server, tmp_path):
        with refuses("E-DERIVE-IDS", f"{server.url}/s", "2 of 3 ids", "'nope'", kind=UsageError):
            subset(remote, tmp_path / "o", ids=["i00", "nope", "zero"])
        assert not any("features.zarr" in path for path in server.paths())
        assert not (tmp_path / "o").exists()

    def test_a_full_disk_is_found_before_any_record_is_received(
        self, remote, server, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(derive_module, "free_bytes", lambda path: 1000)
        with refuses("E-DERIVE-SPACE", kind=StoreError):
            subset(remote, tmp_path / "o", statuses=["ok"])
        assert not any("features.zarr" in path for path in server.paths())

    def test_complete_shards_are_not_received_again(
        self, remote, local, server, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(derive_module, "usable_cores", lambda: 2)

        def fail_last(answer):
            ends = time.monotonic() + 5
            while len(list((tmp_path / "o").rglob("c.*"))) < 3 and time.monotonic() < ends:
                time.sleep(0.01)
            answer.is_(404)

        server.fault, server.fault_on = always(fail_last), SECOND
        with refuses("E-REMOTE-ABSENT", f"{server.url}{SECOND}"):
            reshard(remote, tmp_path / "o", SHARD_SIZE)
        with refuses("E-STORE-UNFINISHED", "run the same clipfeat store reshard command"):
            FeatureStore.open(tmp_path / "o")
        asked = server.paths()[FIRST]
        server.reset()
        again = reshard(FeatureStore.open(f"{server.url}/s"), tmp_path / "o", SHARD_SIZE)
        assert is_same(again, reshard(local, tmp_path / "p", SHARD_SIZE))
        assert asked == 2
        assert server.paths()[FIRST] == 0
        assert not any("parquet" in path for path in server.paths())

    def test_an_error_ends_the_other_shards(self, remote, server, tmp_path, monkeypatch):
        monkeypatch.setattr(derive_module, "usable_cores", lambda: 2)
        monkeypatch.setattr(spans, "SPAN_BYTES", 1)
        monkeypatch.setattr(received, "IN_FLIGHT", 1)

        def fail_late(answer):
            ends = time.monotonic() + 5
            while server.paths()[SECOND] < 2 and time.monotonic() < ends:
                time.sleep(0.01)
            answer.is_(404)

        server.fault, server.fault_on = always(fail_late), FIRST
        server.route = lambda path, headers: time.sleep(0.05) if path == SECOND else None
        with refuses("E-REMOTE-ABSENT", FIRST):
            reshard(remote, tmp_path / "o", SHARD_SIZE)
        assert 2 <= server.paths()[SECOND] < 1 + SHARD_SIZE


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_ends_in_the_same_store_or_a_named_error(
    name, remote, some, server, tmp_path, monkeypatch
):
    monkeypatch.setattr(ranges, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(ranges, "DEADLINE_SECONDS", 0.5 if "trickle" in name else 100.0)
    assert remote["i11"].tobytes() == RECORDS["i11"].tobytes()  # the index is in the cache
    server.requests.clear()
    fault, outcome = FAULTS[name]
    server.fault, server.fault_on = fault, FIRST
    if outcome:
        code, at = (outcome, FIRST) if outcome != "wrong" else ("E-SHARD-HASH", "/s")
        with refuses(code, f"{server.url}{at}", kind=StoreError):
            subset(remote, tmp_path / "o", ids=IDS[:5])
        with refuses("E-STORE-UNFINISHED"):
            FeatureStore.open(tmp_path / "o")
        server.reset()
    assert is_same(subset(remote, tmp_path / "o", ids=IDS[:5]), some)


class TestHostile:
    def test_a_changed_record_is_named(self, remote, some, server, tmp_path):
        def change(answer):
            if answer.first == 0:  # not of the index
                at = len(answer.body) // 2
                byte = bytes([answer.body[at] ^ 1])
                answer.body = answer.body[:at] + byte + answer.body[at + 1 :]

        server.fault, server.fault_on = always(change), FIRST
        with refuses("E-SHARD-HASH", "image id 'i0", "another copy", kind=CorruptStoreError):
            subset(remote, tmp_path / "o", ids=IDS[:5])
        with refuses("E-STORE-UNFINISHED"):
            FeatureStore.open(tmp_path / "o")
        assert not list((tmp_path / "o").rglob("c.*"))
        server.reset()
        assert is_same(subset(remote, tmp_path / "o", ids=IDS[:5]), some)

    def test_a_changed_index_of_a_shard(self, remote, server, tmp_path):
        def change(answer):
            answer.body = bytes([answer.body[0] ^ 1]) + answer.body[1:]

        server.fault, server.fault_on = always(change), FIRST
        with refuses("E-SHARD-INDEX", f"{server.url}{FIRST}", kind=CorruptStoreError):
            subset(remote, tmp_path / "o", ids=IDS[:5])

    def test_a_wrong_index_of_a_shard_in_the_cache_is_replaced(
        self, remote, some, server, tmp_path
    ):
        """As a mirror may have sent it; the first records have swapped places."""
        remote["i11"]
        misplace(tmp_path / "cache", remote.shards[0])
        server.requests.clear()
        assert is_same(
            subset(FeatureStore.open(f"{server.url}/s"), tmp_path / "o", ids=IDS[:5]), some
        )
        assert server.paths()[FIRST] == 5  # two ranges, the index, and two records again

    def test_tables_that_are_not_those_of_the_digest(self, server, copy, tmp_path):
        rows = list(FeatureStore.open(copy).index)
        hashes = [row.record_sha256 for row in rows]
        forge_column(copy, "index", "record_sha256", hashes[1:2] + hashes[1:])
        with refuses("E-STORE-DIGEST", f"{server.url}/copy", kind=CorruptStoreError):
            subset(FeatureStore.open(f"{server.url}/copy"), tmp_path / "o", ids=IDS[:5])
        assert not any("features.zarr" in path for path in server.paths())

    def test_a_hash_of_another_record(self, server, copy, tmp_path):
        """An index that contradicts the shards, with a digest that follows from it."""
        rows = list(FeatureStore.open(copy).index)
        hashes = [row.record_sha256 for row in rows]
        forge_column(copy, "index", "record_sha256", hashes[1:2] + hashes[1:])
        forged = FeatureStore.open(copy)
        lines = map(index_lines, forged.index_batches())
        reseal(copy, digest=store_digest(forged.identity, forged.shards, lines))
        with refuses("E-SHARD-HASH", "'i00'", "sha256", kind=CorruptStoreError):
            subset(FeatureStore.open(f"{server.url}/copy"), tmp_path / "o", ids=IDS[:5])

    def test_a_store_that_was_updated_midway(self, server, copy, tmp_path):
        url = f"{server.url}/copy"
        server.fault, server.fault_on = FAULTS["404"][0], "/c.1."
        with refuses("E-REMOTE-ABSENT"):
            subset(FeatureStore.open(url), tmp_path / "o", ids=IDS[:20])
        server.reset()
        extend_store(copy, {**RECORDS, "new": RECORDS["i00"]})
        with refuses("E-PLAN-OTHER", "derived_from", kind=StoreError):
            subset(FeatureStore.open(url), tmp_path / "o", ids=IDS[:20])


class TestPull:
    def run(self, *arguments):
        return CliRunner().invoke(clipfeat, ["store", "pull", *map(str, arguments)])

    def test_some_ids(self, local, server, tmp_path):
        (tmp_path / "ids").write_text("i03\nnone\nj1\n")
        words = (f"{server.url}/s", tmp_path / "o", "--ids", tmp_path / "ids")
        done = self.run(*words)
        assert done.exit_code == 0, done.output
        expected = subset(local, tmp_path / "p", ids=["i03", "none", "j1"])
        assert is_same(FeatureStore.open(tmp_path / "o"), expected)
        assert f"2 records, digest {expected.digest[:16]}" in done.output
        assert f"of the store {local.digest[:16]}" in done.output
        server.requests.clear()
        done = self.run(*words, "--json")
        assert f'"derived_from": "{local.digest}"' in done.output
        assert not any("features.zarr" in path for path in server.paths())

    @pytest.mark.parametrize("options", [("--status", "ok"), ("--split", "coco:images.json")])
    def test_other_choices(self, local, server, tmp_path, monkeypatch, options):
        monkeypatch.chdir(tmp_path)
        Path("images.json").write_text('{"images": [{"id": 1, "file_name": "i07.jpg"}]}')
        done = self.run(f"{server.url}/s", "o", *options)
        assert done.exit_code == 0, done.output
        chosen = [i for i in IDS if RECORDS[i] is not None] if "ok" in options else ["i07"]
        assert FeatureStore.open("o").ids == tuple(chosen)

    @pytest.mark.parametrize(
        ("code", "words"),
        [
            ("E-PULL-CHOICE", ("URL", "o", "--status", "ok", "--limit", "1MB/s")),
            ("E-PULL-CHOICE", ("URL", "o", "--status", "ok", "--mirror", "URL")),
            ("E-PULL-CHOICE", ("s", "o", "--status", "ok")),
            ("E-DERIVE-CHOICE", ("URL", "o", "--skip-missing", "3")),
        ],
    )
    def test_options_that_do_not_fit(self, server, code, words):
        done = self.run(*(word.replace("URL", f"{server.url}/s") for word in words))
        assert isinstance(done.exception, UsageError)
        assert done.exception.code == code
        assert server.requests == []

    def test_a_part_and_the_whole_do_not_mix(self, remote, server, tmp_path):
        url = f"{server.url}/s"
        subset(remote, tmp_path / "o", ids=IDS[:5])
        with refuses("E-PULL-OTHER"):
            pull(url, tmp_path / "o")
        server.fault, server.fault_on = FAULTS["404"][0], FIRST
        for out, act in {
            "p": lambda out: subset(remote, out, ids=IDS[:5]),
            "q": lambda out: pull(url, out),
        }.items():
            with contextlib.suppress(StoreError):
                act(tmp_path / out)
        server.reset()
        with refuses("E-PULL-PLAN"):
            pull(url, tmp_path / "p")
        with refuses("E-PLAN-INVALID"):
            subset(remote, tmp_path / "q", ids=IDS[:5])
        with refuses("E-STORE-UNFINISHED", "clipfeat store subset or clipfeat store pull"):
            FeatureStore.open(tmp_path / "p")
        with refuses("E-STORE-UNFINISHED", "run the same clipfeat store pull command"):
            FeatureStore.open(tmp_path / "q")
