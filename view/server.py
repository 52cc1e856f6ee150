"""Serve the explorer on this machine alone, until Ctrl-C."""

import contextlib
import logging
import os
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from typing import Any

import uvicorn

from ..base.errors import UsageError, reason_of
from ..base.interruption import interrupt
from .app import Access, make_app
from .explorer import Explorer

HOST = "127.0.0.1"  # nothing else can be chosen: the server has no login for other machines
GRACE_SECONDS = 2  # for answers under way when the server ends


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it accepts connections, and ends quietly and at once."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]):
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End; threads that wait for the server of a store would wait for minutes."""
        interrupt()
        logging.getLogger("uvicorn.error").disabled = True  # it names answers that are cut off
        await super().shutdown(sockets)


def listen(port: int) -> socket.socket:
    """Return a socket that listens on this machine; port 0 is any free one.

    Raises UsageError (E-VIEW-PORT) for a port that is taken or not allowed.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {HOST}, port {port} ({reason_of(error)}); choose another --port, or "
            f"--port 0 for any free one",
            code="E-VIEW-PORT",
        ) from None
    return listener


def serve(
    explorer: Explorer, listener: socket.socket, *, browser: bool, tell: Callable[[str], Any]
) -> None:
    """Answer on a listening socket until Ctrl-C or SIGTERM; `tell` gets the address.

    With `browser` the page is opened in one, where there is one with windows. Raises
    KeyboardInterrupt when it is ended.
    """
    port = listener.getsockname()[1]
    access = Access(port, secrets.token_urlsafe(32))
    address = f"http://{HOST}:{port}/?token="

    def ready() -> None:
        tell(address + access.token)
        if browser and has_windows():
            opened = threading.Thread(target=_open, args=(address + access.ticket(),), daemon=True)
            opened.start()

    config = uvicorn.Config(
        make_app(explorer, access),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        http="h11",
        timeout_graceful_shutdown=GRACE_SECONDS,
        limit_concurrency=256,
    )
    with listener:
        _Server(config, ready).run(sockets=[listener])


def has_windows() -> bool:
    """Return whether this process can open windows; a browser in the terminal is of no use."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open(url: str) -> None:
    with contextlib.suppress(webbrowser.Error, OSError):
        webbrowser.open(url)
