"""An HTTP server on loopback that serves a folder, and makes one fault."""

import gzip
import os
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast
from urllib.parse import unquote, urlsplit

import pytest

from clipfeat.base import connections, ranges
from clipfeat.base.interruption import Interruption

RANGE = re.compile(r"bytes=([0-9]+)-([0-9]+)")


@dataclass
class Answer:
    """What the server sends; a fault changes it."""

    status: int
    headers: dict[str, str]
    body: bytes
    first: int = 0  # the byte of the file with which the body begins
    size: int = 0  # of the file
    sent: int | None = None  # bytes of the body until the connection ends; None: all
    resets: bool = False  # ends it with a reset
    stalls: bool = False  # sends nothing more, and does not end it
    trickles: bool = False  # sends byte after byte
    header_trickles: bool = False  # does not end its header, which it sends byte after byte

    def says(self, first: int, last: int) -> None:
        """State these bytes in Content-Range."""
        self.headers["Content-Range"] = f"bytes {first}-{last}/{self.size}"

    def shortened(self, length: int) -> None:
        """Send the first bytes only, and state their number."""
        self.body = self.body[:length]
        self.headers["Content-Length"] = str(len(self.body))

    def is_(self, status: int, **headers: str) -> None:
        """Answer with a status and a short page instead."""
        self.status, self.body = status, b"<html>no</html>"
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        self.headers = {"Content-Length": str(len(self.body)), **given}


# Changes an answer; the number counts the earlier requests for the same file.
Fault = Callable[[Answer, int], object]


def first(times: int, change: Callable[[Answer], object]) -> Fault:
    """Return a fault of the first few requests for each file."""
    return lambda answer, n: change(answer) if n < times else None


def always(change: Callable[[Answer], object]) -> Fault:
    """Return a fault of every request."""
    return lambda answer, n: change(answer)


def _cut(answer: Answer, *, resets: bool = False, keep: int = 2) -> None:
    answer.sent, answer.resets = len(answer.body) // keep, resets


def _cut_without_length(answer: Answer) -> None:
    del answer.headers["Content-Length"]
    answer.sent = len(answer.body) - 3


def _whole(answer: Answer, content: bytes) -> None:
    answer.status, answer.body = 200, content
    answer.headers = {"Content-Length": str(len(content))}


def _shifted(answer: Answer, *, lies: bool) -> None:
    answer.body = answer.body[1:] + b"\0"
    if not lies:
        answer.says(answer.first + 1, answer.first + len(answer.body))


def _short(answer: Answer, *, lies: bool) -> None:
    answer.shortened(len(answer.body) - 3)
    if not lies:
        answer.says(answer.first, answer.first + len(answer.body) - 1)


def _long(answer: Answer, *, length: bool) -> None:
    answer.body += b"more"
    answer.headers["Content-Length"] = str(len(answer.body))
    if not length:
        del answer.headers["Content-Length"]


def _zipped(answer: Answer) -> None:
    answer.body = gzip.compress(answer.body)
    answer.headers |= {"Content-Length": str(len(answer.body)), "Content-Encoding": "gzip"}


def _multipart(answer: Answer) -> None:
    part = f"--x\r\nContent-Range: {answer.headers.pop('Content-Range')}\r\n\r\n".encode()
    answer.body = part + answer.body + b"\r\n--x--\r\n"
    answer.headers["Content-Type"] = "multipart/byteranges; boundary=x"
    answer.headers["Content-Length"] = str(len(answer.body))


def _changed(answer: Answer, n: int) -> None:
    """End midway, and continue with another file."""
    answer.headers["ETag"] = f'"{n}"'
    if n:
        answer.body = bytes(255 - byte for byte in answer.body)
    else:
        answer.sent = len(answer.body) // 2


# {name: (fault, code of the error that a range must end with; "" for the right bytes; "wrong" for
# wrong bytes, which only a checksum can find)}
FAULTS: dict[str, tuple[Fault, str]] = {
    "503 twice": (first(2, lambda a: a.is_(503)), ""),
    "429, wait 1": (first(1, lambda a: a.is_(429, Retry_After="1")), ""),
    "429, wait 30": (first(1, lambda a: a.is_(429, Retry_After="30")), ""),
    "429, wait a day": (always(lambda a: a.is_(429, Retry_After="86400")), "E-REMOTE-BUSY"),
    "429 of the Hub": (first(1, lambda a: a.is_(429, RateLimit='"resolvers";r=0;t=55')), ""),
    "500 twice": (first(2, lambda a: a.is_(500)), ""),
    "503 always": (always(lambda a: a.is_(503)), "E-REMOTE-BUSY"),
    "500 always": (always(lambda a: a.is_(500)), "E-REMOTE-STATUS"),
    "401": (always(lambda a: a.is_(401)), "E-REMOTE-DENIED"),
    "403": (always(lambda a: a.is_(403)), "E-REMOTE-DENIED"),
    "404": (always(lambda a: a.is_(404)), "E-REMOTE-ABSENT"),
    "416": (always(lambda a: a.is_(416)), "E-REMOTE-SIZE"),
    "204": (always(lambda a: a.is_(204)), "E-REMOTE-ANSWER"),
    "reset before the body": (first(2, lambda a: _cut(a, resets=True, keep=10**9)), ""),
    "reset in the body": (first(2, lambda a: _cut(a, resets=True)), ""),
    "reset always": (always(lambda a: _cut(a, resets=True, keep=10**9)), "E-REMOTE-CONNECT"),
    "drop midway": (first(2, _cut), ""),
    "drop always": (always(lambda a: _cut(a, keep=10**9)), "E-REMOTE-CONNECT"),
    "no length and cut once": (first(1, _cut_without_length), ""),
    "no length and cut": (always(_cut_without_length), "E-REMOTE-CONNECT"),
    "short, honest range": (always(lambda a: _short(a, lies=False)), "E-REMOTE-RANGE"),
    "short, lying range": (always(lambda a: _short(a, lies=True)), "E-REMOTE-RANGE"),
    "shifted, honest range": (always(lambda a: _shifted(a, lies=False)), "E-REMOTE-RANGE"),
    "shifted, lying range": (always(lambda a: _shifted(a, lies=True)), "wrong"),
    "no Content-Range": (always(lambda a: a.headers.pop("Content-Range")), "E-REMOTE-RANGE"),
    "Range ignored": (always(lambda a: _whole(a, bytes(a.size))), "E-REMOTE-RANGE"),
    "long": (always(lambda a: _long(a, length=True)), "E-REMOTE-RANGE"),
    "long, no length": (always(lambda a: _long(a, length=False)), "E-REMOTE-SIZE"),
    "gzip always": (always(_zipped), "E-REMOTE-ENCODING"),
    "HTML with 200": (always(lambda a: a.is_(200, Content_Type="text/html")), "E-REMOTE-RANGE"),
    "multipart": (always(_multipart), "E-REMOTE-RANGE"),
    "a new ETag each time": (lambda a, n: a.headers.update(ETag=f'"{n}"'), ""),
    "drop, then another file": (_changed, "wrong"),
    "stall once": (first(1, lambda a: setattr(a, "stalls", True)), ""),
    "stall always": (always(lambda a: setattr(a, "stalls", True)), "E-REMOTE-CONNECT"),
    "trickle": (always(lambda a: setattr(a, "trickles", True)), "E-REMOTE-DEADLINE"),
    "trickle in the header": (
        always(lambda a: setattr(a, "header_trickles", True)),
        "E-REMOTE-DEADLINE",
    ),
}


@dataclass
class FaultServer:
    """Serves the files below `folder`; `fault` changes the answers for paths with `fault_on`."""

    folder: Path
    url: str = ""
    fault: Fault | None = None
    fault_on: str = ""
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)  # path, headers
    # Answers a request in its own way if it returns an answer.
    route: Callable[[str, dict[str, str]], Answer | None] = lambda path, headers: None
    ended: threading.Event = field(default_factory=threading.Event)

    def paths(self) -> Counter[str]:
        """Return how often each path was requested."""
        return Counter(path for path, _ in self.requests)

    def answer(self, target: str, headers: dict[str, str]) -> Answer:
        """Return what to send; `target` is a path with its query."""
        path = unquote(urlsplit(target).path)
        seen = self.paths()[path]
        self.requests.append((path, headers))
        answer = self.route(target, headers) or file_answer(self.folder / path[1:], headers)
        if self.fault is not None and self.fault_on in path and answer.status < 300:
            self.fault(answer, seen)
        return answer

    def reset(self) -> None:
        """Make no fault, and forget all requests."""
        self.fault, self.fault_on = None, ""
        self.route = lambda path, headers: None
        self.requests.clear()


def file_answer(path: Path, headers: dict[str, str]) -> Answer:
    """Return a file or the requested range of it, as an honest server sends it."""
    if not path.is_file():
        answer = Answer(404, {}, b"")
        answer.is_(404)
        return answer
    content = path.read_bytes()
    wanted = RANGE.fullmatch(headers.get("range", ""))
    if wanted is None:
        return Answer(200, {"Content-Length": str(len(content))}, content, 0, len(content))
    start, end = int(wanted[1]), min(int(wanted[2]) + 1, len(content))
    answer = Answer(206, {}, content[start:end], start, len(content))
    if start >= len(content):
        answer.is_(416)
        return answer
    answer.headers["Content-Length"] = str(end - start)
    answer.says(start, end - 1)
    return answer


def isolate(monkeypatch: pytest.MonkeyPatch, home: Path, waits: list[float]) -> None:
    """Forget connections, redirects and logins, and note waits between attempts, not waiting."""
    for variable in list(os.environ):
        if variable.lower().endswith("_proxy") or variable.startswith(("HF_", "XDG_", "CLIPFEAT_")):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(connections, "_hosts", {})
    monkeypatch.setattr(ranges, "_targets", {})
    monkeypatch.setattr(Interruption, "pause", lambda _, seconds: waits.append(seconds))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # which would hold back the body for 40 ms

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        faults = cast(_Server, self.server).faults
        answer = faults.answer(self.path, headers)
        if answer.header_trickles:
            self.wfile.write(b"HTTP/1.1 206 Partial Content\r\nX-Name: ")
            while not faults.ended.wait(0.005):
                self.wfile.write(b"x")
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in answer.headers:
            self.send_header("Connection", "close")
        self.end_headers()
        if answer.stalls:
            faults.ended.wait(30)
        if answer.trickles:
            for k in range(len(answer.body)):
                self.wfile.write(answer.body[k : k + 1])
                if faults.ended.wait(0.005):
                    break
            return
        body = answer.body if answer.sent is None else answer.body[: answer.sent]
        self.wfile.write(body)
        if answer.sent is not None or answer.stalls:
            self.close_connection = True
        if answer.resets:  # a reset, and not an end: RST at once
            self.wfile.flush()
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    faults: FaultServer

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that leave are part of the tests


@contextmanager
def serving(folder: Path, host: str = "127.0.0.1") -> Iterator[FaultServer]:
    """Serve a folder on loopback while the block runs."""
    with _Server((host, 0), _Handler) as server:
        server.faults = FaultServer(folder, f"http://{host}:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server.faults
        finally:
            server.faults.ended.set()
            server.shutdown()
            thread.join()
