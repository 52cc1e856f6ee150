"""One Ctrl-C ends a command whose threads wait for a server, for minutes if nobody ended them."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from fault_server import FAULTS, always, serving
from stores import files_of, make_store

BUSY = always(lambda answer: answer.is_(429, Retry_After="300"))
SILENT = FAULTS["stall always"][0]  # for 30 seconds
ENDS = 20  # seconds, much less than all of these waits


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("served")) as server:
        grids = {f"i{k}": np.full((2, 2, 8), k, np.float16) for k in range(8)}
        make_store(server.folder / "s", grids, shard_size=4)
        yield server


@pytest.mark.parametrize(
    ("fault", "seen", "command", "arguments"),
    [
        (BUSY, 2, "stats", []),
        (SILENT, 1, "pull", ["t"]),
        pytest.param(BUSY, 2, "pull", ["t"], marks=pytest.mark.slow),
        pytest.param(BUSY, 2, "verify", ["--deep"], marks=pytest.mark.slow),
        pytest.param(BUSY, 2, "reshard", ["t", "--shard-size", "2"], marks=pytest.mark.slow),
        pytest.param(BUSY, 2, "convert", ["t", "--dtype", "uint8"], marks=pytest.mark.slow),
        pytest.param(SILENT, 1, "stats", [], marks=pytest.mark.slow),
    ],
)
def test_one_ctrl_c_ends_the_command(server, tmp_path, fault, seen, command, arguments):
    server.reset()
    server.fault, server.fault_on = fault, "/c."
    store = [sys.executable, "-m", "clipfeat.cli", "store", command, f"{server.url}/s"]
    environment = {**os.environ, "CLIPFEAT_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    with subprocess.Popen(
        [*store, *arguments], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        while sum("/c." in path for path, _ in server.requests) < seen and process.poll() is None:
            time.sleep(0.02)
        time.sleep(0.3)  # the answers are read, and the threads wait
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=ENDS)
        finally:
            process.kill()
    assert process.returncode == 130, errors
    assert "Interrupted" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert not (tmp_path / "t/store.json").exists()
    server.reset()
    if command == "pull":  # and the same command again continues
        again = subprocess.run([*store, *arguments], cwd=tmp_path, env=environment)
        assert again.returncode == 0
        assert files_of(tmp_path / "t") == files_of(server.folder / "s")
