"""The servers that a store is pulled from: its URL and mirrors that must have the same digest."""

import logging
from collections.abc import Callable, Sequence
from threading import Lock
from typing import TypeVar

from ...base.errors import CorruptStoreError, StoreError
from ...base.ranges import read_file
from ...base.remote import RemoteFolder
from ..layout import STORE_JSON
from ..metadata import MAX_STORE_JSON_BYTES, StoreMetadata, is_canonical, parse_metadata

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Sources:
    """The servers that have not failed yet. Safe to share between threads.

    A server that does not answer, or gives wrong bytes, is named in the log and not asked again.
    """

    def __init__(self, folders: Sequence[RemoteFolder], text: bytes, metadata: StoreMetadata):
        """Use `Sources.open`. `text` is the store.json of the first of them."""
        self._folders = list(folders)
        self._lock = Lock()
        self.text = text
        self.metadata = metadata

    @classmethod
    def open(cls, urls: Sequence[str]) -> "Sources":
        """Read and check store.json at each URL; the first that can be read determines the digest.

        Raises StoreError if there is none, or for a URL that is not valid.
        """
        sources: Sources | None = None
        errors: list[StoreError] = []
        for url in urls:
            try:
                folder = RemoteFolder.open(url)
                text, metadata = _read_store_json(folder)
                if sources is None:
                    sources = cls([folder], text, metadata)
                elif metadata.digest == sources.metadata.digest:
                    sources._folders.append(folder)
                else:
                    raise StoreError(
                        f"{folder.location} has another store, with the digest {metadata.digest}; "
                        f"expected {sources.metadata.digest}",
                        code="E-PULL-MIRROR",
                    )
            except StoreError as error:
                if error.code == "E-REMOTE-URL":
                    raise
                errors.append(error)
        if sources is None:
            raise errors[0]
        for error in errors:
            logger.warning(f"not used: {error}")
        return sources

    def try_each(self, fetch: Callable[[RemoteFolder], T], turn: int = 0) -> T:
        """Return what `fetch` returns for a server; if it raises StoreError, try the next one.

        Different turns begin with different servers. Raises the error of the last server.
        """
        while True:
            with self._lock:
                folder = self._folders[turn % len(self._folders)]
            try:
                return fetch(folder)
            except StoreError as error:
                with self._lock:
                    if self._folders == [folder]:
                        raise
                    if folder in self._folders:
                        self._folders.remove(folder)
                        logger.warning(f"not used any more: {error}")


def _read_store_json(folder: RemoteFolder) -> tuple[bytes, StoreMetadata]:
    shown = f"{folder.location}/{STORE_JSON}"
    text = read_file(folder.url(STORE_JSON), MAX_STORE_JSON_BYTES)
    metadata = parse_metadata(text, shown)
    if not is_canonical(text):
        raise CorruptStoreError(
            f"{shown}: is not the canonical form of its content; tell whoever keeps the server",
            code="E-STORE-JSON",
        )
    return text, metadata
