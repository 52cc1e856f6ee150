"""Names of files as text, whatever bytes they are made of.

On disk a name is bytes, and nearly always UTF-8. Inside this package it is a text with a surrogate
for each byte that is not UTF-8 (PEP 383, but never in another encoding: the locale has no say in
what a file is called). A manifest holds UTF-8: such a byte stands there as `\xe9`, and a backslash,
which would look like the beginning of such an escape, as two.
"""

import contextlib
import errno
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import quote

from ..base.errors import ManifestError, UsageError
from ..base.files import naming, open_plain
from ..base.text import is_url, printable
from .tars import open_member

ODD = re.compile("[\ud800-\udfff]")  # what UTF-8 has no bytes for
ESCAPE = re.compile(r"\\(\\|x[89a-f][0-9a-f]|ud[89a-f][0-9a-f]{2})")
BYTES = 0xDC00  # a byte's surrogate is this plus the byte


def from_disk(path: str) -> str:
    """Return a path as the operating system gave it to Python, in the spelling of this package."""
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "surrogateescape")


def to_disk(path: str) -> str:
    """Return a path in the spelling of this package as the operating system takes it.

    Raises FileNotFoundError for a path that no file can have.
    """
    if path.isascii():
        return path
    try:
        return os.fsdecode(path.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise FileNotFoundError(
            errno.ENOENT, os.strerror(errno.ENOENT), without_odd(path)
        ) from None


def without_odd(text: str) -> str:
    r"""Return `text` as UTF-8 can hold it, an odd byte as `\xe9`.

    >>> without_odd("caf\udce9")
    'caf\\xe9'
    """
    return text if text.isascii() else ODD.sub(_escape, text)


def escaped(path: str) -> str:
    r"""Return a path as a manifest holds it.

    >>> escaped("a\\b/caf\udce9.jpg")
    'a\\\\b/caf\\xe9.jpg'
    """
    if path.isascii() and "\\" not in path:
        return path
    return without_odd(path.replace("\\", r"\\"))


def unescaped(path: str) -> str:
    """Return the path that a manifest's path stands for; the inverse of `escaped`."""
    return ESCAPE.sub(_unescape, path) if "\\" in path else path


def is_escaped(path: str) -> bool:
    """Return whether each backslash of a path is that of an escape."""
    return "\\" not in path or "\\" not in ESCAPE.sub("", path)


def _escape(odd: re.Match[str]) -> str:
    byte = ord(odd[0]) - BYTES
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else f"\\u{ord(odd[0]):04x}"


def _unescape(escape: re.Match[str]) -> str:
    if escape[1] == "\\":
        return "\\"
    code = int(escape[1][1:], 16)
    return chr(BYTES + code if escape[1][0] == "x" else code)


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
