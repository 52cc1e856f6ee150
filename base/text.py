"""Texts for people: made printable, counted, logged to the terminal; and names of image files."""

import logging
import os
import re
import sys

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?:://|::)")
# Of the formats that Pillow reads for us. A file with such a name counts as an image until
# extraction finds that it is not one.
IMAGE_SUFFIXES = frozenset(
    [
        ".apng",
        ".avif",
        ".avifs",
        ".bmp",
        ".gif",
        ".heic",
        ".heics",
        ".heif",
        ".heifs",
        ".hif",
        ".j2c",
        ".j2k",
        ".jfif",
        ".jp2",
        ".jpc",
        ".jpe",
        ".jpeg",
        ".jpf",
        ".jpg",
        ".jps",
        ".jpx",
        ".mpo",
        ".pbm",
        ".pfm",
        ".pgm",
        ".pjp",
        ".pjpeg",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    ]
)


def is_url(text: str) -> bool:
    """Return whether `text` is a URL (or one inside another, "zip::s3://...") and not a path."""
    return URL.match(text) is not None


def printable(text: str) -> str:
    r"""Return `text` with each character that a terminal would act on replaced by its escape.

    Ids, reasons and notes of a store may come from anywhere and contain anything. Tabs and line
    ends are escaped too, so that a text stays in its column.

    >>> printable("a\tb")
    'a\\tb'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    r"""Return `text` with each of its lines made printable.

    >>> printable_lines("a\tb\nc")
    'a\\tb\nc'
    """
    return "\n".join(map(printable, text.split("\n")))


def counted(number: int, noun: str) -> str:
    """Return a number with what it counts, whose plural ends in an s.

    >>> counted(1, "image"), counted(1200, "image")
    ('1 image', '1,200 images')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size_text(count: int) -> str:
    """Return a number of bytes in the largest unit of which it has one or more.

    >>> size_text(49_100_000_000)
    '49.1 GB'
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"


def is_unicode(text: str) -> bool:
    """Return whether a text can be encoded as UTF-8: it contains no half of a surrogate pair."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def suffix(path: str) -> str:
    """Return the ending of a file's name, in lower case.

    >>> suffix("a.b/c.tar.GZ"), suffix(".hidden")
    ('.gz', '')
    """
    return os.path.splitext(path)[1].lower()  # noqa: PTH122


def tell(lines: str) -> None:
    """Print a result for people to stdout, made printable."""
    print(printable_lines(lines))


class TerminalHandler(logging.Handler):
    """Prints messages to stderr, made printable, since they contain names from anywhere.

    stderr is looked up for each message, since a progress bar or a test may have replaced it.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message, without its level and its logger."""
        print(printable_lines(record.getMessage()), file=sys.stderr)


def log_to_terminal() -> None:
    """Print what clipfeat logs, from level INFO on, to stderr; the command line calls this once.

    A program that imports clipfeat decides for itself: `logging.getLogger("clipfeat")`.
    """
    logger = logging.getLogger("clipfeat")
    if not any(isinstance(handler, TerminalHandler) for handler in logger.handlers):
        logger.addHandler(TerminalHandler())
        logger.setLevel(logging.INFO)
