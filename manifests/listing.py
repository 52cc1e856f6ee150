"""What a file says of images, and where under the root they are."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..base.errors import ManifestError
from ..base.text import is_url, printable
from .contents import escaped, from_disk, is_escaped, open_content, to_disk, without_odd
from .folder import Names, Passed, Say
from .manifest import Image, broken_text, checked

PROBES = 16  # files of each layout that are asked for under a URL, which cannot be listed
Place = Callable[[Image], str]  # from an image, as its list has it, to a path under the root


@dataclass(frozen=True)
class Listing:
    """The images that a file lists, with width and height 0 where it does not say."""

    source: Path
    images: Sequence[Image]
    layouts: Mapping[str, Place]  # the ways in which people lay the files out, by name


class Located(NamedTuple):
    """An image with its path under the root."""

    image: Image
    is_open: bool  # whether its header is to be read, whatever the list says of its size


def listed(source: Path, images: Iterable[Image], layouts: Mapping[str, Place]) -> Listing:
    """Return the listing of `images`, names spelled as a manifest does.

    Raises ManifestError if there are none.
    """
    found = [_spelled(image) for image in images]
    if not found:
        raise ManifestError(f"{source} lists no image; give a file that lists some")
    return Listing(source, found, layouts)


def _spelled(image: Image) -> Image:
    """Escape what a manifest cannot hold; the escapes of a manifest's own paths stay."""
    if image.image_id.isascii() and image.path.isascii() and "\\" not in image.path:
        return image
    path = without_odd(image.path) if is_escaped(image.path) else escaped(image.path)
    return image._replace(image_id=without_odd(image.image_id), path=path)


def located(listing: Listing, root: str, say: Say) -> list[Located]:
    """Return the images with their paths under `root`, in the layout that has most of them.

    An absolute path that leads below the root is taken from there on. `say` is told how many
    rows are passed over because no file has such a name, and how many files are not there. The
    latter stay: extraction records them as missing. Headers are read where files are there;
    under a URL, only for sizes that are not known.

    Raises ManifestError if no file is there in any layout, for a path that leads out of the root,
    and where no row is left.
    """
    images = _below_root(listing, root, say)
    remote = is_url(root)
    asked = images[:: max(1, len(images) // PROBES)] if remote else images
    find = _asking(root) if remote else Names(root).find
    found = {
        name: [find(place(image)) for image in asked] for name, place in listing.layouts.items()
    }
    layout = min(found, key=lambda name: found[name].count(None))  # the first of equals
    place, paths = listing.layouts[layout], found[layout]
    missing = [place(image) for image, path in zip(asked, paths, strict=True) if path is None]
    if len(missing) == len(asked):
        tried = " or ".join(f"{printable(root)}/{name}" for name in listing.layouts)
        divided = "; parts of a path are divided by /" if r"\\" in missing[0] else ""
        raise ManifestError(
            f"{listing.source}: none of its {len(images):,} images is there as {tried}, "
            f"such as {printable(missing[0])}{divided}; give the folder above them with --images"
        )
    if remote:
        say(f"{printable(root)} is not searched for every file; extraction says what is missing")
        unknown = (not (image.width and image.height) for image in images)
        return [
            Located(image._replace(path=place(image)), is_open)
            for image, is_open in zip(images, unknown, strict=True)
        ]
    if missing:
        say(
            f"{listing.source}: {len(missing):,} of {len(images):,} images are not in "
            f"{printable(root)}, such as {printable(missing[0])}"
        )
    return [
        Located(image._replace(path=path or place(image)), path is not None)
        for image, path in zip(images, paths, strict=True)
    ]


def _below_root(listing: Listing, root: str, say: Say) -> list[Image]:
    """Return the images of a list, checked, with paths that begin at the root."""
    passed, last = Passed(), ""
    tops = () if is_url(root) else (root, from_disk(os.path.realpath(to_disk(root))))
    tops = tuple(escaped(top).rstrip("/") + "/" for top in tops)
    images = []
    for image in listing.images:
        if image.path.startswith("/"):
            top = next((top for top in tops if image.path.startswith(top)), None)
            if top is None:
                raise ManifestError(
                    f"{listing.source}: {printable(image.path):.200} is not a path below the root "
                    f"{printable(root)}; give a folder above it with --images"
                )
            image = image._replace(path=image.path[len(top) :].lstrip("/"))
        if why := broken_text(image):
            passed.add(f"rows that a manifest cannot hold (a row {why})", image.path)
            last = f"{why}; got id {image.image_id!r:.100}, path {image.path!r:.100}"
        else:
            images.append(image)
    if not images:
        raise ManifestError(f"{listing.source}: none of its rows can be used: a row {last}")
    passed.say(str(listing.source), say)
    try:
        return list(checked(images))
    except ManifestError as error:
        raise ManifestError(f"{listing.source}: {error}") from None


def _asking(root: str) -> Callable[[str], str | None]:
    """Return what `Names.find` is for a folder, for a URL."""

    def find(path: str) -> str | None:
        try:
            with open_content(root, path):
                return path
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ManifestError(
                f"--images {printable(root)}: {printable(path)} cannot be read ({error.strerror}); "
                "check the address, and that its server answers",
                code="E-IMAGES-NETWORK",
            ) from None

    return find
