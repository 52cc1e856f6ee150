"""Tar shards as webdataset writes them: a member's key is the image's id."""

import re
from collections.abc import Iterable

from ..base.text import printable
from .errors import ManifestError
from .images import Image
from .listing import Say
from .tars import members
from .walk import SUFFIXES, suffix

# webdataset's rule: folders, then the name up to its first dot, then the rest. A name that begins
# with a dot has no key; in a folder, webdataset would take the folder for it.
NAME = re.compile(r"((?:.*/)?[^/.]+)\.([^/]*)", re.DOTALL)


def shard_images(shards: Iterable[tuple[str, str]], say: Say) -> list[Image]:
    """Return the images in tar files, each a file and its path from the root; sizes unknown.

    Raises ManifestError for a file that is no whole, plain tar, and where there is no image.
    """
    images: list[Image] = []
    dotted: list[str] = []
    files = []
    for file, prefix in shards:
        files.append(file)
        try:
            names = members(file)
        except OSError as error:
            raise ManifestError(f"{file}: {error.strerror}; pack it anew, uncompressed") from None
        for name in names:
            match = NAME.fullmatch(name)
            if match and f".{match[2].lower()}" in SUFFIXES:
                images.append(Image(match[1], f"{prefix}/{name}", 0, 0))
            elif suffix(name) in SUFFIXES:
                dotted.append(f"{prefix}/{name}")
    if dotted:
        say(
            f"{len(dotted):,} image files are passed over, {printable(dotted[0])} for one: an "
            "image's name has one dot, as its key ends at the first"
        )
    if not images:
        raise ManifestError(
            f"{', '.join(files):.200}: no member is an image; expected KEY and one of "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    return images
