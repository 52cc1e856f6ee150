"""Explorers of made-up stores, and a client that asks them without a socket."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.testclient import TestClient

from clipfeat.view.app import Access, make_app
from clipfeat.view.explorer import Explorer
from clipfeat.view.open import open_explorer

PORT, TOKEN = 4321, "the-token"


class Client:
    """Asks an explorer, with the token."""

    def __init__(self, explorer: Explorer):
        self.http = TestClient(
            make_app(explorer, Access(PORT, TOKEN)),
            base_url=f"http://127.0.0.1:{PORT}",
            headers={"x-clipfeat-token": TOKEN},
            follow_redirects=False,
        )

    def get(self, path: str, expected: int = 200, /, **query: Any) -> Any:
        """Return the JSON of an answer that has this status."""
        answer = self.http.get(f"/api/{path}", params=query)
        assert answer.status_code == expected, answer.text
        return answer.json()

    def refused(self, path: str, expected: int, /, **query: Any) -> str:
        """Return the code of an error."""
        error = self.get(path, expected, **query)
        assert error["error"]
        return error["code"]


def client_of(*stores: Path | str, **options: Any) -> Client:
    """Return a client of an explorer of some stores."""
    return Client(open_explorer(stores, **options))


@contextmanager
def started(
    *arguments: object, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    """Start `clipfeat view` with more of an environment; give its process, port and token."""
    command = [sys.executable, "-m", "clipfeat.cli", "view", *map(str, arguments)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "DISPLAY": "", "WAYLAND_DISPLAY": "", **environment},
    ) as process:
        try:
            assert process.stdout is not None
            address = urlsplit(process.stdout.readline().strip())
            assert address.hostname == "127.0.0.1"
            assert address.port is not None
            yield process, address.port, address.query.removeprefix("token=")
        finally:
            process.kill()
