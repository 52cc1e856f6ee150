"""Copying a store from servers on loopback, honest ones and others."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fault_server import FAULTS, always, first, isolate, serving
from hostile import forge_column, reseal
from logged import logged
from refused import refuses
from stores import extend_store, files_of, make_store

from clipfeat.base import ranges
from clipfeat.base.errors import CorruptStoreError, StoreError, StoreUsageError, UsageError
from clipfeat.cli.main import clipfeat
from clipfeat.featstore import FeatureStore, GridShape, convert, describe, verify
from clipfeat.featstore.sharing import pull as module
from clipfeat.featstore.sharing import sources
from clipfeat.featstore.sharing.pull import pull
from clipfeat.featstore.sharing.serve import StoreServer
from clipfeat.featstore.writing.lock import StoreLock

RNG = np.random.default_rng(0)
RECORDS = {
    **{f"i{k:02}": RNG.normal(size=(2, 3, 64)).astype(np.float16) for k in range(14)},
    **{f"j{k}": RNG.normal(size=(4, 2, 64)).astype(np.float16) for k in range(3)},
    "none": None,
}
SHARDS = 5
SHARD = "features.zarr/2x3/grid/c.1.0.0.0"


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A folder with the store `s`, which is not changed."""
    folder = tmp_path_factory.mktemp("origin")
    path = make_store(folder / "s", RECORDS, shape=GridShape(2, 3))
    (path / "README.md").write_text("# Read me")
    (path / "documents").mkdir()
    (path / "documents/more.txt").write_text("more")
    describe(path, {"title": "Title"})
    (path / "store.json.minisig").write_text("untrusted comment: x\n")
    (path / "notes.txt").write_text("not of the store")
    return folder


@pytest.fixture(scope="module")
def server(origin):
    with serving(origin) as server:
        yield server


@pytest.fixture
def honest(server):
    server.reset()
    return server


@pytest.fixture
def tmp_path(in_memory):
    return in_memory


@pytest.fixture
def copy(origin, tmp_path):
    """A copy of the store that may be changed, as `copy/s`."""
    shutil.copytree(origin / "s", tmp_path / "copy/s")
    return tmp_path / "copy/s"


@pytest.fixture(autouse=True)
def impatient(monkeypatch, tmp_path):
    """Servers are given up after moments, not minutes; logins and proxies of the user do not count."""
    isolate(monkeypatch, tmp_path, [])
    monkeypatch.setattr(ranges, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(module, "PATIENCE", ())


def is_complete(path, origin):
    """Assert that a folder is the store, and return True."""
    assert verify(path) == []
    assert FeatureStore.open(path).digest == FeatureStore.open(origin / "s").digest
    assert [name for name in files_of(origin / "s") if name != "notes.txt"] == files_of(path)
    for name in files_of(path):
        assert (path / name).read_bytes() == (origin / "s" / name).read_bytes(), name
    return True


def requested_bytes(server):
    """Return how many bytes of shards were asked for."""
    spans = [
        headers["range"].removeprefix("bytes=").split("-")
        for path, headers in server.requests
        if "/c." in path
    ]
    return sum(int(end) - int(start) + 1 for start, end in spans)


def shard_bytes(origin):
    return sum(shard.bytes for shard in FeatureStore.open(origin / "s").shards)


class TestAnHonestServer:
    def test_the_copy_is_the_store(self, honest, origin, tmp_path):
        metadata, received = pull(f"{honest.url}/s/", tmp_path / "t")
        assert is_complete(tmp_path / "t", origin)
        assert metadata.about.title == "Title"
        assert received > shard_bytes(origin)
        asked = honest.paths()
        assert set(asked.values()) == {1}
        assert not any("zarr.json" in path or "lookup" in path for path in asked)
        assert requested_bytes(honest) == shard_bytes(origin)

    def test_a_complete_store_is_not_asked_for_again(self, honest, origin, tmp_path):
        pull(f"{honest.url}/s", tmp_path / "t")
        honest.requests.clear()
        assert pull(f"{honest.url}/s", tmp_path / "t").received == 0
        assert list(honest.paths()) == ["/s/store.json"]

    def test_the_journal_of_an_update_stays(self, honest, origin, tmp_path):
        pull(f"{honest.url}/s", tmp_path / "t")
        (tmp_path / "t/journal").mkdir()
        (tmp_path / "t/journal/plan.json").write_text("{}")
        assert pull(f"{honest.url}/s", tmp_path / "t").received == 0
        assert (tmp_path / "t/journal/plan.json").exists()
        shutil.rmtree(tmp_path / "t/journal")
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "t/journal").symlink_to(tmp_path / "elsewhere")
        assert pull(f"{honest.url}/s", tmp_path / "t").received == 0
        assert list((tmp_path / "elsewhere").iterdir()) == []

    def test_an_updated_store_of_uint8(self, tmp_path):
        grids = {i: grid for i, grid in RECORDS.items() if i < "i05"}
        make_store(tmp_path / "a/s", grids)
        store = convert(FeatureStore.open(tmp_path / "a/s"), tmp_path / "a/small", dtype="uint8")
        extend_store(tmp_path / "a/s", {**grids, "new": RECORDS["j0"]})
        with serving(tmp_path / "a") as server:
            for name in ("s", "small"):
                pull(f"{server.url}/{name}", tmp_path / name)
                assert verify(tmp_path / name) == []
        assert FeatureStore.open(tmp_path / "s").metadata.generation == 1
        assert np.array_equal(FeatureStore.open(tmp_path / "small")["i00"], store["i00"])

    def test_clipfeats_own_server(self, origin, tmp_path):
        with StoreServer(origin, "127.0.0.1", 0) as server:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            pull(f"{server.url}/s", tmp_path / "t")
            server.shutdown()
        assert is_complete(tmp_path / "t", origin)

    def test_a_limit(self, honest, origin, tmp_path, monkeypatch):
        """Time is not waited, but added up."""
        waited = []
        monkeypatch.setattr(module.time, "sleep", waited.append)
        monkeypatch.setattr(module.time, "monotonic", lambda: 0.0)
        monkeypatch.setattr(module, "RANGE_BYTES", 500)
        received = pull(f"{honest.url}/s", tmp_path / "t", limit=100_000).received
        assert max(waited) == pytest.approx(received / 1e5, rel=0.2)
        assert is_complete(tmp_path / "t", origin)
        assert requested_bytes(honest) == shard_bytes(origin)
        with refuses("E-PULL-LIMIT", "100,000", kind=UsageError):
            pull(f"{honest.url}/s", tmp_path / "u", limit=10.0)


class TestOtherFolders:
    def test_another_store(self, honest, tmp_path):
        make_store(tmp_path / "t", {"a": RECORDS["i00"]})
        with refuses("E-PULL-OTHER", kind=StoreError):
            pull(f"{honest.url}/s", tmp_path / "t")

    @pytest.mark.parametrize(
        "name", ["x.txt", "features.zarr/x", "journal/plan.json", "documents/x"]
    )
    def test_a_folder_of_somebody_else(self, honest, tmp_path, name):
        (tmp_path / "t" / name).parent.mkdir(parents=True)
        (tmp_path / "t" / name).write_text("{}")
        with pytest.raises(StoreError) as refused:
            pull(f"{honest.url}/s", tmp_path / "t")
        assert refused.value.code in ("E-PULL-TARGET", "E-PULL-PLAN")
        assert (tmp_path / "t" / name).read_text() == "{}"

    def test_links_lead_nowhere(self, honest, tmp_path):
        """They come after a pull has begun; nothing is written where they lead."""
        honest.fault, honest.fault_on = FAULTS["404"][0], SHARD
        for name in ("features.zarr", "documents", "features.zarr/2x3", "journal"):
            path = tmp_path / name.replace("/", "_")
            (tmp_path / "elsewhere").mkdir(exist_ok=True)
            with refuses("E-REMOTE-ABSENT"):
                pull(f"{honest.url}/s", path)
            shutil.rmtree(path / name)
            (path / name).symlink_to(tmp_path / "elsewhere")
            with pytest.raises(StoreError):
                pull(f"{honest.url}/s", path)
            assert list((tmp_path / "elsewhere").iterdir()) == []

    def test_a_partial_file_that_is_a_link(self, honest, tmp_path):
        honest.fault, honest.fault_on = FAULTS["404"][0], SHARD
        with refuses("E-REMOTE-ABSENT"):
            pull(f"{honest.url}/s", tmp_path / "t")
        partial = tmp_path / "t/journal/00000001.partial"
        partial.unlink(missing_ok=True)
        (tmp_path / "file").write_text("mine")
        partial.symlink_to(tmp_path / "file")
        honest.reset()
        with refuses("E-PULL-WRITE", "symbolic link"):
            pull(f"{honest.url}/s", tmp_path / "t")
        assert (tmp_path / "file").read_text() == "mine"

    def test_two_pulls_at_once(self, honest, origin, tmp_path):
        (tmp_path / "t/journal").mkdir(parents=True)
        with StoreLock(tmp_path / "t"), refuses("E-LOCK-HELD", kind=StoreError):
            pull(f"{honest.url}/s", tmp_path / "t")
        command = [sys.executable, "-m", "clipfeat.cli", "store", "pull", f"{honest.url}/s", "t"]
        children = [
            subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for child in children:
            _, errors = child.communicate()
            assert child.returncode == 0 or "E-LOCK-HELD" in errors
        assert 0 in [child.returncode for child in children]
        assert is_complete(tmp_path / "t", origin)

    def test_a_full_disk(self, honest, origin, tmp_path, monkeypatch):
        free = shard_bytes(origin) - 1
        monkeypatch.setattr(module, "free_bytes", lambda _: free)
        with refuses("E-PULL-SPACE", kind=StoreUsageError):
            pull(f"{honest.url}/s", tmp_path / "t")
        assert requested_bytes(honest) == 0

    def test_a_disk_that_becomes_full(self, honest, origin, tmp_path, monkeypatch):
        def full(_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(module, "open_output", full)
            with refuses("E-PULL-WRITE", str(tmp_path / "t"), "same command", kind=StoreError):
                pull(f"{honest.url}/s", tmp_path / "t")
        pull(f"{honest.url}/s", tmp_path / "t")
        assert is_complete(tmp_path / "t", origin)

    def test_a_folder_inside_a_store_is_refused(self, honest, origin, tmp_path):
        with refuses("E-STORE-INSIDE", str(origin / "s"), kind=UsageError):
            pull(f"{honest.url}/s", origin / "s/inside")
        assert requested_bytes(honest) == 0
        assert not (origin / "s/inside").exists()

    def test_other_commands_see_an_unfinished_store(self, honest, tmp_path):
        honest.fault, honest.fault_on = FAULTS["404"][0], SHARD
        with refuses("E-REMOTE-ABSENT"):
            pull(f"{honest.url}/s", tmp_path / "t")
        with refuses("E-STORE-UNFINISHED", kind=StoreError):
            FeatureStore.open(tmp_path / "t")
        with refuses("E-PLAN-INVALID", kind=StoreError):
            make_store(tmp_path / "t", RECORDS)


FEW = ["503 twice", "403", "drop midway", "shifted, lying range", "stall once"]


@pytest.mark.parametrize(
    ("name", "fault_on"),
    [
        *((name, SHARD) for name in FAULTS),
        *((name, fault_on) for name in FEW for fault_on in ("index.parquet", "store.json")),
    ],
)
def test_every_fault_ends_in_the_store_or_in_a_named_error(
    honest, origin, tmp_path, monkeypatch, name, fault_on
):
    monkeypatch.setattr(ranges, "DEADLINE_SECONDS", 1e6 if "wait" in name or "Hub" in name else 1.0)
    honest.fault, honest.fault_on = FAULTS[name][0], fault_on
    if (code := pull_code(f"{honest.url}/s", tmp_path / "t")) is not None:
        assert code.startswith(("E-REMOTE-", "E-PULL-HASH", "E-STORE-"))
        assert not (tmp_path / "t/store.json").exists()
        honest.reset()
        pull(f"{honest.url}/s", tmp_path / "t")
    assert is_complete(tmp_path / "t", origin)


def pull_code(url, path):
    """Pull, and return the code of the error, None if there is none."""
    try:
        pull(url, path)
    except StoreError as error:
        return error.code
    return None


class TestWrongBytes:
    def test_a_truncated_shard(self, copy, tmp_path):
        with (copy / SHARD).open("r+b") as file:
            file.truncate(100)
        with serving(copy.parent) as server:
            assert pull_code(f"{server.url}/s", tmp_path / "t") in (
                "E-REMOTE-SIZE",
                "E-REMOTE-RANGE",
            )

    def test_a_changed_shard_is_not_asked_for_again(self, copy, tmp_path):
        content = bytearray((copy / SHARD).read_bytes())
        content[50] ^= 1
        (copy / SHARD).write_bytes(content)
        with serving(copy.parent) as server:
            with refuses("E-PULL-HASH", SHARD, kind=CorruptStoreError):
                pull(f"{server.url}/s", tmp_path / "t")
            assert server.paths()[f"/s/{SHARD}"] == 1

    def test_two_shards_swapped(self, copy, tmp_path):
        other = copy / SHARD.replace("c.1", "c.2")
        (copy / SHARD).rename(tmp_path / "x")
        other.rename(copy / SHARD)
        (tmp_path / "x").rename(other)
        with serving(copy.parent) as server, pytest.raises(CorruptStoreError) as refused:
            pull(f"{server.url}/s", tmp_path / "t")
        assert refused.value.code in ("E-PULL-HASH", "E-REMOTE-SIZE")
        assert not (tmp_path / "t" / SHARD).exists()

    @pytest.mark.parametrize("name", ["index.parquet", "shards.parquet", "README.md"])
    def test_other_files(self, copy, tmp_path, name):
        (copy / name).write_bytes((copy / name).read_bytes() + b"x")
        with serving(copy.parent) as server, refuses("E-PULL-HASH", name, kind=CorruptStoreError):
            pull(f"{server.url}/s", tmp_path / "t")
        assert not (tmp_path / "t" / name).exists()

    def test_zarr_json_and_lookup_of_the_server_do_not_matter(self, copy, origin, tmp_path):
        (copy / "features.zarr/zarr.json").write_text("{}")
        (copy / "lookup.bin").unlink()
        with serving(copy.parent) as server:
            pull(f"{server.url}/s", tmp_path / "t")
        assert is_complete(tmp_path / "t", origin)

    def test_a_page_in_the_place_of_a_signature(self, copy, tmp_path):
        (copy / "store.json.minisig").write_text("<html>not found</html>")
        with serving(copy.parent) as server:
            pull(f"{server.url}/s", tmp_path / "t")
        assert not (tmp_path / "t/store.json.minisig").exists()
        assert verify(tmp_path / "t") == []


class TestHostileTables:
    """Every hash fits; the values are those of an attacker. Nothing but tables is written."""

    def refused(self, copy, tmp_path, code):
        with serving(copy.parent) as server, refuses(code, kind=CorruptStoreError):
            pull(f"{server.url}/s", tmp_path / "t")
        written = [name for name in files_of(tmp_path) if not name.startswith("copy/")]
        assert {name.split("/")[0] for name in written} <= {"t"}
        assert not any(
            "/c." in name or name.endswith(("partial", "store.json")) for name in written
        )

    @pytest.mark.parametrize(
        "path",
        ["../../evil", "/tmp/evil", "features.zarr/../../x", "features.zarr/2x3/grid/c.1.0.0.0"],
    )
    def test_paths(self, copy, tmp_path, path):
        """The last one is a duplicate."""
        paths = sorted([path, *[s.path for s in FeatureStore.open(copy).shards][1:]])
        forge_column(copy, "shards", "path", paths)
        assert len(paths) == SHARDS
        code = "E-TABLE-ORDER" if path == SHARD else "E-TABLE-SHARD"
        self.refused(copy, tmp_path, code)

    def test_sizes(self, copy, tmp_path):
        forge_column(copy, "shards", "bytes", [1 << 50] * SHARDS)
        self.refused(copy, tmp_path, "E-TABLE-SHARD")

    def test_another_digest(self, copy, tmp_path):
        reseal(copy, digest="0" * 64)
        with serving(copy.parent) as server, refuses("E-PULL-TABLES", kind=CorruptStoreError):
            pull(f"{server.url}/s", tmp_path / "t")
        assert not (tmp_path / "t/store.json").exists()

    def test_another_lookup(self, copy, tmp_path):
        tables = json.loads((copy / "store.json").read_text())["tables"]
        reseal(copy, tables={**tables, "lookup": "0" * 64})
        with serving(copy.parent) as server, refuses("E-PULL-TABLES", kind=CorruptStoreError):
            pull(f"{server.url}/s", tmp_path / "t")

    def test_store_json_written_otherwise(self, copy, tmp_path):
        content = json.loads((copy / "store.json").read_text())
        (copy / "store.json").write_text(json.dumps(content))
        self.refused(copy, tmp_path, "E-STORE-JSON")

    def test_a_document_that_leads_elsewhere(self, copy, tmp_path):
        reseal(copy, documents={"documents/../../evil": "0" * 64})
        self.refused(copy, tmp_path, "E-STORE-METADATA")

    def test_an_index_without_an_end_does_not_fill_the_disk(self, copy, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "free_bytes", lambda _: 100_000)
        (copy / "index.parquet").write_bytes(bytes(1_000_000))
        reseal(copy)
        self.refused(copy, tmp_path, "E-REMOTE-SIZE")


class TestMirrors:
    def test_both_are_used(self, honest, origin, tmp_path):
        with serving(origin) as other:
            pull(f"{honest.url}/s", tmp_path / "t", [f"{other.url}/s"])
            assert requested_bytes(honest) + requested_bytes(other) == shard_bytes(origin)
            assert requested_bytes(other) > 0
        assert is_complete(tmp_path / "t", origin)

    def test_another_digest(self, honest, origin, copy, tmp_path):
        extend_store(copy, {**RECORDS, "new": RECORDS["i00"]})
        with serving(copy.parent) as other, logged() as lines:
            pull(f"{honest.url}/s", tmp_path / "t", [f"{other.url}/s"])
            assert list(other.paths()) == ["/s/store.json"]
            assert other.url in lines[0]
        assert FeatureStore.open(copy).digest in lines[0]
        assert is_complete(tmp_path / "t", origin)

    @pytest.mark.parametrize("mirrors", [[], ["s"]])
    def test_wrong_bytes(self, honest, origin, copy, tmp_path, mirrors):
        """The first server has them; a mirror, if there is one, has the right ones."""
        for shard in FeatureStore.open(copy).shards:
            content = (copy / shard.path).read_bytes()
            (copy / shard.path).write_bytes(bytes([content[0] ^ 1]) + content[1:])
        with serving(copy.parent) as bad, logged() as lines:
            urls = [f"{honest.url}/{name}" for name in mirrors]
            if not mirrors:
                with refuses("E-PULL-HASH", bad.url, kind=CorruptStoreError):
                    pull(f"{bad.url}/s", tmp_path / "t", urls)
                return
            pull(f"{bad.url}/s", tmp_path / "t", urls)
        assert [line for line in lines if "not used any more" in line and bad.url in line] == lines
        assert len(lines) == 1
        assert is_complete(tmp_path / "t", origin)

    def test_what_one_server_began_another_ends(self, honest, origin, tmp_path):
        with serving(origin) as other:
            other.fault, other.fault_on = FAULTS["drop always"][0], "/c."
            other.fault = always(lambda answer: setattr(answer, "sent", 100))
            with logged() as lines:
                pull(f"{other.url}/s", tmp_path / "t", [f"{honest.url}/s"])
        assert len(lines) == 1
        assert is_complete(tmp_path / "t", origin)

    @pytest.mark.parametrize("rest", [0, 3600])
    def test_one_that_fails_for_a_while_is_asked_again(
        self, honest, origin, tmp_path, monkeypatch, rest
    ):
        monkeypatch.setattr(sources, "PATIENCE", (rest,))
        monkeypatch.setattr(module, "STREAMS", 1)
        with serving(origin) as other, logged() as lines:
            other.fault_on = "/c."
            failing = iter(range(ranges.RETRIES + 1))
            other.fault = lambda answer, n: (
                answer.is_(503) if next(failing, None) is not None else 0
            )
            pull(f"{other.url}/s", tmp_path / "t", [f"{honest.url}/s"])
            asked = sum("/c." in path for path in other.paths())
        assert [f"not used for {rest} seconds: {other.url}" in line for line in lines] == [True]
        assert (asked > 1) == (rest == 0)
        assert is_complete(tmp_path / "t", origin)

    def test_a_resting_one_is_asked_if_no_other_is_left(
        self, honest, origin, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(module, "STREAMS", 1)
        monkeypatch.setattr(module, "PATIENCE", (0.01,))
        with serving(origin) as other, logged() as lines:
            other.fault_on = honest.fault_on = "/c."
            failing = iter(range(ranges.RETRIES + 1))
            other.fault = lambda answer, n: (
                answer.is_(503) if next(failing, None) is not None else 0
            )
            honest.fault = always(lambda answer: answer.is_(404))
            pull(f"{other.url}/s", tmp_path / "t", [f"{honest.url}/s"])
        assert ["not used any more" in line for line in lines[:2]] == [False, True]
        assert is_complete(tmp_path / "t", origin)

    def test_the_first_is_away(self, honest, origin, tmp_path):
        with logged() as lines:
            pull(f"{honest.url}/nothing", tmp_path / "t", [f"{honest.url}/s"])
        assert "/nothing/store.json" in lines[0]
        assert is_complete(tmp_path / "t", origin)

    def test_a_url_that_is_not_valid(self, honest, tmp_path):
        with refuses("E-REMOTE-URL", kind=StoreError):
            pull(f"{honest.url}/s", tmp_path / "t", ["ftp://host/s"])
        assert not (tmp_path / "t").exists()


class TestInterrupted:
    @pytest.mark.parametrize("fault_on", ["index.parquet", SHARD])
    def test_a_server_that_is_away_for_a_while(
        self, honest, origin, tmp_path, monkeypatch, fault_on
    ):
        """Longer than the range client tries; with fewer waits than needed it stays an error."""
        failures = 2 * (ranges.RETRIES + 1)
        honest.fault, honest.fault_on = first(failures, lambda a: a.is_(503)), fault_on
        monkeypatch.setattr(module, "PATIENCE", (0.01,))
        assert pull_code(f"{honest.url}/s", tmp_path / "t") == "E-REMOTE-BUSY"
        honest.requests.clear()
        monkeypatch.setattr(module, "PATIENCE", (0.01, 0.01))
        pull(f"{honest.url}/s", tmp_path / "t")
        assert is_complete(tmp_path / "t", origin)

    def test_nothing_is_asked_for_twice(self, honest, origin, tmp_path, monkeypatch):
        """Every connection breaks after some bytes of a shard, and the client gives up at once."""
        monkeypatch.setattr(ranges, "RETRIES", 0)
        monkeypatch.setattr(module, "STREAMS", 1)
        honest.fault_on = "/c."
        honest.fault = always(lambda answer: setattr(answer, "sent", 700))
        attempts = 0
        while not (tmp_path / "t/store.json").exists():
            attempts += 1
            assert attempts < 50
            code = pull_code(f"{honest.url}/s", tmp_path / "t")
            assert code in (None, "E-REMOTE-CONNECT")
        starts = [
            (path, headers["range"].split("=")[1].split("-")[0])
            for path, headers in honest.requests
            if "/c." in path
        ]
        assert len(starts) == len(set(starts)) > SHARDS
        assert all(int(start) % 700 == 0 for _, start in starts)
        assert honest.paths()["/s/index.parquet"] == 1
        assert is_complete(tmp_path / "t", origin)

    def test_a_partial_file_with_other_bytes(self, honest, origin, tmp_path):
        honest.fault, honest.fault_on = FAULTS["404"][0], "/c."
        with refuses("E-REMOTE-ABSENT"):
            pull(f"{honest.url}/s", tmp_path / "t")
        honest.reset()
        for number, size in ((0, 50), (1, 1 << 20)):
            (tmp_path / f"t/journal/{number:08}.partial").write_bytes(bytes(size))
        pull(f"{honest.url}/s", tmp_path / "t")
        assert is_complete(tmp_path / "t", origin)

    def test_a_finished_shard_with_other_bytes(self, honest, origin, tmp_path):
        honest.fault, honest.fault_on = FAULTS["404"][0], "4x2"
        with refuses("E-REMOTE-ABSENT"):
            pull(f"{honest.url}/s", tmp_path / "t")
        honest.reset()
        for shard in (tmp_path / "t").rglob("c.*"):
            shard.write_bytes(bytes(shard.stat().st_size))
        pull(f"{honest.url}/s", tmp_path / "t")
        assert is_complete(tmp_path / "t", origin)

    def test_the_store_was_updated_in_the_meantime(self, copy, tmp_path):
        with serving(copy.parent) as server:
            server.fault, server.fault_on = FAULTS["404"][0], SHARD
            with refuses("E-REMOTE-ABSENT"):
                pull(f"{server.url}/s", tmp_path / "t")
            server.reset()
            extend_store(copy, {**RECORDS, "new": RECORDS["i00"]})
            with refuses("E-PULL-PLAN", "updated", kind=StoreError):
                pull(f"{server.url}/s", tmp_path / "t")

    @pytest.mark.parametrize("stride", [16, pytest.param(1, marks=pytest.mark.slow)])
    def test_killed_before_every_step(self, honest, origin, tmp_path, stride):
        """In the fast tier before some of the steps, and before all of the last."""
        script = Path(__file__).parent.parent / "killed_pull.py"
        command = [sys.executable, str(script), f"{honest.url}/s", str(tmp_path), str(stride)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        kills = list(map(json.loads, done.stdout.splitlines()))
        assert len(kills) > (15 if stride > 1 else 60)
        digest = FeatureStore.open(origin / "s").digest
        assert {(each["digest"], *each["problems"]) for each in kills} == {(digest,)}
        # The rename of store.json is one step; from it on, and not before, there is a store.
        was_store = [each["was_store"] for each in kills]
        assert was_store == sorted(was_store)
        assert not was_store[0]
        assert was_store[-1]


def test_the_command(honest, origin, tmp_path):
    run = CliRunner().invoke
    words = ["store", "pull", f"{honest.url}/s", str(tmp_path / "t"), "--limit", "50MB/s"]
    done = run(clipfeat, words)
    digest = FeatureStore.open(origin / "s").digest
    assert ": complete, " in done.stdout
    assert "bytes received; 17 records, digest" in done.stdout
    record = json.loads(run(clipfeat, [*words, "--json"]).stdout)
    assert record == {"store": str(tmp_path / "t"), "digest": digest, "received": 0}
    for rate in ("50", "fast", "5 MB", "-1MB/s"):
        assert run(clipfeat, [*words[:-1], rate]).exit_code == 2
