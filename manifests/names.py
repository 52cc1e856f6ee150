r"""Names of files as text, whatever bytes they are made of.

On disk a name is bytes, and nearly always UTF-8. Inside this package it is a text with a surrogate
for each byte that is not UTF-8 (PEP 383, but never in another encoding: the locale has no say in
what a file is called). A manifest holds UTF-8: such a byte stands there as `\xe9`, and a backslash,
which would look like the beginning of such an escape, as two.
"""

import errno
import os
import re

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
