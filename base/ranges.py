"""Bytes of files behind URLs: ranges and whole files, checked strictly, in bounded time.

This is the client for HTTP(S); objects in clouds are read by `base/objects.py`.

Only an answer that is exactly what was asked for is accepted: status 206 with the requested
Content-Range, as many bytes as requested, without compression and in one part. The bytes
themselves are not known here: whoever asks compares them with a hash or a checksum.
"""

import logging
import random
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from time import monotonic, time
from typing import NoReturn
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, LocationParseError, LocationValueError, SSLError

from .connections import Patience, failure_text, forget_host, give_back, host_of
from .credentials import login_remedy, origin
from .errors import CorruptStoreError, StoreError, StoreUsageError
from .interruption import Interruption
from .objects import SCHEMES, is_object, stream_object
from .text import printable

RETRIES = 4  # one after the other, without PROGRESS_BYTES between them
PROGRESS_BYTES = 1 << 20
BACKOFF_SECONDS = 0.5  # before the first retry; doubled for each further one
LONG_WAIT = 5.0  # seconds; a longer wait is logged
SILENCE_SECONDS = 30.0  # that a server may let pass between two packets
DEADLINE_SECONDS = 330.0  # for one call, with its retries (the Hub counts requests in 300); and
SLOWEST_BYTES = 100_000  # bytes for each further second
MAX_REDIRECTS = 5
MAX_TARGETS = 10_000  # of redirects, kept in memory
PIECE_BYTES = 1 << 18  # read at a time
REDIRECTS = (301, 302, 303, 307, 308)
BUSY = (408, 425, 429)  # and all of 500 and more: a later request may succeed
CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
HUB_WAIT = re.compile(r"\bt=([0-9]{1,9})")  # seconds, in the Hub's header RateLimit

logger = logging.getLogger(__name__)
_told = 0.0  # when a wait may be logged again
_targets: dict[str, str] = {}  # where a URL was redirected to; the Hub signs it for an hour


def read_range(url: str, first: int, length: int, *, size: int | None = None) -> bytes:
    """Return `length` bytes of the file at `url` from byte `first` on.

    `size` is the size that the file must have, if it is known. Raises StoreError (E-REMOTE-...) for
    a server that cannot be reached, refuses, or does not answer ranges exactly; CorruptStoreError
    for a file of another size (E-REMOTE-SIZE). Errors name the URL without its query.
    """
    return b"".join(stream_range(url, first, length, size=size))


def stream_range(url: str, first: int, length: int, *, size: int | None = None) -> Iterator[bytes]:
    """Yield the bytes that `read_range` returns, in pieces; a dropped connection is continued."""
    if length:
        yield from _pieces(url, first, length, size, length)


def read_file(url: str, limit: int) -> bytes:
    """Return the whole file at `url`; raises as `read_range` does, and for more than `limit` bytes."""
    return b"".join(stream_file(url, limit))


def stream_file(url: str, limit: int) -> Iterator[bytes]:
    """Yield the bytes that `read_file` returns, in pieces; a dropped connection is continued."""
    yield from _pieces(url, 0, None, None, limit)


def _pieces(
    url: str, first: int, length: int | None, size: int | None, limit: int
) -> Iterator[bytes]:
    """Return the pieces of a range, or of a whole file if `length` is None."""
    if is_object(url):
        return stream_object(url, first, length, size, limit)
    return _Transfer(url, first, length, size, limit).pieces()


def require_url(url: str) -> None:
    """Raise StoreUsageError (E-REMOTE-URL) unless `url` is a plain URL of a file or a folder."""
    if not url:
        raise StoreUsageError(
            "a URL is empty; give one like https://HOST/PATH", code="E-REMOTE-URL"
        )
    problem = ""
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https", *SCHEMES):
            problem = "must begin with https://, http://, hf://, s3://, gs:// or az://"
        elif not _is_host(parts.hostname or "") or not 0 <= (parts.port or 0) < 1 << 16:
            problem = "must name a host"
        elif "@" in parts.netloc:
            problem = "must not contain a login; write it into ~/.netrc"
        elif parts.query or parts.fragment:
            problem = "must not contain ? or #; pass the URL of the store's folder"
        elif not url.isascii() or not url.isprintable() or " " in url:
            problem = "must consist of printable ASCII; write other characters as %XX"
    except ValueError:  # of a port that is not a number
        problem = "must be like https://HOST/PATH, with a port of at most 65535"
    if problem:
        raise StoreUsageError(f"{shown(url)}: a URL {problem}", code="E-REMOTE-URL")


def _is_host(name: str) -> bool:
    """Return whether each part of a host name has a length that names can have (RFC 1035)."""
    return all(0 < len(part) < 64 for part in name.removesuffix(".").split("."))


def shown(url: str) -> str:
    """Return a URL for people, without what may be a secret: login, query and fragment.

    >>> shown("https://me:password@host/a?signature=1")
    'https://host/a'
    """
    scheme, separator, rest = url.partition("://")
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return printable(f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"[:500])


class _TemporaryError(Exception):
    """A failure that a later attempt may not have; `wait` is what the server asks for, in seconds."""

    def __init__(self, problem: str, code: str, wait: float | None = None):
        super().__init__(problem)
        self.code, self.wait = code, wait


class _Transfer:
    """One range or one whole file with its retries; each attempt continues where the last ended."""

    def __init__(self, url: str, first: int, length: int | None, size: int | None, limit: int):
        self._url = url
        self._first = first
        self._length = length  # None: not known yet, of a whole file
        self._size = size
        self._limit = limit
        self._is_range = length is not None
        self._received = 0
        self._at = url  # where it was redirected to
        end = monotonic() + DEADLINE_SECONDS + (length or 0) / SLOWEST_BYTES
        self._patience = Patience(SILENCE_SECONDS, end, Interruption())

    def pieces(self) -> Iterator[bytes]:
        failures = mark = 0
        while True:
            try:
                with self._answer() as response:
                    yield from self._body(response)
                return
            except _TemporaryError as failure:
                if self._received - mark >= PROGRESS_BYTES:
                    failures, mark = 0, self._received
                failures += 1
                self._wait(failure, failures)

    def _wait(self, failure: _TemporaryError, failures: int) -> None:
        """Wait before the next attempt, or raise the error if there must be none."""
        backoff = BACKOFF_SECONDS * 2 ** (failures - 1) * random.uniform(0.5, 1)
        wait = backoff if failure.wait is None else failure.wait
        is_lost = self._length is None and self._received > 0  # the rest cannot be asked for
        self._check_time()
        is_too_long = monotonic() + wait > self._patience.end
        if is_too_long and failure.wait is not None:
            self._fail(
                f"{failure}; it asks to wait {wait:,.0f} seconds; try again then", failure.code
            )
        if failures > RETRIES or is_lost or is_too_long:
            self._fail(f"{failure}, {failures} times in a row; try again later", failure.code)
        _tell_wait(f"{shown(self._url)}: {failure}", wait)
        self._patience.interruption.pause(wait)

    def _check_time(self) -> None:
        """Raise the error of a call that has reached its deadline."""
        self._patience.interruption.check()
        if monotonic() > self._patience.end:
            self._fail("took too long; try again later", "E-REMOTE-DEADLINE")

    def _fail(self, problem: str, code: str, kind: type[StoreError] = StoreError) -> NoReturn:
        host = origin(self._at)[1]
        at = "" if host == origin(self._url)[1] else f" (redirected to {host})"
        raise kind(f"{shown(self._url)}{printable(at)}: {problem}", code=code) from None

    @contextmanager
    def _answer(self) -> Generator[urllib3.BaseHTTPResponse]:
        """Send the request for what is left, and yield the answer, which was checked."""
        target = _targets.get(self._url)
        response = self._follow(target or self._url)
        try:
            if target is not None and _is_denied(response.status):  # a signed URL has expired
                response.close()
                _targets.pop(self._url, None)
                response = self._follow(self._url)
            self._check_status(response)
            self._check_headers(response)
            yield response
        finally:
            response.close()  # without effect on a connection that was given back to the pool

    def _follow(self, url: str) -> urllib3.BaseHTTPResponse:
        for _ in range(MAX_REDIRECTS + 1):
            self._at = url
            response = self._send(url)
            if response.status not in REDIRECTS:
                if url != self._url and not _is_denied(response.status):
                    if len(_targets) >= MAX_TARGETS:
                        _targets.clear()
                    _targets[self._url] = url
                return response
            location = response.headers.get("Location", "")
            give_back(response)
            url = self._redirected(url, location)
        self._fail(f"redirects more than {MAX_REDIRECTS} times", "E-REMOTE-REDIRECT")

    def _redirected(self, url: str, location: str) -> str:
        """Return where a redirect leads to; other schemes, a step to http and logins are refused."""
        problem = ""
        try:
            target = urljoin(url, location)
            parts = urlsplit(target)
            if not location or not parts.hostname or parts.scheme not in ("http", "https"):
                problem = "to something other than an HTTP(S) URL"
            elif parts.scheme == "http" and urlsplit(url).scheme == "https":
                problem = "from https to http, where anybody may change what is sent"
            elif "@" in parts.netloc or (parts.port or 0) < 0:
                problem = "to a URL with a login"
        except ValueError:
            target, problem = "", "to an invalid URL"
        if problem:
            self._fail(f"redirects {problem}; use the URL of another server", "E-REMOTE-REDIRECT")
        return target

    def _send(self, url: str) -> urllib3.BaseHTTPResponse:
        self._check_time()
        host = host_of(url)
        headers = {"Accept-Encoding": "identity", "User-Agent": host.user_agent}
        if self._is_range or self._received:
            start, end = self._range()
            headers["Range"] = f"bytes={start}-{end - 1}"
        if host.authorization and origin(url) == origin(self._url):
            headers["Authorization"] = host.authorization
        try:
            return host.get(url, headers, self._patience)
        except SSLError as error:
            self._fail(f"no secure connection ({failure_text(error)})", "E-REMOTE-TLS")
        except (LocationParseError, LocationValueError):
            self._fail("is not a valid URL", "E-REMOTE-URL")
        except (HTTPError, OSError) as error:
            raise _TemporaryError(
                f"no answer ({failure_text(error)})", "E-REMOTE-CONNECT"
            ) from None

    def _range(self) -> tuple[int, int]:
        """Return the first byte that is still needed, and the end."""
        return self._first + self._received, self._first + (self._length or 0)

    def _check_status(self, response: urllib3.BaseHTTPResponse) -> None:
        status = response.status
        if status in BUSY or status >= 500:
            wait = _asked_wait(response)
            code = "E-REMOTE-BUSY" if status in (*BUSY, 503) else "E-REMOTE-STATUS"
            raise _TemporaryError(f"the server answers with status {status}", code, wait)
        if status in (401, 403):
            forget_host(self._url)  # a person logs in now, and tries again in the same process
            remedy = login_remedy(self._url)
            self._fail(f"access denied (status {status}); {remedy}", "E-REMOTE-DENIED")
        if status in (404, 410):
            self._fail(f"does not exist (status {status}); check the URL", "E-REMOTE-ABSENT")
        if status == 416:
            self._fail_size("is shorter than it must be (status 416)")
        expected = 206 if self._is_range or self._received else 200
        if expected == 206 and status == 200:
            self._fail_range("the server ignores Range and sends the whole file")
        if status != expected:
            self._fail(
                f"status {status}; expected {expected}; use another server", "E-REMOTE-ANSWER"
            )

    def _check_headers(self, response: urllib3.BaseHTTPResponse) -> None:
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if encoding != "identity":
            self._fail(
                f"the server compresses it ({encoding:.20}), although that was not asked for; it "
                f"must send the file as it is",
                "E-REMOTE-ENCODING",
            )
        stated = response.headers.get("Content-Length")
        length = int(stated) if stated and re.fullmatch("[0-9]{1,19}", stated) else None
        if response.status == 206:
            start, end = self._range()
            self._check_range(response.headers.get("Content-Range", ""), start, end)
            if length not in (None, end - start):
                self._fail_range(f"the server sends {length} bytes of the {end - start} requested")
        elif length is not None:
            self._check_limit(length)
            self._length = self._size = length
            self._patience.end += length / SLOWEST_BYTES

    def _check_range(self, content_range: str, start: int, end: int) -> None:
        match = CONTENT_RANGE.fullmatch(content_range)
        if match and match[3] != "*" and self._size not in (None, int(match[3])):
            self._fail_size(f"has {int(match[3]):,} bytes; expected {self._size:,}")
        if match is None or (int(match[1]), int(match[2])) != (start, end - 1):
            got = content_range or "no Content-Range"
            self._fail_range(
                f"the server answers the request for bytes {start}-{end - 1} with {got!r:.80}"
            )

    def _check_limit(self, length: int) -> None:
        if length > self._limit:
            self._fail_size(f"has {length:,} bytes or more; the limit for it is {self._limit:,}")

    def _fail_range(self, problem: str) -> NoReturn:
        remedy = "use a server that answers ranges exactly, or copy the store to this machine"
        self._fail(f"{problem}; {remedy}", "E-REMOTE-RANGE")

    def _fail_size(self, problem: str) -> NoReturn:
        remedy = "it is another file than store.json describes; tell whoever keeps the server"
        self._fail(f"{problem}; {remedy}", "E-REMOTE-SIZE", CorruptStoreError)

    def _body(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        """Yield what is left of the content, exactly."""
        while self._length is None or self._received < self._length:
            left = PIECE_BYTES if self._length is None else self._length - self._received
            piece = self._piece(response, min(PIECE_BYTES, left))
            if not piece:
                if self._length is None:
                    break
                raise _TemporaryError(
                    f"the connection ended after {self._received:,} of {self._length:,} bytes",
                    "E-REMOTE-CONNECT",
                )
            self._received += len(piece)
            if self._length is None:
                self._check_limit(self._received)
            yield piece
        if self._piece(response, 1):
            self._fail_size("the server sends more bytes than were requested")
        response.release_conn()

    def _piece(self, response: urllib3.BaseHTTPResponse, size: int) -> bytes:
        self._check_time()
        try:
            return response.read1(size, decode_content=False)
        except (HTTPError, OSError) as error:
            raise _TemporaryError(
                f"the connection was lost after {self._received:,} bytes ({failure_text(error)})",
                "E-REMOTE-CONNECT",
            ) from None


def _is_denied(status: int) -> bool:
    """Return whether the same request to the same URL would fail again."""
    return 400 <= status < 500 and status not in (*BUSY, 416)


def _tell_wait(problem: str, wait: float) -> None:
    """Log a long wait, but not again from each thread."""
    global _told
    if wait > LONG_WAIT and monotonic() > _told:
        _told = monotonic() + LONG_WAIT
        logger.warning(f"{problem}; waiting {wait:.0f} seconds, as it asks")


def _asked_wait(response: urllib3.BaseHTTPResponse) -> float | None:
    """Return how many seconds a server asks to wait, None if it does not."""
    after = response.headers.get("Retry-After", "").strip()
    if re.fullmatch("[0-9]{1,9}", after):
        return float(after)
    if hub := HUB_WAIT.search(response.headers.get("RateLimit", "")):
        return float(hub[1])
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - time()) if after else None
    except (ValueError, OverflowError):
        return None
