"""Connections to web servers: kept for each process, through the proxy of the environment.

A forked child opens connections of its own. Those that it inherits stay untouched: their locks may
have been held by a thread that the child does not have.
"""

import os
from typing import NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError

from . import clipfeat_version
from .credentials import authorization, origin
from .errors import StoreError
from .text import printable

CONNECTIONS = 64  # kept open to a host
MAX_HOSTS = 256  # known at a time; a server may redirect to any number of them


class Host(NamedTuple):
    """What requests to one host need."""

    pool: urllib3.PoolManager
    user_agent: str
    authorization: str | None


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
