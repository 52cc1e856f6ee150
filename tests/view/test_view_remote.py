"""A store behind a URL in the explorer, and a server that falls silent."""

import http.client
import signal
import threading
import time
from contextlib import closing

import numpy as np
import pytest
from explorers import client_of, started
from fault_server import FAULTS, isolate, serving
from stores import make_store

SILENT = FAULTS["stall always"][0]  # for 30 seconds
ENDS = 20  # seconds, less than that


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path / "served") as server:
        grids = {f"i{k}": np.full((2, 2, 8), k + 1, np.float16) for k in range(8)}
        make_store(server.folder / "s", grids, shard_size=1)
        yield server


def test_a_store_at_a_url_is_viewed_as_one_on_the_disk(server, tmp_path, monkeypatch):
    isolate(monkeypatch, tmp_path, [])
    far, near = client_of(f"{server.url}/s"), client_of(server.folder / "s")
    for path, query in (
        ("ids", {}), ("record", {"id": "i3"}), ("colours", {"id": "i3"}),
        ("similar", {"id": "i3", "cell": 1}), ("nearest/cells", {"id": "i3", "cell": 1}),
        ("nearest/images", {"id": "i3"}),
    ):  # fmt: skip
        assert far.get(path, store="a", **query) == near.get(path, store="a", **query)


def test_bytes_that_a_server_has_changed_are_an_error_of_their_record(
    server, tmp_path, monkeypatch
):
    isolate(monkeypatch, tmp_path, [])
    client = client_of(f"{server.url}/s")
    for shard in sorted((server.folder / "s").rglob("c.*")):
        shard.write_bytes(bytes(len(shard.read_bytes())))
    error = client.get("record", 422, store="a", id="i3")
    assert error["id"] == "i3"


def test_ctrl_c_ends_it_while_a_server_is_silent(server, tmp_path):
    home = {"CLIPFEAT_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    with started(f"{server.url}/s", "--port", 0, **home) as (process, port, token):
        server.fault, server.fault_on = SILENT, "/c."

        def ask() -> None:
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
                path = "/api/record?store=a&id=i3"
                connection.request("GET", path, headers={"X-Clipfeat-Token": token})
                connection.sock.recv(1)

        asking = threading.Thread(target=ask)
        asking.start()
        while not any("/c." in path for path, _ in server.requests):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=ENDS)
        asking.join()
    assert "Traceback" not in errors
    assert process.returncode == 0
