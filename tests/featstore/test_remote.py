"""A store behind a URL: the records of the local one, or one named error; few requests."""

import hashlib
import json
import multiprocessing as mp
import os
import pickle
import random
import shutil
import threading
import time

import numpy as np
import pytest
from fault_server import FAULTS, Answer, FaultServer, file_answer, isolate, serving
from hostile import forge_column, misplace, reseal
from refused import refuses
from stores import extend_store, make_identity, make_pooled_store, make_store

from clipfeat.base import ranges
from clipfeat.featstore import (
    CorruptStoreError,
    FeatureStore,
    GridShape,
    MissingRecordError,
    StoreError,
    remote_indexes,
    spans,
)
from clipfeat.featstore import cache as cache_module
from clipfeat.featstore import remote as remote_module
from clipfeat.featstore import remote_lookup as lookup_module
from clipfeat.featstore.cache import Cache
from clipfeat.featstore.lookup import _hashes, _seal, lookup_bytes
from clipfeat.featstore.metadata import MAX_STORE_JSON_BYTES

RNG = np.random.default_rng(0)
TABLES = {"/s/store.json", "/s/shards.parquet", "/s/lookup.bin", "/s/index.parquet"}


def grids(count, rows=3, cols=4, dim=64):
    return {
        f"image{k:03}": RNG.standard_normal((rows, cols, dim)).astype(np.float16)
        for k in range(count)
    }


RECORDS = {**grids(20), **{f"other{k}": g for k, g in enumerate(grids(3, 2, 2).values())}}


@pytest.fixture(scope="module")
def module_server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("served")) as server:
        make_store(server.folder / "s", {**RECORDS, "gone": None}, shape=GridShape(3, 4))
        yield server


@pytest.fixture
def server(module_server, monkeypatch, tmp_path) -> FaultServer:
    """A server without faults, with the store `s`; this test has a cache of its own."""
    isolate(monkeypatch, tmp_path, [])
    monkeypatch.setenv("CLIPFEAT_CACHE", str(tmp_path / "cache"))
    module_server.reset()
    return module_server


def served(server, name, records, **options) -> str:
    """Make a store below the server's folder, and return its URL."""
    shutil.rmtree(server.folder / name, ignore_errors=True)
    make_store(server.folder / name, records, **options)
    return f"{server.url}/{name}"


def shard_requests(server):
    return [path for path, _ in server.requests if "/features.zarr/" in path]


def test_everything_is_as_in_the_local_store(server):
    local, store = FeatureStore.open(server.folder / "s"), FeatureStore.open(f"{server.url}/s/")
    assert store.location == f"{server.url}/s"
    assert (store.digest, store.metadata, store.identity) == (
        local.digest, local.metadata, local.identity,
    )  # fmt: skip
    assert (store.ids, store.shards, list(store.index)) == (
        local.ids,
        local.shards,
        list(local.index),
    )
    assert store.statuses(["gone", "image001", "unknown"]) == ["missing", "ok", None]
    for image_id, grid in RECORDS.items():
        assert store[image_id].tobytes() == grid.tobytes()
    ids = [*RECORDS, "image003"]
    for first in (False, True):
        ours, theirs = (s.read(ids, channels_first=first) for s in (store, local))
        assert ours.features.tobytes() == theirs.features.tobytes()
        assert (ours.mask == theirs.mask).all()
    assert "image001" in store
    assert "unknown" not in store
    with refuses("E-STORE-NO-RECORD", f"{server.url}/s", kind=MissingRecordError):
        store["gone"]
    with refuses("E-STORE-NO-ID", f"{server.url}/s", kind=MissingRecordError):
        store.read(["unknown"])


@pytest.mark.parametrize("codec", ["zstd", "none"])
@pytest.mark.parametrize("changes", [{}, {"order": "channels_first"}, {"dtype": "float32"}])
def test_other_codecs_orders_and_numbers(server, codec, changes):
    records = grids(5)
    dtype = np.dtype(changes.get("dtype", "float16"))
    records = {image_id: grid.astype(dtype) for image_id, grid in records.items()}
    store = FeatureStore.open(served(server, "t", records, codec=codec, **changes))
    for _ in range(2):  # from the server, then from the cache
        batch = store.read(list(records))
        for grid, wanted in zip(batch.features, records.values(), strict=True):
            assert grid.tobytes() == wanted.tobytes()


def test_pooled_vectors(server, tmp_path):
    shutil.rmtree(server.folder / "p", ignore_errors=True)
    records = grids(5)
    pooled = {image_id: RNG.standard_normal(6).astype(np.float16) for image_id in records}
    identity = make_identity(64, pooled_dim=6)
    make_pooled_store(server.folder / "p", identity, records, pooled, 2)
    store = FeatureStore.open(f"{server.url}/p")
    assert store.pooled(list(records)).tobytes() == np.stack(list(pooled.values())).tobytes()
    assert store.read(list(records)).pooled is not None


def test_nothing_is_fetched_that_could_not_be_kept(server, monkeypatch):
    """Without the index only grids have a checksum elsewhere."""
    monkeypatch.setattr(remote_module, "MAX_HASHED", 0)
    shutil.rmtree(server.folder / "p", ignore_errors=True)
    records = grids(5)
    pooled = {image_id: RNG.standard_normal(6).astype(np.float16) for image_id in records}
    make_pooled_store(server.folder / "p", make_identity(64, pooled_dim=6), records, pooled, 2)
    store = FeatureStore.open(f"{server.url}/p")
    store.fetch(records)
    assert len(shard_requests(server)) == 2 * 3  # the index and the records of each shard
    assert all("/grid/" in path for path in shard_requests(server))
    server.requests.clear()
    batch = store.read(list(records))
    assert all("/pooled/" in path for path in shard_requests(server))
    assert batch.pooled is not None
    assert batch.pooled.tobytes() == np.stack(list(pooled.values())).tobytes()


def test_opening_takes_one_request_and_a_record_at_most_one(server):
    url = served(server, "many", grids(64), shard_size=16)
    store = FeatureStore.open(url)
    assert list(server.paths()) == ["/many/store.json"]
    every_fourth = [f"image{k:03}" for k in range(0, 64, 4)]
    for image_id in every_fourth[::2]:
        store[image_id]
    warm = server.paths()
    assert {path: n for path, n in warm.items() if "zarr" not in path} == {
        f"/many/{name}": 1 for name in ("store.json", "shards.parquet", "lookup.bin", "index.parquet")
    }  # fmt: skip
    server.requests.clear()
    for image_id in every_fourth[1::2]:
        store[image_id]
    assert len(server.requests) == len(every_fourth[1::2])
    assert not any(path.endswith("zarr.json") for path in warm)


def test_neighbours_share_a_request_and_the_cache_needs_none(server, monkeypatch):
    url = served(server, "many", grids(64), shard_size=16)
    store = FeatureStore.open(url)
    store.read(store.ids[:1])
    server.requests.clear()
    store.read(store.ids)
    assert len(shard_requests(server)) == 3 + 4  # indexes, and all records of each shard
    server.requests.clear()
    store.read(store.ids)
    assert not server.requests
    other = FeatureStore.open(url)  # as another process, or through a mirror
    other.read(other.ids)
    assert list(server.paths()) == ["/many/store.json"]
    monkeypatch.setattr(spans, "SPAN_BYTES", 1)
    monkeypatch.setattr(Cache, "get", lambda self, key, limit: None)
    server.requests.clear()
    assert store.read(store.ids[:16]).features.shape[0] == 16
    assert len(shard_requests(server)) == 16


def test_records_far_apart_are_not_joined(server, monkeypatch):
    monkeypatch.setattr(remote_module, "GAP_BYTES", 0)
    url = served(server, "many", grids(64), shard_size=16)
    store = FeatureStore.open(url)
    store.read(["image000"])
    server.requests.clear()
    store.read(["image002", "image003", "image005"])
    assert len(server.requests) == 2


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_of_a_shard_ends_in_the_right_record_or_a_named_error(name, server, monkeypatch):
    monkeypatch.setattr(ranges, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(ranges, "DEADLINE_SECONDS", 0.5 if "trickle" in name else 100.0)
    fault, outcome = FAULTS[name]
    store = FeatureStore.open(f"{server.url}/s")
    began = time.monotonic()
    store["image000"]  # has read the tables and the shard's index
    server.requests.clear()
    server.fault, server.fault_on = fault, "/c.0."
    if not outcome:
        assert store["image002"].tobytes() == RECORDS["image002"].tobytes()
    else:
        code = "E-SHARD-HASH" if outcome == "wrong" else outcome
        with refuses(code, f"{server.url}/s/features.zarr/3x4/grid/c.0.0.0.0"):
            store["image002"]
        server.reset()
        assert store["image002"].tobytes() == RECORDS["image002"].tobytes()
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("name", ["503 twice", "drop midway", "reset in the body"])
@pytest.mark.parametrize("path", sorted(TABLES))
def test_faults_of_the_tables_are_survived(name, path, server):
    server.fault, server.fault_on = FAULTS[name][0], path
    store = FeatureStore.open(f"{server.url}/s")
    assert store["image002"].tobytes() == RECORDS["image002"].tobytes()


def flip(answer: Answer, n: int) -> None:
    middle = len(answer.body) // 2
    answer.body = (
        answer.body[:middle] + bytes([answer.body[middle] ^ 1]) + answer.body[middle + 1 :]
    )


@pytest.mark.parametrize(
    ("path", "code"),
    [("/s/store.json", "E-STORE-"), *((p, "E-REMOTE-HASH") for p in sorted(TABLES - {"/s/store.json"}))],
)  # fmt: skip
def test_a_flipped_bit_of_a_table_is_found(path, code, server):
    server.fault, server.fault_on = flip, path
    with pytest.raises(CorruptStoreError) as refused:
        FeatureStore.open(f"{server.url}/s")["image001"]
    assert refused.value.code.startswith(code)
    assert f"{server.url}{path}" in str(refused.value)
    server.reset()
    assert (
        FeatureStore.open(f"{server.url}/s")["image001"].tobytes() == RECORDS["image001"].tobytes()
    )


def test_swapped_and_truncated_shards_are_named(server):
    shard = server.folder / "x" / "features.zarr" / "3x4" / "grid"
    url = served(server, "x", grids(12), codec="none")
    first, second = ((shard / f"c.{k}.0.0.0").read_bytes() for k in range(2))
    (shard / "c.0.0.0.0").write_bytes(second)
    (shard / "c.1.0.0.0").write_bytes(first)
    with refuses("E-SHARD-HASH", f"{url}/features.zarr/3x4/grid/c.0.0.0.0", kind=CorruptStoreError):
        FeatureStore.open(url)["image000"]
    (shard / "c.0.0.0.0").write_bytes(first[:-100])
    with refuses("E-REMOTE-SIZE", f"{len(first):,}", "c.0.0.0.0", kind=CorruptStoreError):
        FeatureStore.open(url)["image000"]


@pytest.mark.parametrize("act", ["read", "fetch"])
def test_a_wrong_shard_index_in_the_cache_is_replaced(server, tmp_path, act):
    """As a mirror may have sent it, before this store is read from another one."""
    url = served(server, "many", grids(8), shard_size=4)
    store = FeatureStore.open(url)
    store.read(store.ids)
    for shard in store.shards:
        misplace(tmp_path / "cache", shard)
        for path in (tmp_path / "cache").glob(f"*/{shard.sha256}.[0-9]*"):
            path.unlink()
    late = FeatureStore.open(url)
    server.requests.clear()
    if act == "fetch":
        late.fetch(late.ids)
    local = FeatureStore.open(server.folder / "many")
    for _ in range(2):
        assert late.read(late.ids).features.tobytes() == local.read(late.ids).features.tobytes()
    # Two indexes, and the records of both up to three times.
    assert len(shard_requests(server)) <= 8
    server.requests.clear()
    other = FeatureStore.open(url)
    other.read(other.ids)
    assert not shard_requests(server)


def test_a_shard_index_that_could_not_be_compared_is_compared_later(server, tmp_path, monkeypatch):
    url = served(server, "many", grids(8), shard_size=4)
    store = FeatureStore.open(url)
    store.read(store.ids)
    shard = store.shards[0]
    misplace(tmp_path / "cache", shard)
    for path in (tmp_path / "cache").glob(f"*/{shard.sha256}.[0-9]*"):
        path.unlink()
    late = FeatureStore.open(url)

    def fail(*_, **__):
        raise StoreError("the server is away", code="E-REMOTE-CONNECT")

    with monkeypatch.context() as patch:
        patch.setattr(remote_indexes, "read_range", fail)
        with refuses("E-SHARD-HASH", shard.path, kind=CorruptStoreError):
            late.read(late.ids)
    local = FeatureStore.open(server.folder / "many")
    assert late.read(late.ids).features.tobytes() == local.read(late.ids).features.tobytes()


def test_a_forged_record_with_a_right_checksum_is_found_by_its_sha256(server, monkeypatch):
    """Four bytes are soon forged; here the forger has the bytes of another frame accepted."""
    store = FeatureStore.open(f"{server.url}/s")
    store["image000"]
    monkeypatch.setattr(remote_module, "decode_record", lambda *args, **options: b"1234")
    server.fault, server.fault_on = flip, "/c.0."
    with refuses("E-SHARD-HASH"):
        store["image002"]


def test_the_index_of_a_large_store_is_not_fetched_for_hashes(server, monkeypatch):
    monkeypatch.setattr(remote_module, "MAX_HASHED", 10)
    store = FeatureStore.open(f"{server.url}/s")
    assert store["image001"].tobytes() == RECORDS["image001"].tobytes()
    assert "/s/index.parquet" not in server.paths()
    server.fault, server.fault_on = flip, "/c.0."
    with refuses("E-SHARD-DATA"):
        store["image002"]
    server.reset()
    list(store.index)  # the index is now in the cache
    other = FeatureStore.open(f"{server.url}/s")
    server.fault, server.fault_on = flip, "/c.0."
    with refuses("E-SHARD-HASH"):
        other["image002"]


def test_what_only_a_checksum_has_proven_is_not_read_by_those_who_compare_hashes(
    server, monkeypatch
):
    """A mirror that forges records of a large store cannot harm the readers of another one."""
    with monkeypatch.context() as patch:
        patch.setattr(remote_module, "MAX_HASHED", 10)
        for _ in range(2):
            FeatureStore.open(f"{server.url}/s")["image001"]
    assert len(shard_requests(server)) == 2  # index and record, once
    server.requests.clear()
    for _ in range(2):
        FeatureStore.open(f"{server.url}/s")["image001"]
    assert len(shard_requests(server)) == 1


def test_what_is_not_a_store(server):
    (server.folder / "page").mkdir(exist_ok=True)
    (server.folder / "page" / "store.json").write_text("<html>welcome</html>")
    with refuses("E-STORE-JSON", f"{server.url}/page/store.json", kind=CorruptStoreError):
        FeatureStore.open(f"{server.url}/page")
    with refuses("E-STORE-ABSENT", f"{server.url}/nothing"):
        FeatureStore.open(f"{server.url}/nothing")
    (server.folder / "page" / "store.json").write_bytes(b" " * (MAX_STORE_JSON_BYTES + 1))
    with refuses("E-REMOTE-SIZE", f"{server.url}/page/store.json"):
        FeatureStore.open(f"{server.url}/page")


def test_what_needs_a_store_on_this_machine_says_so(server):
    with refuses("E-STORE-URL", f"{server.url}/s", "pull"):
        FeatureStore.open(f"{server.url}/s").zarr()


@pytest.mark.parametrize(
    ("column", "value", "code"),
    [
        ("path", "features.zarr/3x4/grid/../../../etc/passwd", "E-TABLE-SHARD"),
        ("path", "/etc/passwd", "E-TABLE-SHARD"),
        ("bytes", 2**62, "E-TABLE-SHARD"),
        ("bytes", 5000, "E-REMOTE-SIZE"),
        ("records", 2**40, "E-TABLE-SHARD"),
        ("sha256", "../../x", "E-STORE-HASH"),
    ],
)
def test_a_hostile_packing_list_is_refused(server, column, value, code):
    url = served(server, "h", grids(4))
    forge_column(server.folder / "h", "shards", column, [value])
    with pytest.raises(CorruptStoreError) as refused:
        FeatureStore.open(url)["image000"]
    assert refused.value.code == code
    assert url in str(refused.value)


def test_a_hostile_lookup_is_refused(server):
    url = served(server, "h", grids(4))
    (server.folder / "h" / "lookup.bin").write_bytes(b"clipfeat" + bytes(8))
    reseal(server.folder / "h")
    with refuses("E-LOOKUP-SIZE", f"{url}/lookup.bin", kind=CorruptStoreError):
        FeatureStore.open(url)["image000"]


def test_a_frame_that_claims_a_huge_size_is_refused(server):
    url = served(server, "h", grids(1))
    shard = server.folder / "h/features.zarr/3x4/grid/c.0.0.0.0"
    content = bytearray(shard.read_bytes())
    content[4] |= 0xC0  # eight bytes of content size
    shard.write_bytes(content)
    with refuses("E-SHARD-HASH"):
        FeatureStore.open(url)["image000"]


def test_a_store_that_is_updated_midway_stays_what_it_was(server):
    records = grids(8)
    url = served(server, "u", records)
    store, late = FeatureStore.open(url), FeatureStore.open(url)
    store.read(store.ids[:4])
    extend_store(server.folder / "u", {**records, "new": records["image000"]})
    assert store.read(store.ids).features.shape[0] == 8
    assert "new" not in store
    shutil.rmtree(os.environ["CLIPFEAT_CACHE"])
    with refuses("E-REMOTE-ABSENT", "open it again"):
        late["image000"]
    assert "new" in FeatureStore.open(url)


# The lookup


def many_ids(server, count):
    """Serve a lookup of `count` ids, too large to be fetched whole; return it and its ids."""
    ids = [f"{k:07}" for k in range(count)]
    key, second = _hashes(ids)
    place = np.arange(count, dtype=np.uint64)
    check = place * np.uint64(3)
    columns = np.stack([key, place, check, second ^ _seal(place, check)])
    (server.folder / "lookup.bin").write_bytes(lookup_bytes(columns[:, np.argsort(key)]))
    return ids


def searched(server, count, load):
    url, size = f"{server.url}/lookup.bin", 16 + 32 * count
    return lookup_module.RemoteLookup(
        count, url, lambda first, length: ranges.read_range(url, first, length, size=size), load
    )


def must_not_load():
    raise AssertionError("the whole lookup was fetched")


@pytest.mark.parametrize("count", [1, 2, 7, 5_000])
def test_a_large_lookup_is_searched_by_ranges(server, monkeypatch, count):
    monkeypatch.setattr(lookup_module, "READ_BYTES", 0)
    monkeypatch.setattr(lookup_module, "BLOCK", 512)
    ids = many_ids(server, count)
    lookup = searched(server, count, must_not_load)
    chosen = ids[:: max(1, count // 50)][:60]
    places = lookup.find(chosen)
    assert places.row.tolist() == [int(i) for i in chosen]
    assert places.check.tolist() == [3 * int(i) for i in chosen]
    assert lookup.find_one(chosen[0])[2] == int(chosen[0])
    assert len(server.requests) <= 6 * len(chosen) + 6


def test_keys_that_are_not_uniform_are_found_too(server, monkeypatch):
    """As a forger would place them: nearly all at one end."""
    monkeypatch.setattr(lookup_module, "READ_BYTES", 0)
    monkeypatch.setattr(lookup_module, "BLOCK", 16)
    digest = hashlib.sha256(b"me").digest()
    key, second = (int.from_bytes(digest[k : k + 8], "big") for k in (0, 8))
    keys = np.arange(2_000, dtype=np.uint64)
    keys[-1] = key
    place = np.zeros(2_000, np.uint64)
    seal = np.uint64(second) ^ _seal(place, place)
    content = lookup_bytes(np.stack([keys, place, place, seal]))
    (server.folder / "lookup.bin").write_bytes(content)
    assert searched(server, 2_000, must_not_load).find_one("me") == (0, 0, 0, 0)
    assert len(server.requests) < 30


def test_many_ids_and_absent_ones_take_the_whole_lookup(server, monkeypatch):
    monkeypatch.setattr(lookup_module, "READ_BYTES", 0)
    monkeypatch.setattr(lookup_module, "MOST_SEARCHED", 5)
    store = FeatureStore.open(f"{server.url}/s")
    assert store.statuses(["image001", "gone"]) == ["ok", "missing"]
    assert all("range" in headers for path, headers in server.requests if path == "/s/lookup.bin")
    assert store.statuses(["image001", "unknown"]) == ["ok", None]
    assert "range" not in server.requests[-1][1]
    server.requests.clear()
    other = FeatureStore.open(f"{server.url}/s")
    shutil.rmtree(os.environ["CLIPFEAT_CACHE"])
    assert other.statuses(list(RECORDS)) == ["ok"] * len(RECORDS)
    assert server.paths()["/s/lookup.bin"] == 1


def test_a_flipped_bit_of_a_searched_lookup_never_gives_another_record(server, monkeypatch):
    monkeypatch.setattr(lookup_module, "READ_BYTES", 0)
    ids = many_ids(server, 300)
    draw = random.Random(0)

    def flip_any(answer, n):
        at = draw.randrange(len(answer.body))
        body = bytearray(answer.body)
        body[at] ^= 1 << draw.randrange(8)
        answer.body = bytes(body)

    server.fault, server.fault_on = flip_any, "lookup.bin"

    class Whole(Exception):
        pass

    def load():
        raise Whole

    for image_id in ids[:40]:
        try:
            place = searched(server, 300, load).find_one(image_id)
        except (CorruptStoreError, Whole):
            continue
        assert place[2] == int(image_id)


# The cache


def test_a_damaged_file_of_the_cache_is_fetched_again(server, tmp_path):
    store = FeatureStore.open(f"{server.url}/s")
    store.read(list(RECORDS))
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_file():
            path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    again = FeatureStore.open(f"{server.url}/s")
    for image_id, grid in RECORDS.items():
        assert again[image_id].tobytes() == grid.tobytes()
    server.requests.clear()
    FeatureStore.open(f"{server.url}/s").read(list(RECORDS))
    assert len(server.requests) == 1


def test_the_cache_stays_below_its_limit_and_keeps_other_files(tmp_path):
    cache = Cache(tmp_path, 100_000)
    mine = [tmp_path / "thesis.tex", tmp_path / "ab" / "notes.txt"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(200_000))
    for k in range(300):
        key = f"{k:064x}.{k}"
        cache.put(key, bytes(1000))
        path = tmp_path / key[:2] / key
        os.utime(path, (k, k))
    kept = [path for path in tmp_path.rglob("0*.*") if path.is_file()]
    assert sum(path.stat().st_size for path in kept) <= 100_000 * (1 + 1 / 32)
    assert f"{299:064x}.299" in {path.name for path in kept}
    assert f"{0:064x}.0" not in {path.name for path in kept}
    assert all(path.exists() for path in mine)


def test_a_file_that_another_thread_has_just_written_is_not_removed(tmp_path, monkeypatch):
    cache, content = Cache(tmp_path, 100_000), b"table"
    sha256 = hashlib.sha256(content).hexdigest()
    path = cache.file(sha256, lambda: [content], "table")
    monkeypatch.setattr(cache_module, "is_plain", lambda _: False)  # as it was a moment before

    def fetch():
        assert path.read_bytes() == content
        yield content

    assert cache.file(sha256, fetch, "table") == path


def test_a_cache_that_is_smaller_than_the_store_works(server, monkeypatch, tmp_path):
    monkeypatch.setenv("CLIPFEAT_CACHE_GB", "0.000")
    store = FeatureStore.open(f"{server.url}/s")
    for _ in range(2):
        for image_id, grid in RECORDS.items():
            assert store[image_id].tobytes() == grid.tobytes()
    assert len([path for path in (tmp_path / "cache").rglob("*") if path.is_file()]) <= 1


def test_a_cache_that_cannot_be_written_is_named(server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLIPFEAT_CACHE", str(tmp_path / "file"))
    with refuses("E-CACHE-WRITE", str(tmp_path / "file"), "--cache"):
        FeatureStore.open(f"{server.url}/s")["image000"]
    monkeypatch.setenv("CLIPFEAT_CACHE_GB", "lots")
    with refuses("E-CACHE-SIZE", "lots"):
        FeatureStore.open(f"{server.url}/s")


def test_a_cache_without_room_says_so_once_and_how_to_mend_it(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file", 1000)
    for k in range(2):
        cache.put(f"{k:064x}", b"x")
    (remark,) = caplog.messages
    assert "nothing more can be cached" in remark
    assert "--cache" in remark


def test_the_folder_of_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("CLIPFEAT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Cache.of_user().folder == tmp_path / "clipfeat"
    monkeypatch.setenv("CLIPFEAT_CACHE", str(tmp_path / "x"))
    monkeypatch.setenv("CLIPFEAT_CACHE_GB", "0.5")
    assert Cache.of_user() == Cache(tmp_path / "x", 500_000_000)


def test_threads_share_one_cache(server):
    stores = [FeatureStore.open(f"{server.url}/s") for _ in range(4)]
    results: list[bool] = []

    def read_all(store):
        batch = store.read(list(RECORDS))
        right = all(
            features[: grid[..., 0].size].tobytes() == grid.tobytes()
            for features, grid in zip(batch.features, RECORDS.values(), strict=True)
        )
        results.append(right)

    threads = [threading.Thread(target=read_all, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4


# Processes


def read_in_child(store, pipe):
    pipe.send([store[image_id].tobytes() for image_id in RECORDS])


# Python 3.12 warns of every fork where there are threads; this is the case that it warns of.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize(
    "method", ["fork", "forkserver", pytest.param("spawn", marks=pytest.mark.slow)]
)
def test_processes_read_after_their_parent_has(server, method):
    """The child shares the parent's cache, and fetches what is not there yet."""
    store = FeatureStore.open(f"{server.url}/s")
    store.read(list(RECORDS)[:10])
    context = mp.get_context(method)
    parent_end, child_end = context.Pipe()
    child = context.Process(target=read_in_child, args=(store, child_end))
    child.start()
    assert parent_end.poll(60), "the child hangs"
    assert parent_end.recv() == [grid.tobytes() for grid in RECORDS.values()]
    child.join()
    assert child.exitcode == 0
    assert store["image015"].tobytes() == RECORDS["image015"].tobytes()


def read_all_in_child(store, pipe):
    pipe.send([grid.tobytes() for grid in store.read(store.ids[:20]).features])


# Python 3.12 warns of every fork where there are threads; this is the case that it warns of.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_in_the_middle_of_reading_reads(server, monkeypatch):
    monkeypatch.setattr(Cache, "get", lambda self, key, limit: None)
    url = served(server, "f", grids(20))
    store = FeatureStore.open(url)
    wanted = [grid.tobytes() for grid in store.read(store.ids).features]
    stop = threading.Event()

    def read_on():
        while not stop.is_set():
            store.read(store.ids)

    reader = threading.Thread(target=read_on)
    reader.start()
    try:
        context = mp.get_context("fork")
        for _ in range(5):
            parent_end, child_end = context.Pipe()
            child = context.Process(target=read_all_in_child, args=(store, child_end))
            child.start()
            assert parent_end.poll(60), "the child hangs"
            assert parent_end.recv() == wanted
            child.join()
            assert child.exitcode == 0
    finally:
        stop.set()
        reader.join()


def test_a_pickled_store_asks_nothing_and_stays_the_same_store(server):
    url = served(server, "k", grids(3))
    store = FeatureStore.open(url)
    pickled = pickle.dumps(store)
    served(server, "k", grids(4))
    server.requests.clear()
    again = pickle.loads(pickled)
    assert (again.digest, again.location) == (store.digest, url)
    assert not server.requests


# The Hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(server, monkeypatch):
    """A stand-in for the Hub: small files as they are, shards by signed URLs of another host.

    Returns that host, and the list of the one signature that it accepts.
    """
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    signature = [0]  # that is valid now
    resolve = f"/datasets/lab/coco/resolve/{COMMIT}/"
    with serving(server.folder, "127.0.0.2") as storage:

        def endpoint(target, headers):
            if target == "/api/datasets/lab/coco/revision/main?expand=sha":
                body = json.dumps({"sha": COMMIT}).encode()
                return Answer(200, {"Content-Length": str(len(body))}, body)
            if not target.startswith(resolve):
                return None
            name = target.removeprefix(resolve)
            if "features.zarr" in name:
                answer = Answer(302, {}, b"")
                answer.is_(302, Location=f"{storage.url}/{name}?sig={signature[0]}")
                return answer
            return file_answer(server.folder / name, headers)

        def signed(target, headers):
            path, _, query = target.partition("?")
            if query == f"sig={signature[0]}":
                return file_answer(server.folder / path[1:], headers)
            answer = Answer(403, {}, b"")
            answer.is_(403)
            return answer

        server.route, storage.route = endpoint, signed
        yield storage, signature


def test_a_store_of_the_hub_is_read_at_one_commit(server, hub):
    store = FeatureStore.open("hf://datasets/lab/coco/s")
    assert store.location == f"hf://datasets/lab/coco@{COMMIT}/s"
    store["image000"]
    storage, signature = hub
    signature[0] += 1  # the one that is known has expired midway
    storage.fault = FAULTS["429, wait 1"][0]
    for image_id, grid in RECORDS.items():
        assert store[image_id].tobytes() == grid.tobytes()
    resolved = [path for path, _ in server.requests if "features.zarr" in path]
    assert len(resolved) == len(set(resolved)) + 1  # each shard once, one again after it expired
    assert all("authorization" not in headers for _, headers in storage.requests)
    assert all(headers["authorization"] == "Bearer hf_secret" for _, headers in server.requests)


def test_a_signature_that_never_becomes_valid_is_one_named_error(server, hub):
    store = FeatureStore.open("hf://datasets/lab/coco/s")
    hub[0].route = lambda target, headers: Answer(403, {"Content-Length": "0"}, b"")
    with refuses("E-REMOTE-DENIED", "c.0.0.0.0") as refused:
        store["image000"]
    assert "sig=" not in str(refused.value)
    assert "hf_secret" not in str(refused.value)


def test_an_update_on_the_hub_does_not_change_a_pinned_store(server, hub):
    store = FeatureStore.open("hf://datasets/lab/coco/s")
    assert FeatureStore.open(store.location).digest == store.digest
    assert sum(path.startswith("/api/") for path, _ in server.requests) == 1
