"""The bytes of an image: names as text, and files in folders, in archives and behind URLs.

On disk a name is bytes, nearly always UTF-8. Inside this package it is a text with a surrogate for
each byte that is not UTF-8 (PEP 383, but always UTF-8: the locale does not change what a file is
called). A manifest contains UTF-8: there such a byte is written `\\xe9`, and a backslash, which
would look like the beginning of such an escape, is doubled.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# fsspec has no types.

import contextlib
import errno
import io
import os
import re
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import quote

from ..base.errors import ManifestError, UsageError
from ..base.files import naming, open_plain
from ..base.text import is_url, printable
from .archives import ARCHIVE, archive_format

SURROGATE = re.compile("[\ud800-\udfff]")  # cannot be encoded as UTF-8
ESCAPE = re.compile(r"\\(\\|x[89a-f][0-9a-f]|ud[89a-f][0-9a-f]{2})")
BYTES = 0xDC00  # the surrogate of a byte is this plus the byte
MAX_BYTES = 1 << 31  # of one image; no format that is read needs more
REMOTE_BLOCK = 1 << 16  # bytes of a remote file that are requested with its header
# What a manifest may name. fsspec knows more, and some of them run what a file tells them to.
PROTOCOLS = ("http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "hf", "memory")


def from_disk(path: str) -> str:
    """Return a path as Python got it from the operating system, as a text of this package."""
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "surrogateescape")


def to_disk(path: str) -> str:
    """Return a text of this package as a path that Python gives to the operating system.

    Raises FileNotFoundError for a text that no file can have as its name.
    """
    if path.isascii():
        return path
    try:
        return os.fsdecode(path.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise _no_such_file(as_utf8(path)) from None


def as_utf8(text: str) -> str:
    r"""Return a text of this package as UTF-8, with a byte that is not UTF-8 as `\xe9`.

    >>> as_utf8("caf\udce9")
    'caf\\xe9'
    """
    return text if text.isascii() else SURROGATE.sub(_escape, text)


def escaped(path: str) -> str:
    r"""Return a text of this package as a path in a manifest.

    >>> escaped("a\\b/caf\udce9.jpg")
    'a\\\\b/caf\\xe9.jpg'
    """
    if path.isascii() and "\\" not in path:
        return path
    return as_utf8(path.replace("\\", r"\\"))


def unescaped(path: str) -> str:
    """Return a path in a manifest as a text of this package; the inverse of `escaped`."""
    return ESCAPE.sub(_unescape, path) if "\\" in path else path


def is_escaped(path: str) -> bool:
    """Return whether each backslash of a path belongs to an escape."""
    return "\\" not in path or "\\" not in ESCAPE.sub("", path)


def _escape(surrogate: re.Match[str]) -> str:
    byte = ord(surrogate[0]) - BYTES
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else f"\\u{ord(surrogate[0]):04x}"


def _unescape(escape: re.Match[str]) -> str:
    if escape[1] == "\\":
        return "\\"
    code = int(escape[1][1:], 16)
    return chr(BYTES + code if escape[1][0] == "x" else code)


def absolute_root(root: str | Path) -> str:
    """Return `root` as an absolute folder, or as the URL that it is, without a slash at its end.

    Raises ManifestError (E-MANIFEST-ROOT) for a URL of a kind that is not read.
    """
    if not (isinstance(root, str) and is_url(root)):
        folder = to_disk(root) if isinstance(root, str) else root
        return from_disk(str(Path(folder).resolve()))
    protocol = root.partition(":")[0]
    if protocol not in PROTOCOLS or "::" in root:
        raise ManifestError(
            f"{printable(root)}: images are read from a folder or from a URL that begins with one "
            f"of {', '.join(PROTOCOLS)}; copy them to such a place",
            code="E-MANIFEST-ROOT",
        )
    return root.rstrip("/")


def read_content(root: str, path: str) -> bytes:
    """Return the bytes of an image file.

    `root` is a manifest's root, a folder or a URL, and `path` a path in that manifest. If a part of
    the path is an archive, the rest names a member: `a.tar/b.jpg`. Raises FileNotFoundError if the
    file does not exist, another OSError if it cannot be read or has more than MAX_BYTES, and
    UsageError (E-URL-DRIVER) if the package that reads the URL is not installed.
    """
    with naming(f"{root}/{path}"), open_content(root, path) as file:
        size = file.seek(0, os.SEEK_END)
        if size > MAX_BYTES:
            raise OSError(errno.EFBIG, f"{size:,} bytes are more than {MAX_BYTES:,}")
        file.seek(0)
        return file.read(size)


@contextlib.contextmanager
def open_content(root: str, path: str) -> Generator[BinaryIO]:
    """Open an image file for seeking and reading, so that its header can be read alone.

    The arguments and the errors are those of `read_content`.
    """
    path = unescaped(path)
    if is_url(root):
        with _remote(root, path) as file:
            yield file
        return
    try:
        descriptor = open_plain(disk_path(root, path), follow=True)
    except NotADirectoryError:  # some part of the path is a file
        archive, member = split_archive(root, path)
        with archive_format(archive).open(disk_path(root, archive), member) as file:
            yield file
        return
    with open(descriptor, "rb") as file:  # noqa: PTH123
        yield file


def disk_path(root: str, path: str) -> str:
    """Return a path, without escapes, below a local root, for the operating system.

    Raises FileNotFoundError for a path that no file can have: on a system that divides paths by
    backslashes, one with a backslash in it.
    """
    if os.sep != "/" and os.sep in path:
        raise _no_such_file(path)
    return to_disk(f"{root}/{path}")


def split_archive(root: str, path: str) -> tuple[str, str]:
    """Return the two parts of a path, without escapes, that leads into an archive below `root`.

    They are the path of the archive and the name of the member. Raises FileNotFoundError if no
    part of the path is a file with the ending of an archive.
    """
    for match in ARCHIVE.finditer(path):
        archive = path[: match.end() - 1]
        if os.path.isfile(disk_path(root, archive)):  # noqa: PTH113
            return archive, path[match.end() :]
    raise _no_such_file(path)


def _no_such_file(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def require_driver(root: str) -> None:
    """Raise UsageError (E-URL-DRIVER) if `root` is a URL that no installed package can read."""
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
def _remote(root: str, path: str) -> Generator[BinaryIO]:
    protocol = root.partition(":")[0]
    if protocol.startswith("http"):
        path = quote(path.encode("utf-8", "surrogateescape"))  # ? and # are part of the name
    require_driver(root)
    import fsspec

    try:
        system = fsspec.filesystem(protocol)
        with system.open(f"{root}/{path}", "rb", block_size=REMOTE_BLOCK) as file:
            yield cast(BinaryIO, file if file.seekable() else _in_memory(file))
    except FileNotFoundError as error:
        # fsspec raises this also for a web server that does not answer or denies access; the
        # cause tells them apart.
        cause = error.__cause__
        if (
            not cause
            or not protocol.startswith("http")
            or getattr(cause, "status", 0) in (404, 410)
        ):
            raise
        raise _remote_error(cause) from error
    except OSError:
        raise
    except Exception as error:  # each driver has errors of its own
        raise _remote_error(error) from error


def _remote_error(error: BaseException) -> OSError:
    return OSError(errno.EIO, f"{type(error).__name__}: {error}"[:200])


def _in_memory(stream: BinaryIO) -> BinaryIO:
    """Return the bytes of a stream, at most one more than MAX_BYTES, as a file that can seek."""
    content = io.BytesIO()
    while content.tell() <= MAX_BYTES and (piece := stream.read(1 << 20)):
        content.write(piece)
    content.seek(0)
    return content
