"""Text from elsewhere, made fit for a person's terminal."""

import logging
import os
import re
import sys

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?:://|::)")


def is_url(text: str) -> bool:
    """Return whether `text` is a URL, or one inside another, and not a path."""
    return URL.match(text) is not None


def printable(text: str) -> str:
    r"""Return `text` with each character that a terminal would act on written as its escape.

    Ids, reasons and notes of a store may come from anywhere, and so may hold anything. Tabs
    and line ends are escaped too: a text stays in its column.

    >>> printable("a\tb")
    'a\\tb'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    r"""Return `text` with its lines kept, and each of them made printable.

    >>> printable_lines("a\tb\nc")
    'a\\tb\nc'
    """
    return "\n".join(map(printable, text.split("\n")))


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with what it counts; `plural` where that is not the noun with an s.

    >>> counted(1, "image"), counted(1200, "image"), counted(2, "entry", "entries")
    ('1 image', '1,200 images', '2 entries')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


class TerminalHandler(logging.Handler):
    """Prints the text of a log record to stderr, made printable: it may hold names from anywhere.

    stderr is looked up for each record, since a progress bar or a test may have replaced it.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record's text, without its level or its logger."""
        print(printable_lines(record.getMessage()), file=sys.stderr)


def log_to_terminal() -> None:
    """Show what clipfeat logs, from INFO on, on stderr; the command line calls this once.

    A program that imports clipfeat chooses for itself: `logging.getLogger("clipfeat")`.
    """
    logger = logging.getLogger("clipfeat")
    if not any(isinstance(handler, TerminalHandler) for handler in logger.handlers):
        logger.addHandler(TerminalHandler())
        logger.setLevel(logging.INFO)


def is_unicode(text: str) -> bool:
    """Return whether a text can be printed, drawn and encoded; half a surrogate pair cannot."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


# Those of what Pillow reads for us. A file of such a name is an image until extraction finds that
# it is not.
IMAGES = (
    ".apng .avif .avifs .bmp .gif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jps .jpx .mpo "
    ".pbm .pfm .pgm .pjp .pjpeg .png .pnm .ppm .tif .tiff .webp"
)
IMAGE_SUFFIXES = frozenset(IMAGES.split())


def suffix(path: str) -> str:
    """Return the ending of a file's name, in lower case.

    >>> suffix("a.b/c.tar.GZ"), suffix(".hidden")
    ('.gz', '')
    """
    return os.path.splitext(path)[1].lower()  # noqa: PTH122
