"""Tar shards as webdataset writes them: a member's key is the image's id."""

import re
from collections.abc import Iterable

from ..base.errors import ManifestError
from ..base.text import IMAGE_SUFFIXES, printable, suffix
from .contents import disk_path, escaped, without_odd
from .folder import (
    HIDDEN,
    NO_IMAGES,
    OTHER_SUFFIXES,
    Passed,
    Say,
    is_hidden,
    say_odd_names,
    storable,
)
from .headers import read_sizes
from .manifest import Image
from .tars import members, others

# webdataset's rule: folders, then the name up to its first dot, then the rest. A name that begins
# with a dot has no key; in a folder, webdataset would take the folder for it.
NAME = re.compile(r"((?:.*/)?[^/.]+)\.([^/]*)", re.DOTALL)
UNREAD = "symbolic links, devices and sparse files"
DOTTED = "images with more than one dot in their name (a sample's key ends at the first)"


def shard_images(root: str, shards: Iterable[str], say: Say) -> list[Image]:
    """Return the images in tar files, given as paths under the local `root`; sizes of most unknown.

    The texts and numbers of a sample are no images. Other members that do not end as an image
    does are looked at: one that holds an image has its whole name as its id. Raises
    ManifestError for a file that is not a whole, plain tar, and where there is no image.
    """
    images: list[Image] = []
    passed = Passed()
    asked: list[tuple[str, str]] = []
    tars = list(shards)
    for tar in tars:
        place = disk_path(root, tar)
        try:
            names, unread = members(place), others(place)
        except OSError as error:
            raise ManifestError(f"{place}: {error.strerror}; pack it anew, uncompressed") from None
        say_odd_names(place, names, say)
        for name in unread:
            passed.add(HIDDEN if _is_hidden(name) else UNREAD, f"{tar}/{name}")
        for name in names:
            path = f"{tar}/{name}"
            if _is_hidden(name):
                passed.add(HIDDEN, path)
            elif (match := NAME.fullmatch(name)) and f".{match[2].lower()}" in IMAGE_SUFFIXES:
                images.append(Image(without_odd(match[1]), escaped(path), 0, 0))
            elif (ending := suffix(name)) in IMAGE_SUFFIXES:
                passed.add(DOTTED, path)
            elif ending not in OTHER_SUFFIXES:
                asked.append((name, path))
    sizes = read_sizes(root, [escaped(path) for _, path in asked]) if asked else []
    for (name, path), size in zip(asked, sizes, strict=True):
        if any(size):
            images.append(Image(without_odd(name), escaped(path), *size))
        else:
            passed.add(NO_IMAGES, path)
    images = list(storable(images, passed))
    passed.say(", ".join(map(printable, tars[:3])), say)
    if not images:
        raise ManifestError(
            f"{', '.join(tars):.200}: no member is an image; expected KEY and one of "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return images


def _is_hidden(name: str) -> bool:
    if "/" not in name:
        return is_hidden(name)
    return any(is_hidden(part) for part in name.split("/") if part not in (".", ".."))
