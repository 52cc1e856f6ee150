"""Files that contain image files: tar, tar.gz, zip and Parquet."""

import re
from collections.abc import Callable, Collection, Sequence
from typing import BinaryIO, NamedTuple

from ..base import tars
from . import parquet_images, zips


class Format(NamedTuple):
    """How the members of an archive are found and read; the functions take its path on disk."""

    names: Callable[[str], Collection[str]]
    open: Callable[[str, str], BinaryIO]  # with the name of a member
    heads: Callable[[str, Sequence[str], int], list[bytes]]  # names, and a length in bytes


TAR = Format(tars.members, tars.open_member, tars.heads)
ZIP = Format(zips.members, zips.open_member, zips.heads)
PARQUET = Format(parquet_images.names, parquet_images.open_member, parquet_images.heads)
FORMATS = {".tar": TAR, ".tar.gz": TAR, ".tgz": TAR, ".zip": ZIP, ".parquet": PARQUET}
ENDINGS = tuple(FORMATS)
# In a path: what comes before it leads to an archive, what comes after it is a member.
ARCHIVE = re.compile(r"(?:\.tar|\.tar\.gz|\.tgz|\.zip|\.parquet)/", re.IGNORECASE)


def archive_ending(path: str) -> str:
    """Return the ending of an archive's name, "" if the file is not one by its name.

    >>> archive_ending("a/b.TAR.gz"), archive_ending("b.gz")
    ('.tar.gz', '')
    """
    name = path.lower()
    return next((ending for ending in ENDINGS if name.endswith(ending)), "")


def archive_format(path: str) -> Format:
    """Return the format of an archive, which its name tells."""
    return FORMATS[archive_ending(path)]
