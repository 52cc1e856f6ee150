"""What a file says of images, and where under the root they are."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.text import printable
from .contents import is_url, open_content
from .errors import ManifestError
from .images import Image
from .manifest import checked
from .walk import Names

PROBES = 16  # files of each layout that are asked for under a URL, which cannot be listed
Place = Callable[[Image], str]  # from an image, as its list has it, to a path under the root
Say = Callable[[str], None]  # takes a line for a person


@dataclass(frozen=True)
class Listing:
    """The images that a file lists, checked, with width and height 0 where it does not say."""

    source: Path
    images: Sequence[Image]
    layouts: Mapping[str, Place]  # the ways in which people lay the files out, by name


def listed(source: Path, images: Iterable[Image], layouts: Mapping[str, Place]) -> Listing:
    """Return the listing of `images`.

    Raises ManifestError if there are none, or one that no manifest could hold.
    """
    try:
        found = list(checked(images))
    except ManifestError as error:
        raise ManifestError(f"{source}: {error}") from None
    if not found:
        raise ManifestError(f"{source} lists no image; give a file that lists some")
    return Listing(source, found, layouts)


def located(listing: Listing, root: str, say: Say) -> list[Image]:
    """Return the images with their paths under `root`, in the layout that has most of them.

    `say` is told how many files are not there. They stay: extraction records them as missing.
    Raises ManifestError if no file is there in any layout.
    """
    images = listing.images
    if is_url(root):
        asked = images[:: max(1, len(images) // PROBES)]
        layout, missing = _best(listing, asked, lambda path: _answers(root, path))
        say(f"{printable(root)} is not searched for every file; extraction says what is missing")
    else:
        asked = images
        layout, missing = _best(listing, asked, Names(root).__contains__)
    place = listing.layouts[layout]
    if len(missing) == len(asked):
        tried = " or ".join(f"{printable(root)}/{name}" for name in listing.layouts)
        raise ManifestError(
            f"{listing.source}: none of its {len(images):,} images is there as {tried}, "
            f"{printable(place(images[0]))} for one; give the folder above them with --images"
        )
    if missing and not is_url(root):
        say(
            f"{listing.source}: {len(missing):,} of {len(images):,} images are not in "
            f"{printable(root)}, {printable(place(missing[0]))} for one"
        )
    return [image._replace(path=place(image)) for image in images]


def _best(
    listing: Listing, images: Sequence[Image], present: Callable[[str], bool]
) -> tuple[str, list[Image]]:
    """Return the layout that leaves the fewest images missing, the first of equals, and those."""
    missing = {
        name: [image for image in images if not present(place(image))]
        for name, place in listing.layouts.items()
    }
    name = min(missing, key=lambda name: len(missing[name]))
    return name, missing[name]


def _answers(root: str, path: str) -> bool:
    try:
        with open_content(root, path):
            return True
    except FileNotFoundError:
        return False
