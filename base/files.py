"""Local files: opened without surprises, read in bounded memory, written whole or not at all."""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from .errors import UsageError
from .text import is_url, printable

TEMPORARY = ".tmp"
TEMPORARY_NAME = re.compile(rf"\..+\.[0-9a-f]{{16}}{re.escape(TEMPORARY)}", re.DOTALL)
COPY_IT = "copy it to this machine"  # what to do about a URL
MAX_LINE_BYTES = 1 << 20  # of a text file
BLOCK_BYTES = 1 << 20  # read at a time; larger blocks measured no faster
MAX_HEADER_BYTES = 16 << 20  # of a safetensors file; 100,000 tensors take about 10 MB


def open_plain(path: str | Path, *, follow: bool = False) -> int:
    """Return a descriptor for reading a regular file.

    Set `follow` for files that a user names, not for those inside a folder that came from
    elsewhere: without it, a symbolic link is an error. Raises OSError for a folder, and for a pipe
    or a device without waiting for it.
    """
    # Windows lacks these flags, and has no pipes with such names.
    flags = os.O_RDONLY | _flag("O_NONBLOCK") | _flag("O_CLOEXEC") | _flag("O_BINARY")
    if not follow and not hasattr(os, "O_NOFOLLOW"):
        _refuse_link(path)
    try:
        descriptor = os.open(path, flags | (0 if follow else _flag("O_NOFOLLOW")))
    except OSError:
        if not follow:
            _refuse_link(path)  # its error says what to do
        raise
    try:
        _require_plain(descriptor, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_output(path: str | Path, *, append: bool = False) -> int:
    """Return a descriptor for reading and writing `path`, which is created if it does not exist.

    For names that anybody can predict (locks, logs) inside a folder that came from elsewhere or
    that others can write. Nothing is truncated. Raises OSError for a symbolic link, a pipe, a
    device and a file with a second name (a hard link): writing would change something else.
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
                "is a hard link: writing would change another file too; replace it by a copy",
                str(path),
            )
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _flag(name: str) -> int:
    return getattr(os, name, 0)


def _refuse_link(path: str | Path) -> None:
    if os.path.islink(path):  # noqa: PTH114 - paths are text here
        raise OSError(errno.ELOOP, "is a symbolic link; replace it by the file itself", str(path))


def _require_plain(descriptor: int, path: str | Path) -> os.stat_result:
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, "is a folder; a file is needed", str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is a pipe or a device; a regular file is needed", str(path))
    return status


def oddity(path: Path) -> str | None:
    """Return what `path` is if it exists and is not a regular file, such as "is a folder".

    A symbolic link is not followed. Return None for a regular file, and if nothing exists.
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
    """Return whether `path` is a regular file, and not a link to one."""
    return path.is_file() and not path.is_symlink()


def read_bytes(path: str | Path, limit: int, *, follow: bool = False) -> bytes:
    """Return the content of a regular file of at most `limit` bytes.

    This is how files that others wrote are read. Raises OSError as `open_plain` does, and for a
    file that is larger.
    """
    with os.fdopen(open_plain(path, follow=follow), "rb") as file, naming(path):
        size = os.fstat(file.fileno()).st_size
        if size <= limit:
            content = file.read(size)  # not `limit`: Python would allocate that much first
            while len(content) <= limit and (more := file.read(BLOCK_BYTES)):
                content += more  # the file is growing, or is in /proc, where sizes are 0
            if len(content) <= limit:
                return content
        raise OSError(errno.EFBIG, f"is larger than {limit:,} bytes, the limit for such a file")


def read_text(path: str | Path, limit: int) -> str:
    """Return the text of a user's file: UTF-8, with or without a byte-order mark.

    Line ends are kept. Raises OSError as `read_bytes` does, and for bytes that are not UTF-8.
    """
    content = read_bytes(path, limit, follow=True)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _not_utf8(path, line) from None


def text_lines(path: str | Path, longest: int = MAX_LINE_BYTES) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, text without its end) of each line of a user's text file.

    This is `read_text` for large files, one line at a time. A line ends in LF or CR LF. Raises
    OSError as `read_text` does, and for a line of more than `longest` bytes.
    """
    for number, line in enumerate(byte_lines(path, longest, follow=True), start=1):
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise _not_utf8(path, number) from None


def split_lines(text: str) -> list[str]:
    """Return the lines of a text, divided as by `text_lines`; str.splitlines has more line ends."""
    return [line.removesuffix("\r") for line in text.split("\n")]


def byte_lines(
    path: str | Path, longest: int = MAX_LINE_BYTES, *, follow: bool = False
) -> Iterator[bytes]:
    """Yield the lines of a file with their ends.

    Raises OSError as `open_plain` does, and for a line of more than `longest` bytes.
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
    """Return `length` bytes of an open file from `offset` on, fewer at the end of the file.

    Windows has no pread: there the file's position moves, and only one thread may use it.
    """
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, length)


def read_into(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
    """Fill flat buffers, one after the other, from `offset` on; return the number of bytes read.

    Linux, macOS 11 and BSD read straight into that memory.
    """
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, buffers, offset)
    content = memoryview(read_at(descriptor, sum(map(len, buffers)), offset))
    rest = content
    for buffer in buffers:
        part, rest = rest[: len(buffer)], rest[len(buffer) :]
        buffer[: len(part)] = part
    return len(content)


def sha256_file(path: Path, on_read: Callable[[int], object] = lambda _: None) -> str:
    """Return the sha256 of a file's bytes in hex digits; OSError as for `open_plain`.

    `on_read` is called with the size of each block that was read.
    """
    digest = hashlib.sha256()
    with os.fdopen(open_plain(path, follow=True), "rb") as file, naming(path):
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            on_read(len(block))
    return digest.hexdigest()


def check_tensorfile(path: str | Path, limit: int | None = None, *, follow: bool = False) -> None:
    """Check a file before it is given to the safetensors library, which maps all of it.

    The format is eight bytes with the header's length (little-endian), the header, which the
    library reads at once, and tensors, which it reads when they are used. Raises OSError as
    `open_plain` does, ValueError for a file of more than `limit` bytes, and for a header that is
    incomplete or of more than MAX_HEADER_BYTES.
    """
    with os.fdopen(open_plain(path, follow=follow), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        header = int.from_bytes(file.read(8), "little")
    if limit is not None and size > limit:
        raise ValueError(f"has {size:,} bytes; the limit for such a file is {limit:,}")
    if 8 + header > size:
        raise ValueError("is cut off, or not a safetensors file: its header is incomplete")
    if header > MAX_HEADER_BYTES:
        raise ValueError(f"has a header of {header:,} bytes; the limit is {MAX_HEADER_BYTES:,}")


@contextlib.contextmanager
def atomic_file(path: Path, *, replace: bool = True) -> Generator[BinaryIO]:
    """Open a temporary file that takes the name `path` when the block ends without an error.

    The bytes reach the disk before the name does (fsync, rename, fsync of the folder), so that
    after a crash `path` has the old content or the new, never a part. With `replace=False` it
    raises FileExistsError if `path` exists: of several writers, one wins.

    An OSError names `path`, not the temporary file, which no longer exists when it is read.
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
        with contextlib.suppress(OSError):  # the first error is the one to report
            temporary.unlink()
        raise
    fsync_folder(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all (see `atomic_file`)."""
    with atomic_file(path) as file:
        file.write(content)


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` durable: a rename survives a crash only after this.

    Windows cannot open folders, and does not need it.
    """
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with naming(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_name(name: str) -> str:
    """Return the name of a temporary file for `name`; it is never the same twice, on any host."""
    # File systems allow 255 bytes; a long name is not cut within a letter.
    begin = os.fsencode(name)[:224].decode(errors="ignore")
    return f"{begin}.{secrets.token_hex(8)}{TEMPORARY}"


def is_temporary(name: str) -> bool:
    """Return whether a file has a name that `atomic_file` gives while it writes.

    >>> is_temporary(temporary_name(".index.parquet")), is_temporary(".notes.tmp")
    (True, False)
    """
    return TEMPORARY_NAME.fullmatch(name) is not None


def remove_temporaries(folder: Path) -> None:
    """Remove files that `atomic_file` left in `folder` and below when its process was killed."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        if is_temporary(path.name):
            remove_plain(path)


def remove_plain(path: Path) -> None:
    """Remove `path` if it is a regular file; links, folders and devices are left alone."""
    if is_plain(path):
        path.unlink(missing_ok=True)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Take the kernel's lock of an open file; return False if another process has it.

    The lock ends when the descriptor is closed or the process ends, however that happens. Several
    processes may have a `shared` lock at once. Raises UsageError (E-LOCK-SYSTEM) on Windows, which
    has no flock.
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


def free_bytes(path: Path) -> int:
    """Return the free bytes of the disk on which `path` is or will be."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def require_folder(path: Path, option: str) -> None:
    """Raise UsageError unless files can be written to the folder `path`.

    Errors call it by `option`, whose value it is. The folder need not exist if it can be made. Call
    it before work starts.
    """
    nearest = next((p for p in (path, *path.parents) if os.path.lexists(p)), Path())
    if not nearest.is_dir():
        raise UsageError(
            f"{option} {path}: {nearest} is not a folder; name another one", code="E-PATH-FOLDER"
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(
            f"{option} {path}: no permission to write to the folder {nearest}; make it writable, "
            "or name another one",
            code="E-PATH-WRITE",
        )


def require_file(path: Path, option: str) -> None:
    """Raise UsageError unless a result can be written to `path`, the value of `option`.

    Call it before work starts. A device such as /dev/stdout is not accepted: the finished file
    would be renamed to it and replace it.
    """
    if not path.parent.is_dir():
        raise UsageError(
            f"{option} {path}: the folder {path.parent} does not exist; make it first",
            code="E-PATH-FOLDER",
        )
    if path.exists() and not path.is_file():
        raise UsageError(
            f"{option} {path} exists and is not a regular file; pass another name",
            code="E-PATH-FILE",
        )
    require_folder(path.parent, option)


def local_path(text: str, *, remedy: str = COPY_IT) -> Path:
    """Return a path on this machine.

    Raises UsageError for a URL, in which Path would merge two slashes, and for an empty text, which
    Path would take for the current folder.
    """
    if not text:
        raise UsageError("a path is empty; for the current folder, type .", code="E-PATH-EMPTY")
    if "://" in text and is_url(text):
        raise UsageError(
            f"{printable(text)}: a path on this machine is needed, not a URL; {remedy}",
            code="E-PATH-URL",
        )
    return Path(text)


@contextlib.contextmanager
def naming(path: str | Path) -> Generator[None]:
    """Add the file's name to an OSError without one, such as that of a write to a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
