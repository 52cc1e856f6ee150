"""A folder's image files as images: ids are file stems, or paths."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..base.endings import SUFFIXES, suffix
from ..base.text import printable
from .contents import disk_path
from .errors import ManifestError
from .headers import Size, read_sizes
from .images import Image
from .manifest import broken_rule
from .names import escaped, from_disk, without_odd
from .passed import DANGLING, NO_IMAGES, Passed, Say, say_odd_names
from .walk import OTHER_SUFFIXES, walk


class Folder(NamedTuple):
    """What is in a folder and below, as sorted paths relative to it."""

    images: tuple[str, ...]  # files whose ending is that of an image, whatever they hold
    by_content: dict[str, Size]  # files of other endings, or none, that are images all the same
    tars: tuple[str, ...]  # where there is no image


def look_into(folder: Path, say: Say) -> Folder:
    """Return what is in `folder` and below; `say` is told what is passed over.

    A file whose ending is neither that of an image nor of what stands beside images is looked
    at: it is an image if its header can be read.
    """
    passed = Passed()
    images: list[str] = []
    others: list[str] = []
    asked: list[str] = []
    for path in sorted(walk(str(folder), passed)):
        ending = suffix(path)
        if ending in SUFFIXES:
            images.append(path)
        else:
            (others if ending in OTHER_SUFFIXES else asked).append(path)
    root = from_disk(str(folder))
    sizes = read_sizes(root, [escaped(path) for path in asked]) if asked else []
    by_content = {path: size for path, size in zip(asked, sizes, strict=True) if any(size)}
    tars = [] if images or by_content else [path for path in others if suffix(path) == ".tar"]
    for path in others:
        if not tars or suffix(path) != ".tar":
            passed.add(NO_IMAGES, path)
    for path in asked:
        if path not in by_content:
            there = os.path.exists(disk_path(root, path))  # noqa: PTH110
            passed.add(NO_IMAGES if there else DANGLING, path)
    passed.say(str(folder), say)
    return Folder(tuple(images), by_content, tuple(tars))


def folder_images(folder: Path, found: Folder, prefix: str, ids: str, say: Say) -> list[Image]:
    """Return the images among what was found in `folder`; the sizes of most are unknown.

    `prefix` leads from the root to the folder. `ids` is "stem", the file's name without its
    ending, or "path", the path from the root without its ending. An ending that is not an
    image's stays a part of the id. Raises ManifestError for a folder without an image.
    """
    if not found.images and not found.by_content:
        raise ManifestError(
            f"{folder} holds no image file; expected names ending in {', '.join(sorted(SUFFIXES))}, "
            "or other files that hold images"
        )
    say_odd_names(str(folder), (*found.images, *found.by_content), say)
    if found.by_content:
        example = printable(without_odd(next(iter(found.by_content))))
        say(
            f"{folder}: images by what they hold, whose names do not end as an image's: "
            f"{len(found.by_content):,}, such as {example}"
        )
    named = ((path, os.path.splitext(path)[0], (0, 0)) for path in found.images)  # noqa: PTH122
    others = ((path, path, size) for path, size in found.by_content.items())
    passed = Passed()
    images = [
        Image(
            without_odd(bare.rpartition("/")[2] if ids == "stem" else prefix + bare),
            escaped(prefix + path),
            *size,
        )
        for path, bare, size in (*named, *others)
    ]
    images = list(storable(images, passed))
    passed.say(str(folder), say)
    return images


def storable(images: Iterable[Image], passed: Passed) -> Iterator[Image]:
    """Yield the images that a manifest can hold; the others are passed over."""
    for image in images:
        if why := broken_rule(image):
            passed.add(f"files that a manifest cannot hold (a row {why})", image.path)
        else:
            yield image
