"""Servers on loopback: nginx, or `clipfeat store serve` where that is not installed; a slow link.

Each is a process of its own: what a client computes is measured without them.
"""

import math
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
START_SECONDS = 30
TEMPORARY = "".join(
    f"    {kind}_temp_path {{scratch}}/{kind};\n"
    for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)
NGINX_CONFIG = f"""\
daemon off;
master_process off;
pid {{scratch}}/nginx.pid;
events {{{{ worker_connections 1024; }}}}
http {{{{
    access_log {{scratch}}/access.log;
    sendfile on;
    keepalive_requests 1000000;
{TEMPORARY}\
    server {{{{ listen 127.0.0.1:{{port}}; root {{folder}}; }}}}
}}}}
"""


@dataclass(frozen=True)
class Server:
    """A server that is running."""

    name: str
    port: int
    log: Path | None  # a line for each request

    @property
    def url(self) -> str:
        """The URL of the server, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    def requests(self) -> float:
        """Return how many requests were answered so far; NaN for a server without a log."""
        return math.nan if self.log is None else self.log.read_bytes().count(b"\n")


@contextmanager
def serving(folder: Path, scratch: Path) -> Iterator[Server]:
    """Serve a folder of stores while the block runs; `scratch` is an empty folder for nginx."""
    port = _free_port()
    nginx = shutil.which("nginx", path=PROGRAMS)
    if nginx is None:
        serve = [*_python("clipfeat.cli"), "store", "serve", str(folder), "--port", str(port)]
        with _running(serve, port):
            yield Server("store serve", port, None)
        return
    config = scratch / "nginx.conf"
    config.write_text(NGINX_CONFIG.format(scratch=scratch, folder=folder, port=port))
    command = [nginx, "-p", str(scratch), "-c", str(config), "-e", str(scratch / "error.log")]
    with _running(command, port):
        yield Server("nginx", port, scratch / "access.log")


@contextmanager
def slow_link(server: Server, *, latency: float = 0.0, rate: float = math.inf) -> Iterator[str]:
    """Yield a URL of a server behind a link with `latency` seconds a request and `rate` bytes/s."""
    port = _free_port()
    numbers = map(str, (port, server.port, latency, rate))
    with _running([*_python("benchmarks.share.link"), *numbers], port):
        yield f"http://127.0.0.1:{port}"


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def _running(command: Sequence[str], port: int) -> Iterator[None]:
    """Run a server while the block runs; the block begins when it takes connections."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + START_SECONDS
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{command[0]} does not serve on port {port}")
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
