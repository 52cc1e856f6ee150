"""Bytes of objects in S3, Google Cloud Storage and Azure, through obstore (extra `cloud`).

obstore finds logins in the environment, as the tools of these services do; of the files of the AWS
tools it gets what they have.
"""

# pyright: reportMissingImports=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# obstore is optional, and its stores have no common type.

import contextlib
import os
from collections.abc import Generator, Iterator
from datetime import timedelta
from functools import lru_cache
from typing import Any

from .credentials import aws_login
from .errors import CorruptStoreError, StoreError, needs_extra
from .text import printable

SCHEMES = ("s3", "gs", "az")
RETRIES = 4
RETRY_SECONDS = 180
REQUEST_SECONDS = 330  # for one answer, its content included
PIECE_BYTES = 1 << 20

_process: int | None = None  # that has used obstore; its children cannot


def is_object(url: str) -> bool:
    """Return whether a URL is that of an object in a cloud."""
    return url.partition("://")[0] in SCHEMES


def stream_object(
    url: str, first: int, length: int | None, size: int | None, limit: int
) -> Iterator[bytes]:
    """Yield the content of an object, or `length` bytes of it from byte `first` on.

    `size` is that of the object, if it is known; a whole one has at most `limit` bytes. Raises
    StoreError (E-REMOTE-...) as `read_range` in `base/ranges.py` does, and E-REMOTE-FORK in a
    process that was forked from one that has used obstore, where it would wait forever.
    """
    folder, _, name = url.rpartition("/")
    store = open_folder(folder)
    with object_errors(url):
        import obstore

        options: Any = {} if length is None else {"range": (first, first + length)}
        result = obstore.get(store, name, options=options)
        found = result.meta["size"]
        expected = found if length is None else length
        if size not in (None, found):
            raise _other_file(url, f"has {found:,} bytes; expected {size:,}")
        if expected > limit or first + expected > found:
            raise _other_file(
                url, f"has {found:,} bytes; at most {limit:,} from {first:,} expected"
            )
        received = 0
        for piece in result.stream(min_chunk_size=PIECE_BYTES):
            received += len(piece)
            if received > expected:
                break
            yield bytes(piece)
        if received != expected:
            raise _other_file(url, f"{received:,} bytes came; expected {expected:,}")


def _other_file(url: str, problem: str) -> CorruptStoreError:
    return CorruptStoreError(
        f"{printable(url)}: {problem}; it is another file than store.json describes",
        code="E-REMOTE-SIZE",
    )


def open_folder(folder: str) -> Any:
    """Return obstore's store of a folder; raises StoreError (E-REMOTE-FORK) as `stream_object` does."""
    return _opened(folder, os.getpid())


@lru_cache(256)
def _opened(folder: str, process: int) -> Any:
    """Return obstore's store of a folder, for one process."""
    global _process
    if _process not in (None, process):
        raise StoreError(
            f"{printable(folder)}: this process was forked from one that has read from a cloud, and "
            f"the library for it does not work in such a process; start workers with spawn or "
            f"forkserver, or copy the store: clipfeat store pull",
            code="E-REMOTE-FORK",
        )
    with needs_extra("cloud"):
        import obstore.store
    _process = process
    with object_errors(folder):
        login: Any = aws_login() if folder.startswith("s3:") else {}
        return obstore.store.from_url(
            folder,
            config=login,
            client_options={
                "timeout": timedelta(seconds=REQUEST_SECONDS),
                # Of a lab's own S3 server; obstore does not read it beside other options.
                "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true",
            },
            retry_config={
                "max_retries": RETRIES,
                "retry_timeout": timedelta(seconds=RETRY_SECONDS),
            },
        )


@contextlib.contextmanager
def object_errors(url: str) -> Generator[None]:
    """Raise errors of obstore as our own; its texts, which may contain signed URLs, are not shown."""
    with needs_extra("cloud"):
        from obstore import exceptions
    try:
        yield
    except FileNotFoundError:
        problem, code = "does not exist", "E-REMOTE-ABSENT"
    except (PermissionError, exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
        problem = "access denied; log in as the service describes, such as with AWS_PROFILE"
        code = "E-REMOTE-DENIED"
    except (exceptions.BaseError, ValueError, OSError) as error:
        problem = (
            f"the service fails ({type(error).__name__}); check URL and login, or try again later"
        )
        code = "E-REMOTE-CONNECT"
    else:
        return
    raise StoreError(f"{printable(url)}: {problem}", code=code)
