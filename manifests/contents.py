"""The bytes of an image, wherever its root is: a folder, tar archives in it, or a URL."""

import contextlib
import errno
import io
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import quote

from ..base.errors import UsageError
from ..base.text import printable
from .errors import ManifestError
from .tars import open_member

MAX_BYTES = 1 << 31  # of one image; no format that we read needs as much
BLOCK = 1 << 16  # bytes asked for ahead of a remote file's header
# What a manifest may name. fsspec knows more, and some of them run what a file tells them to.
PROTOCOLS = ("http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "hf", "memory")
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?:://|::)")
ARCHIVE = re.compile(r"\.tar/")


def is_url(root: str) -> bool:
    """Return whether `root` is a URL and not a folder."""
    return URL.match(root) is not None


def absolute_root(root: str | Path) -> str:
    """Return `root` as an absolute folder, or the URL that it is, without a slash at its end.

    Raises ManifestError for a URL of a kind that is not read.
    """
    if not (isinstance(root, str) and is_url(root)):
        return str(Path(root).resolve())
    protocol = root.partition(":")[0]
    if protocol not in PROTOCOLS or "::" in root:
        raise ManifestError(
            f"{printable(root)}: images are read from a folder or from a URL that begins with one "
            f"of {', '.join(PROTOCOLS)}; copy them to such a place"
        )
    return root.rstrip("/")


def read_content(root: str, path: str) -> bytes:
    """Return the bytes of the file `path` under `root`, a folder or a URL.

    A part of the path that is a tar file stands for what is in it: `a.tar/b.jpg`. Raises
    FileNotFoundError where there is no such file, another OSError where it cannot be read or
    has more than MAX_BYTES, and ManifestError where the package that reads the URL is missing.
    """
    with open_content(root, path) as file:
        size = file.seek(0, os.SEEK_END)
        if size > MAX_BYTES:
            raise OSError(errno.EFBIG, f"{size:,} bytes are more than {MAX_BYTES:,}")
        file.seek(0)
        return file.read(size)


@contextlib.contextmanager
def open_content(root: str, path: str) -> Iterator[BinaryIO]:
    """Open the same file to seek and read in, so that a header costs no more than itself."""
    if is_url(root):
        with _remote(root, path) as file:
            yield file
        return
    try:
        descriptor = _open_file(f"{root}/{path}")
    except NotADirectoryError:  # some part of the path is a file
        archive, member = split_archive(root, path)
        with open_member(f"{root}/{archive}", member) as file:
            yield file
        return
    with open(descriptor, "rb") as file:  # noqa: PTH123
        yield file


def split_archive(root: str, path: str) -> tuple[str, str]:
    """Return the tar file under `root` that `path` leads into, and the member's name.

    Raises FileNotFoundError if no part of the path is a file ending in .tar.
    """
    for match in ARCHIVE.finditer(path):
        archive = path[: match.end() - 1]
        if os.path.isfile(f"{root}/{archive}"):  # noqa: PTH113
            return archive, path[match.end() :]
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _open_file(path: str) -> int:
    """Return a descriptor of a plain file, or of one that a symbolic link leads to."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "Not a plain file")


@contextlib.contextmanager
def _remote(root: str, path: str) -> Iterator[BinaryIO]:
    protocol = root.partition(":")[0]
    if protocol.startswith("http"):
        path = quote(path)  # a ? or # in a name is no query
    try:
        import fsspec

        system = fsspec.filesystem(protocol)
    except ImportError as error:
        raise UsageError(
            f"{printable(root)}: reading {protocol}:// needs a package that is not installed "
            f"({error}); install it with pip"
        ) from None
    try:
        with system.open(f"{root}/{path}", "rb", block_size=BLOCK) as file:
            yield cast(BinaryIO, file if file.seekable() else _held(file))
    except FileNotFoundError as error:
        # fsspec says so of a web server that is down or refuses, too; what happened is the cause.
        why = error.__cause__
        if not (why and protocol.startswith("http")) or getattr(why, "status", 0) in (404, 410):
            raise
        raise _trouble(why) from error
    except OSError:
        raise
    except Exception as error:  # each driver has errors of its own
        raise _trouble(error) from error


def _trouble(error: BaseException) -> OSError:
    return OSError(errno.EIO, f"{type(error).__name__}: {error}"[:200])


def _held(file: BinaryIO) -> BinaryIO:
    """Return a stream's bytes, at most one more than are allowed, as a file to seek in."""
    pieces = io.BytesIO()
    while pieces.tell() <= MAX_BYTES and (piece := file.read(1 << 20)):
        pieces.write(piece)
    pieces.seek(0)
    return pieces
