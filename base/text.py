"""Text from elsewhere, made fit for a person's terminal."""

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


def say(text: str) -> None:
    """Print a remark for people to stderr, made printable: names in it may come from anywhere."""
    print(printable_lines(text), file=sys.stderr)


def is_unicode(text: str) -> bool:
    """Return whether a text can be printed, drawn and encoded; half a surrogate pair cannot."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)
