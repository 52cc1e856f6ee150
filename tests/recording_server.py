"""An HTTP server on loopback that keeps what clients write in memory; for S3 and for the Hub."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit


class Request(NamedTuple):
    """What a client sends."""

    method: str
    path: str  # decoded, with its slash
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    body: bytes


class Reply(NamedTuple):
    """What the server answers."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


RANGE = re.compile(r"bytes=([0-9]+)-([0-9]+)")


def content_reply(request: Request, content: bytes, headers: dict[str, str]) -> Reply:
    """Return the answer to a GET or HEAD of a file, or of a range of it."""
    wanted, size = RANGE.fullmatch(request.headers.get("range", "")), len(content)
    if wanted is None:
        return Reply(200, content, headers)
    start, end = int(wanted[1]), min(int(wanted[2]) + 1, size)
    if start >= size:
        return Reply(416)
    content_range = f"bytes {start}-{end - 1}/{size}"
    return Reply(206, content[start:end], {**headers, "Content-Range": content_range})


class RecordingServer(ThreadingHTTPServer):
    """Answers by `reply`, which a subclass has; one request after the other."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[Request] = []
        self.lock = threading.Lock()

    def reply(self, request: Request) -> Reply:
        """Return the answer to a request."""
        raise NotImplementedError

    def writes(self) -> list[Request]:
        """Return the requests that change something."""
        return [request for request in self.requests if request.method not in ("GET", "HEAD")]

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that leave, which is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        server = self.server
        assert isinstance(server, RecordingServer)
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self._chunks() if "transfer-encoding" in headers else self._body(headers)
        parts = urlsplit(self.path)
        query = {name: v[0] for name, v in parse_qs(parts.query, keep_blank_values=True).items()}
        request = Request(self.command, unquote(parts.path), query, headers, body)
        with server.lock:
            reply = server.reply(request)
            server.requests.append(request)
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

    def _body(self, headers: dict[str, str]) -> bytes:
        return self.rfile.read(int(headers.get("content-length", 0)))

    def _chunks(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextmanager
def running(server: RecordingServer) -> Iterator[None]:
    """Serve while the block runs."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
