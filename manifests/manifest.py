"""Which images to extract: a frozen, checked list."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..base.parquet import MAX_TEXT
from ..base.text import printable
from .contents import absolute_root
from .errors import ManifestError
from .images import Image, Images
from .names import ODD, is_escaped

MAX_SIDE = 2**31 - 1  # pixels, what the Parquet file holds
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")  # of a URL, or a drive: more than base.text.URL


@dataclass(frozen=True)
class Manifest:
    """Images sorted by id, every id once; a Manifest that breaks this cannot be made.

    Paths stay below the root: a manifest from elsewhere names no file outside of it. (What
    stands below the root is the user's own, symbolic links too; they are followed.)
    """

    root: str  # what paths are relative to: an absolute folder, or a URL that fsspec reads
    images: Images

    @classmethod
    def of(cls, root: str | Path, images: Iterable[Image]) -> Self:
        """Return the manifest of `images` in any order."""
        return cls(absolute_root(root), Images.of(checked(images)))

    def __post_init__(self) -> None:
        if not self.images:
            raise ManifestError(f"{self.root}: a manifest must have at least one image; it has 0")
        if duplicate := self.images.first_duplicate():
            raise same_id(*duplicate)


def same_id(first: Image, second: Image, remedy: str = "") -> ManifestError:
    """Return the error of two images with one id."""
    remedy = remedy or ("name each image once" if first.path == second.path else "rename one")
    return ManifestError(
        f"two images have the id {first.image_id!r}: {printable(first.path)} and "
        f"{printable(second.path)}; ids must be unique: {remedy}",
        code="E-MANIFEST-ID",
    )


def checked(images: Iterable[Image]) -> Iterator[Image]:
    """Yield the images, raising ManifestError at one that no manifest may hold."""
    for image in images:
        if why := broken_rule(image):
            shown = f"id {image.image_id!r:.100}, path {image.path!r:.100}"
            raise ManifestError(f"a manifest row {why}; got {shown}, size {image[2:]!r:.100}")
        yield image


def broken_rule(image: Image) -> str | None:
    """Return the rule that a row breaks, with its remedy, or None.

    >>> broken_rule(Image("a", "../a.jpg", 1, 1))
    'must have a path below the root, without .. in it'
    """
    if why := broken_text(image):
        return why
    _, path, width, height = image
    if path[0] == "/" or (".." in path and "/../" in f"/{path}/"):
        return "must have a path below the root, without .. in it"
    if not is_escaped(path):
        return "must have no backslash in its path but in an escape: parts are divided by /"
    if ":/" in path and SCHEME.match(path):
        return "must have a path and no URL: the root may be one"
    for side in (width, height):
        if type(side) is not int or not 0 <= side <= MAX_SIDE:
            return "must have a size >= 0 in whole pixels"
    return None


def broken_text(image: Image) -> str | None:
    """Return the rule that the id or the path breaks as a text, wherever the path leads, or None.

    >>> broken_text(Image("a", "", 1, 1))
    'must have an id and a path, both text and not empty'
    """
    image_id, path, *_ = image
    if type(image_id) is not str or type(path) is not str or not image_id or not path:
        return "must have an id and a path, both text and not empty"
    if not (image_id.isascii() and path.isascii()) and ODD.search(image_id + path):
        return "must have an id and a path of UTF-8 text: rename it"
    long = len(image_id) + len(path) > MAX_TEXT // 4
    if long and max(len(image_id.encode()), len(path.encode())) > MAX_TEXT:
        return f"must have an id and a path of at most {MAX_TEXT:,} bytes"
    if "\0" in path or "\0" in image_id:
        return "must have no NUL in its texts"
    return None
