"""Serve stores over HTTP, read-only, for a lab's own network or behind its proxy.

A request names a store and one of its files. Both are looked up among the names that the store's own
tables give, so that no request can lead anywhere else.
"""

import hashlib
import json
import logging
import os
import re
import socket
import socketserver
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any, BinaryIO, NamedTuple, cast
from urllib.parse import quote, unquote

from ...base.errors import StoreError, UsageError, reason_of
from ...base.files import open_plain, read_bytes
from ..layout import CROISSANT, SIGNATURES, STORE_JSON, check_folder, table_file
from ..lookup import Status
from ..metadata import MAX_STORE_JSON_BYTES, StoreMetadata, read_metadata
from ..tables import read_shards
from .outgoing import file_hashes

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 512  # each has a thread; more wait until one ends
IDLE_SECONDS = 60.0  # after which a silent connection is closed
RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")


class ServedStore(NamedTuple):
    """A store as it was when its store.json was read."""

    path: Path
    metadata: StoreMetadata
    files: dict[str, str]  # that may be read, to their sha256, "" where it is not known

    @classmethod
    def read(cls, path: Path) -> "ServedStore":
        """Read store.json and the packing list; StoreError or OSError if they cannot be used."""
        check_folder(path)
        metadata = read_metadata(path)
        shards = read_shards(path / table_file("shards", metadata.generation), metadata)
        own = hashlib.sha256(read_bytes(path / STORE_JSON, MAX_STORE_JSON_BYTES)).hexdigest()
        beside = dict.fromkeys((*SIGNATURES, CROISSANT), "")
        files = {STORE_JSON: own, **beside, **metadata.documents}
        files |= file_hashes(metadata, shards)
        return cls(path, metadata, files)

    def open(self, name: str) -> BinaryIO:
        """Open one of `files`; StoreError or OSError for a link, also in the place of a folder."""
        path = self.path / name
        for folder in [*Path(name).parents][:-1]:
            check_folder(self.path / folder)
        return os.fdopen(open_plain(path), "rb")


class ServedStores:
    """The stores in a folder, or the one store that it is, by the name of their folder."""

    def __init__(self, folder: Path):
        folder = folder.absolute()
        self._is_store = (folder / STORE_JSON).is_file()
        self._folder = folder.parent if self._is_store else folder
        self._own_name = folder.name
        self._read: dict[str, tuple[tuple[int, ...], ServedStore | None]] = {}

    def __iter__(self) -> Iterator[tuple[str, ServedStore]]:
        """Iterate over (name, store), by name; a store that was added later counts too."""
        names = (
            [self._own_name]
            if self._is_store
            else sorted(path.name for path in self._folder.iterdir())
        )
        for name in names:
            store = self.get(name)
            if store is not None:
                yield name, store

    def get(self, name: str) -> ServedStore | None:
        """Return the store of this name, None if there is none that can be read.

        It is read again when its store.json has changed.
        """
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            return None
        if self._is_store and name != self._own_name:
            return None
        path = self._folder / name
        try:
            status = (path / STORE_JSON).lstat()
        except OSError:
            return None
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        known = self._read.get(name)
        if known is None or known[0] != version:
            known = self._read[name] = (version, self._try_read(path))
        return known[1]

    @staticmethod
    def _try_read(path: Path) -> ServedStore | None:
        try:
            return ServedStore.read(path)
        except (StoreError, OSError) as error:
            logger.warning(f"not served: {error}")
            return None

    def to_json(self) -> dict[str, Any]:
        """Return the list of stores for clients."""
        stores = [
            {
                "path": f"/{quote(name)}/",
                "digest": store.metadata.digest,
                "title": store.metadata.about.title,
                "records": store.metadata.counts[Status.OK],
            }
            for name, store in self
        ]
        return {"stores": stores}


class StoreServer(socketserver.ThreadingTCPServer):
    """An HTTP server of stores. `serve_forever` serves them; a thread answers each connection."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path, host: str, port: int):
        """Listen on `host`; port 0 is any free one.

        Raises UsageError if there is no store in `folder`, or if the address cannot be used.
        """
        self.stores = ServedStores(folder)
        if not any(True for _ in self.stores):
            raise UsageError(
                f"{folder}: no store to serve; pass a store, or a folder that holds stores",
                code="E-SERVE-EMPTY",
            )
        if not host:  # the system would listen on every address
            raise UsageError(
                "--host is empty; give the address to listen on, such as 127.0.0.1",
                code="E-SERVE-ADDRESS",
            )
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._slots = BoundedSemaphore(MAX_CONNECTIONS)
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise UsageError(
                f"cannot listen on {host}, port {port} ({reason_of(error)}); choose another --port "
                f"or --host",
                code="E-SERVE-ADDRESS",
            ) from None

    @property
    def url(self) -> str:
        """The URL of the server, without a slash at its end."""
        host, port, *_ = cast(tuple[str, int], self.server_address)
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread, as soon as there are fewer than MAX_CONNECTIONS."""
        self._slots.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a connection, in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log the error of a connection, which ends; the server continues."""
        logger.debug(f"the connection of {client_address} has failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "clipfeat", ""
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True  # it would hold back the end of a file that follows its headers
    error_message_format = "%(code)d %(message)s\n"
    error_content_type = "text/plain"

    def do_GET(self) -> None:
        """Send the list of stores, a file of a store, or a part of it."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Send the headers that GET sends."""
        self._answer(body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Log a request for developers."""
        logger.debug(format, *args)

    def _answer(self, *, body: bool) -> None:
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # what follows would be taken for the next request
        try:
            self._route(self.path.partition("?")[0], body=body)
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the client has left

    def _route(self, path: str, *, body: bool) -> None:
        stores = cast(StoreServer, self.server).stores
        if path == "/":
            content = json.dumps(stores.to_json(), indent=1).encode()
            self._start(HTTPStatus.OK, {"Content-Type": "application/json"}, len(content))
            if body:
                self.wfile.write(content)
            return
        folder, _, name = path.removeprefix("/").partition("/")
        store, name = stores.get(unquote(folder)), unquote(name)
        if store is None or name not in store.files:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            file = store.open(name)
        except (StoreError, OSError):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with file:
            self._send_file(file, store.files[name], body=body)

    def _send_file(self, file: BinaryIO, sha256: str, *, body: bool) -> None:
        size = os.fstat(file.fileno()).st_size
        tag = f'"{sha256}"' if sha256 else ""
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        if tag:
            headers["ETag"] = tag
        wanted = None
        if self.headers.get("If-Range", tag) == tag:
            wanted = wanted_range(self.headers.get("Range", ""), size)
        if wanted is None:
            wanted = range(size)
            self._start(HTTPStatus.OK, headers, size)
        elif not wanted:
            headers["Content-Range"] = f"bytes */{size}"
            self._start(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers, 0)
        else:
            headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{size}"
            self._start(HTTPStatus.PARTIAL_CONTENT, headers, len(wanted))
        if body and wanted:
            sent = self.connection.sendfile(file, wanted.start, len(wanted))
            if sent != len(wanted):
                self.close_connection = True  # the file was truncated in the meantime

    def _start(self, status: HTTPStatus, headers: Mapping[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()


def wanted_range(header: str, size: int) -> range | None:
    """Return the bytes that a Range header asks for, of a file of `size` bytes.

    None stands for the whole file: without a header, for one that is not valid, and for several
    ranges, as RFC 9110 allows. An empty range cannot be satisfied.

    >>> wanted_range("bytes=2-", 10), wanted_range("bytes=-3", 10), wanted_range("bytes=10-", 10)
    (range(2, 10), range(7, 10), range(0, 0))
    """
    match = RANGE.fullmatch(header)
    if match is None or match[0] == "bytes=-":
        return None
    if not match[1]:
        return range(max(0, size - int(match[2])), size)
    first, end = int(match[1]), int(match[2] or size) + 1
    if end <= first:
        return None if match[2] else range(0)
    return range(first, min(end, size)) if first < size else range(0)
