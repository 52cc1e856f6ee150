"""A bounded folder of files from elsewhere, named by hashes, so that stores and mirrors share them.

Any number of processes may use it at the same time: a file gets its name when it is whole, and
whoever reads one checks it. Killed processes leave only files that are removed as the oldest.
"""

import contextlib
import hashlib
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..base.errors import CorruptStoreError, StoreError, UsageError, reason_of
from ..base.files import is_plain, read_bytes, sha256_file

logger = logging.getLogger(__name__)

FOLDER_VARIABLE, SIZE_VARIABLE = "CLIPFEAT_CACHE", "CLIPFEAT_CACHE_GB"
DEFAULT_GB = 10.0
PART = 32  # a process looks at the folder's size after it has written this part of the limit
ROOM = 0.9  # of the limit, to which the folder is reduced when it exceeds it
FOLDER = re.compile("[0-9a-f]{2}")
FILE = re.compile(r"[0-9a-f]{64}(\.[0-9a-z]{1,16}){0,2}")


@dataclass
class Cache:
    """Files of at most `limit` bytes together; those that were not used for longest are removed.

    Each process may exceed the limit by a 32nd of it before it removes files.
    """

    folder: Path
    limit: int
    _written: int | None = None  # bytes, since this process last looked at the folder's size
    _is_full: bool = False  # a file could not be written, which is said once

    @classmethod
    def of_user(cls) -> Self:
        """Return the cache of the user: the folder CLIPFEAT_CACHE, up to CLIPFEAT_CACHE_GB.

        Without these, it is `clipfeat` in the user's folder of caches, of 10 GB (XDG base directory
        specification: XDG_CACHE_HOME, or else ~/.cache).
        """
        given = os.environ.get(FOLDER_VARIABLE)
        caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = Path(os.path.expanduser(given or f"{caches}/clipfeat")).absolute()  # noqa: PTH111
        size = os.environ.get(SIZE_VARIABLE) or str(DEFAULT_GB)
        if not re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,3})?", size):
            raise UsageError(
                f"{SIZE_VARIABLE} must be a size in GB, such as 10 or 0.5; got {size!r:.80}",
                code="E-CACHE-SIZE",
            )
        return cls(folder, int(float(size) * 1e9))

    def has(self, key: str) -> bool:
        """Return whether there is a file, right or not."""
        return is_plain(self._path(key))

    def renew(self, key: str) -> bool:
        """Return whether there is a file, right or not; it then counts as used now."""
        try:
            os.utime(self._path(key))
        except OSError:
            return False
        return True

    def get(self, key: str, limit: int) -> bytes | None:
        """Return the content of a file of at most `limit` bytes, None if it is not here."""
        path = self._path(key)
        try:
            content = read_bytes(path, limit)
            os.utime(path)
        except OSError:
            return None
        return content

    def put(self, key: str, content: bytes) -> None:
        """Keep a file, if the disk has room for it; what cannot be kept is fetched again."""
        try:
            self._write(key, [content])
        except OSError as error:
            if not self._is_full:
                logger.warning(
                    f"{self.folder}: nothing more can be cached ({reason_of(error)}), so it will be "
                    f"fetched at each use; make room, or choose another folder with --cache or "
                    f"{FOLDER_VARIABLE}"
                )
            self._is_full = True

    def drop(self, key: str) -> None:
        """Remove a file that is not what it should be."""
        with contextlib.suppress(OSError):
            self._path(key).unlink()

    def file(self, sha256: str, fetch: Callable[[], Iterable[bytes]], shown: str) -> Path:
        """Return the file with this sha256; `fetch` yields its content if it is not here.

        Raises CorruptStoreError (E-REMOTE-HASH) if that has another hash, in which errors call it
        `shown`, and StoreError (E-CACHE-WRITE) if the folder cannot be written.
        """
        path = self._path(sha256)
        if is_plain(path) and sha256_file(path) == sha256:
            with contextlib.suppress(OSError):
                os.utime(path)
            return path
        try:  # a wrong file is replaced, not removed before: another thread may have just written it
            found = self._write(sha256, fetch(), expected=sha256)
        except OSError as error:
            raise StoreError(
                f"{self.folder}: a file cannot be written here ({reason_of(error)}); choose another "
                f"folder with --cache or {FOLDER_VARIABLE}",
                code="E-CACHE-WRITE",
            ) from None
        if found != sha256:
            raise CorruptStoreError(
                f"{shown}: its sha256 is {found}, but {sha256} is expected; the store was changed "
                f"there or on the way, so use another copy of it",
                code="E-REMOTE-HASH",
            )
        return path

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def _write(self, key: str, pieces: Iterable[bytes], expected: str | None = None) -> str:
        """Write a file and return its sha256; it gets its name only if it is as expected."""
        path = self._path(key)
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        temporary = path.with_name(f"{key}.{secrets.token_hex(8)}")
        digest, size = hashlib.sha256(), 0
        try:
            with temporary.open("xb") as file:  # without fsync: whoever reads it checks it
                for piece in pieces:
                    file.write(piece)
                    size += len(piece)
                    if expected is not None:
                        digest.update(piece)
            if expected in (None, digest.hexdigest()):
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        self._count(size)
        return digest.hexdigest()

    def _count(self, size: int) -> None:
        """Count bytes that were written, and look at the folder's size now and then."""
        if self._written is None or self._written + size > self.limit // PART:
            self._written = 0
            self._trim()
        else:
            self._written += size

    def _trim(self) -> None:
        """Remove the files that were not used for longest; the newest one stays in any case.

        A user may name a folder with other files in it, which are neither counted nor removed.
        """
        files: list[tuple[float, int, str]] = []
        for folder in self.folder.iterdir():
            if not FOLDER.fullmatch(folder.name):
                continue
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        status = entry.stat(follow_symlinks=False)
                        if FILE.fullmatch(entry.name):
                            files.append((status.st_mtime, status.st_size, entry.path))
        total = sum(size for _, size, _ in files)
        if total <= self.limit:
            return
        for _, size, path in sorted(files)[:-1]:
            if total <= ROOM * self.limit:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108 - paths are text here
            total -= size
