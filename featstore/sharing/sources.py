"""The servers that a store is pulled from: its URL and mirrors that must have the same digest."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import TypeVar

from ...base.errors import CorruptStoreError, StoreError
from ...base.ranges import read_file
from ...base.remote import RemoteFolder
from ..layout import STORE_JSON
from ..metadata import MAX_STORE_JSON_BYTES, StoreMetadata, is_canonical, parse_metadata

T = TypeVar("T")
logger = logging.getLogger(__name__)

# Errors that a connection or a server may recover from, and the seconds before each new attempt.
TEMPORARY = ("E-REMOTE-CONNECT", "E-REMOTE-BUSY", "E-REMOTE-STATUS", "E-REMOTE-DEADLINE")
PATIENCE = (10, 30, 60, 120, 240)


@dataclass
class _Rest:
    """When a server that has failed is asked again."""

    failures: int = 0  # one after the other
    end: float = 0.0  # in time.monotonic()


class Sources:
    """The servers that may still have the store. Safe to share between threads.

    One that gives wrong bytes is named in the log and not asked again; one that does not answer, or is
    overloaded, is asked again after a rest.
    """

    def __init__(self, folders: Sequence[RemoteFolder], text: bytes, metadata: StoreMetadata):
        """Use `Sources.open`. `text` is the store.json of the first of them."""
        self._folders = list(folders)
        self._rests = {folder: _Rest() for folder in folders}
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
                    sources._rests[folder] = _Rest()
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

        Different turns begin with different servers; those that rest come last. Raises an error that may
        be temporary, if there is one, otherwise that of the last server.
        """
        failures: list[StoreError] = []
        for folder in self._order(turn):
            try:
                result = fetch(folder)
            except StoreError as error:
                failures.append(error)
                self._note_failure(folder, error)
            else:
                self._rests[folder].failures = 0
                return result
        raise next((each for each in failures if each.code in TEMPORARY), failures[-1])

    def _order(self, turn: int) -> list[RemoteFolder]:
        """Return the servers in the order in which they are asked."""
        with self._lock:
            now = monotonic()
            awake = [folder for folder in self._folders if self._rests[folder].end <= now]
            resting = [folder for folder in self._folders if folder not in awake]
        start = turn % len(awake) if awake else 0
        return [*awake[start:], *awake[:start], *resting]

    def _note_failure(self, folder: RemoteFolder, error: StoreError) -> None:
        """Let a server rest, or remove it, unless it is the only one."""
        with self._lock:
            rest, now = self._rests[folder], monotonic()
            if self._folders == [folder] or folder not in self._folders:
                return
            if error.code not in TEMPORARY:
                self._folders.remove(folder)
                logger.warning(f"not used any more: {error}")
            elif rest.end <= now:  # it is the first thread that fails
                seconds = PATIENCE[min(rest.failures, len(PATIENCE) - 1)]
                rest.failures += 1
                rest.end = now + seconds
                logger.warning(f"not used for {seconds} seconds: {error}")


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
