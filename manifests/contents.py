"""The bytes of an image, wherever its root is: a folder, tar archives in it, or a URL."""

import contextlib
import errno
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import quote

from ..base.errors import UsageError
from ..base.files import naming, open_plain
from ..base.text import is_url, printable
from .errors import ManifestError
from .names import from_disk, to_disk, unescaped
from .tars import open_member

MAX_BYTES = 1 << 31  # of one image; no format that we read needs as much
BLOCK = 1 << 16  # bytes asked for ahead of a remote file's header
# What a manifest may name. fsspec knows more, and some of them run what a file tells them to.
PROTOCOLS = ("http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "hf", "memory")
ARCHIVE = re.compile(r"\.tar/")


def absolute_root(root: str | Path) -> str:
    """Return `root` as an absolute folder, or the URL that it is, without a slash at its end.

    Raises ManifestError for a URL of a kind that is not read.
    """
    if not (isinstance(root, str) and is_url(root)):
        place = to_disk(root) if isinstance(root, str) else root
        return from_disk(str(Path(place).resolve()))
    protocol = root.partition(":")[0]
    if protocol not in PROTOCOLS or "::" in root:
        raise ManifestError(
            f"{printable(root)}: images are read from a folder or from a URL that begins with one "
            f"of {', '.join(PROTOCOLS)}; copy them to such a place"
        )
    return root.rstrip("/")


def read_content(root: str, path: str) -> bytes:
    """Return the bytes of the file `path`, as a manifest has it, under `root`, a folder or a URL.

    A part of the path that is a tar file stands for what is in it: `a.tar/b.jpg`. Raises
    FileNotFoundError where there is no such file, another OSError where it cannot be read or
    has more than MAX_BYTES, and ManifestError where the package that reads the URL is missing.
    """
    with naming(f"{root}/{path}"), open_content(root, path) as file:
        size = file.seek(0, os.SEEK_END)
        if size > MAX_BYTES:
            raise OSError(errno.EFBIG, f"{size:,} bytes are more than {MAX_BYTES:,}")
        file.seek(0)
        return file.read(size)


@contextlib.contextmanager
def open_content(root: str, path: str) -> Iterator[BinaryIO]:
    """Open the same file to seek and read in, so that a header costs no more than itself."""
    path = unescaped(path)
    if is_url(root):
        with _remote(root, path) as file:
            yield file
        return
    try:
        descriptor = open_plain(disk_path(root, path), follow=True)
    except NotADirectoryError:  # some part of the path is a file
        archive, member = split_archive(root, path)
        with open_member(disk_path(root, archive), member) as file:
            yield file
        return
    with open(descriptor, "rb") as file:  # noqa: PTH123
        yield file


def disk_path(root: str, path: str) -> str:
    """Return where a path, without escapes, stands under a local root, for the system to open.

    Raises FileNotFoundError for a path that cannot be a file's: where parts are divided by
    backslashes, too, none may hold one.
    """
    if os.sep != "/" and os.sep in path:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return to_disk(f"{root}/{path}")


def split_archive(root: str, path: str) -> tuple[str, str]:
    """Return the tar file under `root` that `path`, without escapes, leads into, and the member.

    Raises FileNotFoundError if no part of the path is a file ending in .tar.
    """
    for match in ARCHIVE.finditer(path):
        archive = path[: match.end() - 1]
        if os.path.isfile(disk_path(root, archive)):  # noqa: PTH113
            return archive, path[match.end() :]
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def require_driver(root: str) -> None:
    """Raise UsageError where `root` is a URL and the package that reads such ones is missing."""
    if not is_url(root):
        return
    protocol = root.partition(":")[0]
    try:
        import fsspec

        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        raise UsageError(
            f"{printable(root)}: reading {protocol}:// needs a package that is not installed "
            f"({error}); install it with pip",
            code="E-URL-DRIVER",
        ) from None


@contextlib.contextmanager
def _remote(root: str, path: str) -> Iterator[BinaryIO]:
    protocol = root.partition(":")[0]
    if protocol.startswith("http"):
        path = quote(path.encode("utf-8", "surrogateescape"))  # a ? or # in a name is no query
    require_driver(root)
    import fsspec

    try:
        system = fsspec.filesystem(protocol)
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
