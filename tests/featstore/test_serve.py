"""A server of stores, asked by http.client and by raw sockets."""

import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from refused import refuses
from stores import extend_store, files_of, make_store

from clipfeat.base.errors import UsageError
from clipfeat.featstore import FeatureStore, convert, describe
from clipfeat.featstore.sharing import serve
from clipfeat.featstore.sharing.serve import StoreServer, wanted_range

RECORDS = {f"i{k}": np.full((2, 2, 4), k, np.float16) for k in range(6)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with two stores, and with much that is not to be served."""
    folder = tmp_path_factory.mktemp("lab") / "stores"
    folder.mkdir()
    (folder.parent / "secret.txt").write_text("secret")
    store = make_store(folder / "a b.clipfeat", RECORDS)
    (store / "README.md").write_text("# Read me")
    describe(store, {"title": "Title"})
    (store / "notes.txt").write_text("secret")
    (store / "LICENSE").write_text("not listed")
    (store / "store.json.minisig").write_text("signature")
    convert(FeatureStore.open(store), folder / "small.clipfeat", dtype="uint8")
    (folder / "file.txt").write_text("secret")
    (folder / "link.clipfeat").symlink_to(store)
    (folder / ".hidden").mkdir()
    make_store(folder / ".hidden/s", RECORDS)
    (folder / "broken").mkdir()
    (folder / "broken/store.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with StoreServer(folder, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def ask(server, path, method="GET", **headers):
    """Return (status, headers, body) of one request on a new connection."""
    connection = http.client.HTTPConnection(*server.server_address)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, answer.headers, answer.read()
    connection.close()
    return found


def test_the_list_has_the_stores_and_nothing_else(server, folder):
    status, headers, body = ask(server, "/")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    stores = json.loads(body)["stores"]
    digests = [
        FeatureStore.open(folder / name).digest for name in ("a b.clipfeat", "small.clipfeat")
    ]
    assert stores == [
        {"path": "/a%20b.clipfeat/", "digest": digests[0], "title": "Title", "records": 6},
        {"path": "/small.clipfeat/", "digest": digests[1], "title": None, "records": 6},
    ]


@pytest.mark.parametrize("name", ["a b.clipfeat", "small.clipfeat"])
def test_every_file_of_a_store_is_served_with_its_hash(server, folder, name):
    for file in files_of(folder / name):
        content = (folder / name / file).read_bytes()
        status, headers, body = ask(server, f"/{name.replace(' ', '%20')}/{file}")
        if file in ("notes.txt", "LICENSE") or (name[0] == "s" and file == "README.md"):
            assert status == 404, file
            continue
        assert (status, body) == (200, content), file
        assert headers["Accept-Ranges"] == "bytes"
        tag = None if file.endswith("sig") else f'"{hashlib.sha256(content).hexdigest()}"'
        assert headers["ETag"] == tag, file


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt", "/%2e%2e/secret.txt", "/a%20b.clipfeat/../../secret.txt",
        "/a%20b.clipfeat/..%2f..%2fsecret.txt", "/a%20b.clipfeat/%2e%2e/file.txt", "//etc/passwd",
        "/a%20b.clipfeat//etc/passwd", "/file.txt", "/link.clipfeat/store.json", "/.hidden/s/store.json",
        "/.hidden%2fs/store.json", "/broken/store.json", "/a%20b.clipfeat", "/a%20b.clipfeat/",
        "/a%20b.clipfeat/features.zarr/", "/a%20b.clipfeat/store.json/", "/a%20b.clipfeat/./store.json",
        "/a%20b.clipfeat/STORE.JSON", "/a%20b.clipfeat/store.json%00", "/a%00b/store.json", "/%ff/store.json",
        "/a%20b.clipfeat/journal/lock",
    ],
)  # fmt: skip
def test_nothing_else_can_be_read(server, path):
    status, _, body = raw(server, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status in (400, 404)
    assert b"secret" not in body


def raw(server, request):
    """Send bytes as they are; return status, head and body of the answer."""
    with socket.create_connection(("127.0.0.1", server.server_address[1])) as connection:
        connection.sendall(request.encode())
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head, body


def test_links_inside_a_store_are_not_followed(server, folder, tmp_path):
    store = folder / "small.clipfeat"
    shard = store / "features.zarr/2x2/grid/c.0.0.0.0"
    url = f"/small.clipfeat/{shard.relative_to(store)}"
    assert ask(server, url)[0] == 200
    shard.rename(tmp_path / "shard")
    shard.symlink_to(tmp_path / "shard")
    assert ask(server, url)[0] == 404
    shard.unlink()
    (tmp_path / "shard").rename(shard)
    shard.parent.rename(tmp_path / "grid")
    shard.parent.symlink_to(tmp_path / "grid")
    assert ask(server, url)[0] == 404
    shard.parent.unlink()
    (tmp_path / "grid").rename(shard.parent)
    assert ask(server, url)[0] == 200


class TestRanges:
    URL = "/a%20b.clipfeat/index.parquet"

    @pytest.fixture
    def content(self, folder):
        return (folder / "a b.clipfeat/index.parquet").read_bytes()

    @pytest.mark.parametrize(("first", "end"), [(0, 1), (0, 100), (5, 6), (100, None), (0, None)])
    def test_one_range(self, server, content, first, end):
        value = f"bytes={first}-{'' if end is None else end - 1}"
        status, headers, body = ask(server, self.URL, Range=value)
        assert (status, body) == (206, content[first:end])
        last = (len(content) if end is None else end) - 1
        assert headers["Content-Range"] == f"bytes {first}-{last}/{len(content)}"

    def test_beyond_the_end(self, server, content):
        size = len(content)
        assert ask(server, self.URL, Range=f"bytes=10-{size + 5}")[2] == content[10:]
        assert ask(server, self.URL, Range="bytes=-7")[2] == content[-7:]
        assert ask(server, self.URL, Range=f"bytes=-{size + 1}")[2] == content
        for value in (f"bytes={size}-", f"bytes={size}-{size + 3}", "bytes=-0"):
            status, headers, body = ask(server, self.URL, Range=value)
            assert (status, headers["Content-Range"], body) == (416, f"bytes */{size}", b"")

    @pytest.mark.parametrize(
        "value", ["bytes=0-1,4-5", "bytes=-", "bytes=5-2", "lines=0-1", "bytes=a-b"]
    )
    def test_what_is_not_one_range_gets_the_whole_file(self, server, content, value):
        status, headers, body = ask(server, self.URL, Range=value)
        assert (status, headers["Content-Range"], body) == (200, None, content)

    def test_only_of_the_file_that_the_client_has(self, server, content):
        tag = ask(server, self.URL)[1]["ETag"]
        assert ask(server, self.URL, Range="bytes=0-3", If_Range=tag)[2] == content[:4]
        assert ask(server, self.URL, Range="bytes=0-3", If_Range='"x"')[2] == content

    def test_head_has_the_headers_without_the_bytes(self, server, content):
        for ranges in ({}, {"Range": "bytes=2-5"}, {"Range": f"bytes={len(content)}-"}):
            status, headers, body = ask(server, self.URL, "HEAD", **ranges)
            got = ask(server, self.URL, **ranges)
            assert (status, body) == (got[0], b"")
            for name in ("Content-Length", "Content-Range", "ETag", "Accept-Ranges"):
                assert headers[name] == got[1][name]

    def test_sizes_of_no_bytes(self):
        assert wanted_range("bytes=0-", 0) == wanted_range("bytes=-5", 0) == range(0)
        assert wanted_range("", 0) is None


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_written(server, method):
    assert ask(server, "/a%20b.clipfeat/store.json", method)[0] == 501


def test_a_body_is_not_taken_for_the_next_request(server):
    smuggled = "GET /a%20b.clipfeat/README.md HTTP/1.1\r\nHost: x\r\n\r\n"
    first = f"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(smuggled)}\r\n\r\n"
    assert b"# Read me" not in raw(server, first + smuggled)[2]


def test_many_connections_at_once_stay_open(server, folder):
    content = (folder / "a b.clipfeat/shards.parquet").read_bytes()

    def ask_often(_):
        connection = http.client.HTTPConnection(*server.server_address)
        for first in range(20):
            connection.request(
                "GET", "/a%20b.clipfeat/shards.parquet", headers={"Range": f"bytes={first}-"}
            )
            assert connection.getresponse().read() == content[first:]
        connection.close()

    with ThreadPoolExecutor(32) as threads:
        list(threads.map(ask_often, range(32)))


def test_more_connections_than_threads_wait(folder, monkeypatch):
    monkeypatch.setattr(serve, "MAX_CONNECTIONS", 1)
    with StoreServer(folder, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with socket.create_connection(("127.0.0.1", server.server_address[1])) as first:
            first.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert first.recv(15) == b"HTTP/1.1 200 OK"
            second = socket.create_connection(("127.0.0.1", server.server_address[1]))
            second.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            second.settimeout(0.2)
            with pytest.raises(TimeoutError):
                second.recv(1)
        second.settimeout(None)
        assert second.recv(15) == b"HTTP/1.1 200 OK"
        second.close()
        server.shutdown()


def test_an_update_and_a_new_store_are_seen(tmp_path):
    store = make_store(tmp_path / "a", RECORDS)
    with StoreServer(tmp_path, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        new = extend_store(store, {**RECORDS, "new": RECORDS["i0"]})
        make_store(tmp_path / "b", RECORDS)
        assert ask(server, "/a/index.1.parquet")[0] == 200
        assert ask(server, "/a/index.parquet")[0] == 404
        stores = json.loads(ask(server, "/")[2])["stores"]
        assert [store["path"] for store in stores] == ["/a/", "/b/"]
        assert stores[0]["digest"] == new.digest
        server.shutdown()


def test_one_store_has_the_same_urls(folder):
    with StoreServer(folder / "a b.clipfeat", "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        assert ask(server, "/a%20b.clipfeat/store.json")[0] == 200
        assert ask(server, "/small.clipfeat/store.json")[0] == 404
        assert len(json.loads(ask(server, "/")[2])["stores"]) == 1
        server.shutdown()


def test_folders_and_addresses_that_cannot_be_used(folder, server, tmp_path):
    with refuses("E-SERVE-EMPTY", str(tmp_path), kind=UsageError):
        StoreServer(tmp_path, "127.0.0.1", 0)
    with refuses("E-SERVE-ADDRESS", "--host is empty", kind=UsageError):  # not every address
        StoreServer(folder, "", 0)
    with refuses("E-SERVE-ADDRESS", "--port", kind=UsageError):
        StoreServer(folder, *server.server_address)
    with refuses("E-SERVE-ADDRESS", kind=UsageError):
        StoreServer(folder, "203.0.113.1", 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_urls_and_ends_cleanly(folder, number):
    command = [sys.executable, "-m", "clipfeat.cli", "store", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        url, digest, title = child.stdout.readline().split()
        assert child.stdout.readline()
        assert (digest, title) == (FeatureStore.open(folder / "a b.clipfeat").digest[:16], "Title")
        host, port = url.removeprefix("http://").partition("/")[0].split(":")
        with socket.create_connection((host, int(port))):  # a client that stays
            os.kill(child.pid, number)
            rest, errors = child.communicate(timeout=60)
    assert (child.returncode, rest) == (0, "")
    assert f"not served: {folder}/broken/store.json" in errors
    assert "Traceback" not in errors
