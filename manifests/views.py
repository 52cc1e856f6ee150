"""Matterport3D panoramas as folders of 36 views: a viewpoint is one image of a manifest."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..base.errors import ManifestError
from ..base.text import IMAGE_SUFFIXES, is_url, suffix
from .contents import disk_path, escaped, from_disk, unescaped, without_odd
from .folder import Say, is_hidden
from .headers import read_sizes
from .manifest import Image

VIEWS = 36  # 12 headings, 30 degrees apart from 0 on, at elevations of -30, 0 and 30 degrees
NUMBER = re.compile(r"\d+")


def view_paths(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of a viewpoint's 36 image files in the order of MatterSim's views.

    View 12 * row + heading has the elevation 30 * (row - 1) degrees and looks 30 * heading
    degrees clockwise from 0. The last number in a file's stem says which view it is. Hidden files
    and others than images are passed over. Raises ManifestError unless the numbers are 0 to 35.

    >>> view_paths(f"view_{k}.jpg" for k in range(36))[9:11]
    ('view_9.jpg', 'view_10.jpg')
    """
    numbered: dict[int, str] = {}
    images = [name for name in names if suffix(name) in IMAGE_SUFFIXES and not is_hidden(name)]
    for name in images:
        numbers = NUMBER.findall(name.rpartition(".")[0])
        # No more than two digits count: a hash may end in many.
        if not numbers or len(numbers[-1].lstrip("0")) > 2:
            raise ManifestError(f"{name!r:.100} has no number of a view, 0 to {VIEWS - 1}")
        other = numbered.setdefault(int(numbers[-1]), name)
        if other != name:
            raise ManifestError(f"{other!r:.100} and {name!r:.100} are the same view; remove one")
    if len(images) != VIEWS:
        raise ManifestError(f"{len(images)} views; a viewpoint has {VIEWS}")
    if sorted(numbered) != list(range(VIEWS)):
        raise ManifestError(f"views {min(numbered)} to {max(numbered)}; expected 0 to {VIEWS - 1}")
    return tuple(numbered[k] for k in range(VIEWS))


def view_files(root: str, viewpoint: str) -> list[str]:
    """Return the files of a viewpoint in the order of its views, as paths under the root.

    Raises ManifestError where they are not 36 views and under a URL, OSError where the folder
    cannot be listed.
    """
    if is_url(root):
        raise ManifestError("views are read from a local folder alone; copy them to one")
    names = os.listdir(disk_path(root, unescaped(viewpoint)))  # noqa: PTH208
    return [f"{viewpoint}/{escaped(name)}" for name in view_paths(map(from_disk, names))]


def view_images(folder: Path, paths: Iterable[str], prefix: str, say: Say) -> list[Image]:
    """Return a viewpoint an image: id scan_viewpoint, path scan/viewpoint, size of a view.

    `paths` are the files of `folder`, and `prefix` leads to it from the root. A viewpoint whose
    views are not 36 stays: extraction refuses it with the reason, and `say` is told how many
    there are.
    """
    viewpoints = defaultdict(list)
    for path in paths:
        if path.count("/") == 2 and suffix(path) in IMAGE_SUFFIXES:
            viewpoint, _, name = path.rpartition("/")
            viewpoints[viewpoint].append(name)
    if not viewpoints:
        raise ManifestError(
            f"{folder} holds no views; expected SCAN/VIEWPOINT and in it {VIEWS} image files"
        )
    odd = [(v, why) for v, names in viewpoints.items() if (why := _problem(names))]
    if odd:
        viewpoint, why = odd[0]
        say(
            f"{folder}: {len(odd):,} of {len(viewpoints):,} viewpoints cannot be used, "
            f"such as {viewpoint!r:.100}: {why}"
        )
    firsts = [escaped(f"{viewpoint}/{min(names)}") for viewpoint, names in viewpoints.items()]
    return [
        Image(without_odd(viewpoint.replace("/", "_")), escaped(prefix + viewpoint), *size)
        for viewpoint, size in zip(
            viewpoints, read_sizes(from_disk(str(folder)), firsts), strict=True
        )
    ]


def _problem(names: Sequence[str]) -> str:
    try:
        view_paths(names)
    except ManifestError as error:
        return str(error)
    return ""
