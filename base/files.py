"""Write a file whole or not at all, and hash one."""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from .errors import UsageError
from .text import is_url, printable

TEMPORARY = ".tmp"
IN_THE_MAKING = re.compile(rf"\..+\.[0-9a-f]{{16}}{re.escape(TEMPORARY)}", re.DOTALL)
MAX_LINE = 1 << 20  # bytes of a line of text
HASH_BLOCK = 1 << 20  # bytes a read; larger blocks measured no faster


def fsync_folder(folder: Path) -> None:
    """Make the names inside `folder` durable: a rename is not, until its folder is synced.

    Windows opens no folder, and has no need to.
    """
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with naming(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_temporary(name: str) -> bool:
    """Return whether a file's name is one that `atomic_file` gives while it writes.

    >>> is_temporary(temporary_name(".index.parquet")), is_temporary(".notes.tmp")
    (True, False)
    """
    return IN_THE_MAKING.fullmatch(name) is not None


def remove_temporaries(folder: Path) -> None:
    """Remove what `atomic_file` left in `folder` and below when its process was killed."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        if is_temporary(path.name):
            remove_plain(path)


def remove_plain(path: Path) -> None:
    """Remove the plain file at `path`; a link, a folder or a device is somebody's, and stays."""
    if is_plain(path):
        path.unlink(missing_ok=True)


def open_plain(path: str | Path, *, follow: bool = False) -> int:
    """Return a descriptor for reading a plain file; OSError says what stands there instead.

    A pipe or a device is not waited for. A symbolic link is an error unless `follow` is set:
    set it for files that a user names, not for those inside a folder that came from elsewhere.
    """
    if not follow:
        _refuse_link(path)
    # Windows has neither flag, and opens no pipe by such a name.
    flags = os.O_RDONLY | _flag("O_NONBLOCK") | _flag("O_CLOEXEC") | _flag("O_BINARY")
    descriptor = os.open(path, flags | (0 if follow else _flag("O_NOFOLLOW")))
    try:
        _require_plain(descriptor, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_output(path: str | Path, *, append: bool = False) -> int:
    """Return a descriptor for reading and writing `path`, made where there is none.

    For names that anybody can predict (locks, logs) inside a folder that came from elsewhere or
    that others can write: a symbolic link, a pipe, a device or a file with a second name (a hard
    link) raises OSError, since writing to it would change something else. Nothing is truncated.
    """
    _refuse_link(path)
    flags = os.O_RDWR | os.O_CREAT | (os.O_APPEND if append else 0)
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= _flag(name)
    descriptor = os.open(path, flags, 0o666)
    try:
        if _require_plain(descriptor, path).st_nlink > 1:
            raise OSError(
                errno.EMLINK,
                "is a hard link: writing would change another file too; put a copy in its place",
                str(path),
            )
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read_bytes(path: str | Path, limit: int, *, follow: bool = False) -> bytes:
    """Return the content of a plain file of at most `limit` bytes.

    The one way to read what others wrote: OSError for a pipe, a device, a file that is too
    large and, unless `follow` is set, a symbolic link (see `open_plain`).
    """
    with os.fdopen(open_plain(path, follow=follow), "rb") as file, naming(path):
        size = os.fstat(file.fileno()).st_size
        if size <= limit:
            content = file.read(size)  # never `limit` at once: that much memory may not be there
            while len(content) <= limit and (more := file.read(HASH_BLOCK)):
                content += more  # it is growing, or a file of /proc, which tells no size
            if len(content) <= limit:
                return content
        raise OSError(errno.EFBIG, f"is larger than the {limit:,} bytes that such a file may have")


def read_text(path: str | Path, limit: int, *, follow: bool = True) -> str:
    """Return a text file that a user brings: UTF-8, with or without a byte-order mark.

    Raises OSError as `read_bytes` does, and for bytes that are not UTF-8. Line ends stay.
    """
    content = read_bytes(path, limit, follow=follow)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _not_utf8(path, line) from None


def text_lines(path: str | Path, longest: int = MAX_LINE) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file that a user brings, numbered from 1, without their ends.

    For files too large to be held: `read_text`, a line of at most `longest` bytes at a time. A
    line ends in LF or CR LF. Raises OSError as `read_text` does, and for a longer line.
    """
    for number, line in enumerate(byte_lines(path, longest, follow=True), start=1):
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise _not_utf8(path, number) from None


def split_lines(text: str) -> list[str]:
    """Return the lines of a text as `text_lines` has them: other marks of Unicode end none."""
    return [line.removesuffix("\r") for line in text.split("\n")]


def byte_lines(
    path: str | Path, longest: int = MAX_LINE, *, follow: bool = False
) -> Iterator[bytes]:
    """Yield the lines of a file with their ends, each of at most `longest` bytes.

    Raises OSError as `read_bytes` does, and for a longer line.
    """
    with os.fdopen(open_plain(path, follow=follow), "rb") as file, naming(path):
        number = 0
        while line := file.readline(longest + 1):
            number += 1
            if len(line) > longest:
                raise OSError(errno.EFBIG, f"line {number} has more than {longest:,} bytes")
            yield line


def _not_utf8(path: str | Path, line: int) -> OSError:
    return OSError(errno.EILSEQ, f"is not UTF-8 text (line {line}); save it as UTF-8", str(path))


def read_at(descriptor: int, length: int, offset: int) -> bytes:
    """Return `length` bytes of an opened file from `offset` on, fewer where it ends before.

    Windows has no pread: there the file's position moves, and one thread may use a descriptor.
    """
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, length)


def read_into(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
    """Fill flat buffers, one after the other, as `read_at` reads; return how many bytes there were.

    Straight into that memory where the system can (Linux, macOS 11, BSD).
    """
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, buffers, offset)
    content = memoryview(read_at(descriptor, sum(map(len, buffers)), offset))
    start = 0
    for buffer in buffers:
        part = content[start : start + len(buffer)]
        buffer[: len(part)] = part
        start += len(buffer)
    return len(content)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Take the kernel's lock of an opened file; return False where another process has it.

    It ends with the process, however that ends, or with the descriptor. Any number of processes
    may have a `shared` lock at once. Raises UsageError on Windows, which has no flock.
    """
    try:
        import fcntl
    except ImportError:
        raise UsageError(
            "writing a store or a run needs Linux or macOS: this system has no flock",
            code="E-LOCK-SYSTEM",
        ) from None
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _flag(name: str) -> int:
    return getattr(os, name, 0)


def _refuse_link(path: str | Path) -> None:
    if os.path.islink(path):  # noqa: PTH114 - paths are text here
        raise OSError(
            errno.ELOOP, "is a symbolic link; put the file itself in its place", str(path)
        )


def _require_plain(descriptor: int, path: str | Path) -> os.stat_result:
    found = os.fstat(descriptor)
    if stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, "is a folder; a file is needed", str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is a pipe or a device; a plain file is needed", str(path))
    return found


def oddity(path: Path) -> str | None:
    """Return what stands at `path` in the place of a plain file, such as "is a folder".

    None for a plain file, and where there is nothing. A link is not followed.
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISREG(mode):
        return None
    if stat.S_ISLNK(mode):
        return "is a symbolic link"
    return "is a folder" if stat.S_ISDIR(mode) else "is a pipe or a device"


def is_plain(path: Path) -> bool:
    """Return whether a file stands at `path` itself: no folder, no link, no pipe."""
    return path.is_file() and not path.is_symlink()


def require_file(path: Path, option: str) -> None:
    """Raise UsageError unless `option` names a file that can be written, to say so before work.

    A device is none: a file that is renamed to /dev/stdout would take its place.
    """
    if not path.parent.is_dir():
        raise UsageError(f"{option} {path}: the folder {path.parent} does not exist; make it first")
    if path.exists() and not path.is_file():
        raise UsageError(f"{option} {path} exists and is not a regular file; pass another name")


def local_path(text: str, *, remedy: str = "give a path on this machine") -> Path:
    """Return a path on this machine; UsageError for a URL, of which a Path would lose a slash.

    And for an empty text, which would be the folder one is in.
    """
    if not text:
        raise UsageError("a path is empty; . is the folder you are in", code="E-PATH-EMPTY")
    if "://" in text and is_url(text):
        raise UsageError(
            f"{printable(text)}: only images are read over the network yet; {remedy}",
            code="E-PATH-URL",
        )
    return Path(text)


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Give an OSError the name of the file; that of a write, a full disk's, has none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def temporary_name(name: str) -> str:
    """Return a name for a file in the making: no two are the same, on any host, ever."""
    # A file system takes 255 bytes; what is left of a long name is not cut amid a letter.
    begin = os.fsencode(name)[:224].decode(errors="ignore")
    return f"{begin}.{secrets.token_hex(8)}{TEMPORARY}"


@contextlib.contextmanager
def atomic_file(path: Path, *, replace: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the name `path` when the block ends without an error.

    The bytes are on the disk before the name is (fsync, rename, fsync of the folder), so
    after a crash `path` holds the old content or the new, never a part. With `replace=False`
    it raises FileExistsError if there is such a file: one of several writers wins.

    An OSError names `path`, never the temporary file, which is gone when somebody reads of it.
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
    except BaseException as error:
        if isinstance(error, OSError) and str(error.filename) == str(temporary):
            error.filename, error.filename2 = str(path), None
        with contextlib.suppress(OSError):  # what it was not made for is the error
            temporary.unlink()
        raise
    fsync_folder(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, whole or not at all."""
    with atomic_file(path) as file:
        file.write(content)


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, as hex digits; OSError for a pipe or a device."""
    digest = hashlib.sha256()
    with os.fdopen(open_plain(path, follow=True), "rb") as file, naming(path):
        while block := file.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


LENGTH = 8  # bytes of the header's length, little-endian, with which a file begins
HEADER_BYTES = 16 << 20  # 100,000 tensors take about 10 MB


def check_tensorfile(path: str | Path, limit: int | None = None, *, follow: bool = False) -> None:
    """Raise OSError or ValueError unless `path` may be given to the safetensors library.

    That is a plain file of at most `limit` bytes whose header is whole and of moderate size: the
    library maps the file and reads the header at once, and tensors only when they are asked for.
    """
    with os.fdopen(open_plain(path, follow=follow), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        header = int.from_bytes(file.read(LENGTH), "little")
    if limit is not None and size > limit:
        raise ValueError(f"is {size:,} bytes large; such a file has at most {limit:,}")
    if size < LENGTH or header > size - LENGTH:
        raise ValueError("is cut off, or no safetensors file: its header is not all there")
    if header > HEADER_BYTES:
        raise ValueError(f"has a header of {header:,} bytes; at most {HEADER_BYTES:,} are read")
