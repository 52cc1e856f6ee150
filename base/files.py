"""Write a file whole or not at all, and hash one."""

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import UsageError

TEMPORARY = ".tmp"
HASH_BLOCK = 1 << 20  # bytes a read; larger blocks measured no faster


def fsync_folder(folder: Path) -> None:
    """Make the names inside `folder` durable: a rename is not, until its folder is synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Remove what `atomic_file` left in `folder` and below when its process was killed."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def open_plain(path: str | Path) -> int:
    """Return a descriptor for reading a file, raising OSError unless it is a plain one.

    A symbolic link is not followed, and a pipe is not waited for.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "Not a plain file")


def is_plain(path: Path) -> bool:
    """Return whether a file stands at `path` itself: no folder, no link, no pipe."""
    return path.is_file() and not path.is_symlink()


def require_file(path: Path, option: str) -> None:
    """Raise UsageError unless `option` names a file that can be written, to say so before work.

    A device is none: a file that is renamed to /dev/stdout would take its place.
    """
    if not path.parent.is_dir():
        raise UsageError(f"{option} {path}: there is no folder {path.parent}; make it first")
    if path.exists() and not path.is_file():
        raise UsageError(f"{option} {path} is there and is no file; pass the name of one")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an OSError the name of the file; that of a write, a full disk's, has none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def temporary_name(name: str) -> str:
    """Return a name for a file in the making: no two are the same, on any host, ever."""
    return f"{name}.{secrets.token_hex(8)}{TEMPORARY}"


@contextlib.contextmanager
def atomic_file(path: Path, *, replace: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the name `path` when the block ends without an error.

    The bytes are on the disk before the name is (fsync, rename, fsync of the folder), so
    after a crash `path` holds the old content or the new, never a part. With `replace=False`
    it raises FileExistsError if there is such a file: one of several writers wins.
    """
    temporary = path.with_name(temporary_name(f".{path.name}"))
    try:
        with naming(path), temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.rename(path)
        else:
            path.hardlink_to(temporary)
            temporary.unlink()
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, whole or not at all."""
    with atomic_file(path) as file:
        file.write(content)


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, as hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()
