"""Connections to web servers: kept for each process, through the proxy of the environment.

A forked child opens connections of its own. Those that it inherits stay untouched: their locks may
have been held by a thread that the child does not have.
"""

import io
import os
import socket
from contextvars import ContextVar
from dataclasses import dataclass
from http.client import HTTPResponse
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from . import clipfeat_version
from .credentials import authorization, origin
from .errors import StoreError
from .interruption import STEP_SECONDS, Interruption
from .text import printable

CONNECTIONS = 64  # kept open to a host
MAX_HOSTS = 256  # known at a time; a server may redirect to any number of them


@dataclass
class Patience:
    """How long a server may take."""

    silence: float  # seconds between two packets
    end: float  # of everything, in time.monotonic()
    interruption: Interruption

    def left(self) -> float:
        """Return how many seconds a server may be silent now; 0 or less: it took too long."""
        return min(self.silence, self.end - monotonic())


_patience: ContextVar[Patience] = ContextVar("patience")  # of the request that is made


class _PatientStream(io.RawIOBase):
    """What a server sends, until its patience ends.

    The timeout of a socket is that of one packet, and http.client reads a header to its end: a
    server that sends it byte by byte would hold the request for hours.
    """

    def __init__(self, inner: io.BufferedIOBase, sock: socket.socket, patience: Patience):
        self._inner = inner  # keeps the socket open
        self._sock = sock
        self._patience = patience

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there; raise TimeoutError, or Stopped after an interruption."""
        end = monotonic() + self._patience.left()
        while (left := end - monotonic()) > 0:
            self._patience.interruption.check()
            self._sock.settimeout(min(STEP_SECONDS, left))
            try:
                return self._sock.recv_into(buffer)
            except TimeoutError:
                continue
        raise TimeoutError("timed out")

    def close(self) -> None:
        self._inner.close()
        super().close()


class _Response(HTTPResponse):
    """An answer, also that of a proxy, which is read with the patience of its request."""

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any):
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_PatientStream(self.fp, sock, _patience.get()))


class _Connection(HTTPConnection):
    response_class = _Response


class _SecureConnection(HTTPSConnection):
    response_class = _Response


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection  # type: ignore[reportAssignmentType]


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection  # type: ignore[reportAssignmentType]


class Host(NamedTuple):
    """What requests to one host need."""

    pool: urllib3.PoolManager
    user_agent: str
    authorization: str | None

    def get(
        self, url: str, headers: dict[str, str], patience: Patience
    ) -> urllib3.BaseHTTPResponse:
        """Send one request, and return the answer, whose content is not read yet."""
        seconds = max(patience.left(), 0.001)  # urllib3 refuses 0
        token = _patience.set(patience)
        try:
            return self.pool.request(
                "GET",
                url,
                headers=headers,
                preload_content=False,
                decode_content=False,
                redirect=False,
                retries=False,
                timeout=urllib3.Timeout(connect=seconds, read=seconds),
            )
        finally:
            _patience.reset(token)


_hosts: dict[tuple[int, tuple[str, str, int]], Host] = {}  # by process and origin


def host_of(url: str) -> Host:
    """Return the connections of this process to the host of a URL."""
    key = os.getpid(), origin(url)
    host = _hosts.get(key)
    if host is None:
        if len(_hosts) >= MAX_HOSTS:
            _hosts.clear()
        user_agent = f"clipfeat/{clipfeat_version()}"
        host = _hosts.setdefault(key, Host(_new_pool(url), user_agent, authorization(url)))
    return host


def forget_host(url: str) -> None:
    """Make the next request to the host of a URL read the login again, which may have changed."""
    _hosts.pop((os.getpid(), origin(url)), None)


def _new_pool(url: str) -> urllib3.PoolManager:
    """Return a pool of connections whose answers end in time."""
    pool = _new_manager(url)
    pool.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
    return pool


def _new_manager(url: str) -> urllib3.PoolManager:
    """Return a pool that uses the proxy of the environment, as far as no_proxy lets it."""
    scheme, host, _ = origin(url)
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or proxy_bypass(host):
        return urllib3.PoolManager(maxsize=CONNECTIONS)
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    login = None
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    headers = urllib3.make_headers(proxy_basic_auth=login) if login else None
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    try:
        return urllib3.ProxyManager(address, maxsize=CONNECTIONS, proxy_headers=headers)
    except (HTTPError, ValueError):
        raise StoreError(
            f"the proxy of the environment is not an HTTP proxy; correct {scheme}_proxy, or list "
            f"{printable(host)} in no_proxy",
            code="E-REMOTE-PROXY",
        ) from None


def give_back(response: urllib3.BaseHTTPResponse) -> None:
    """Keep the connection of an answer without a content that matters, if it has little of it."""
    try:
        response.read1(1 << 12, decode_content=False)
        if response.length_remaining == 0:
            response.release_conn()
    except (HTTPError, OSError):
        pass
    response.close()


def failure_text(error: Exception) -> str:
    """Return the kind of a failure and the system's reason; urllib3's texts may name signed URLs."""
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    system = isinstance(cause, OSError) and cause.strerror
    return printable(system or type(cause).__name__)[:200]
