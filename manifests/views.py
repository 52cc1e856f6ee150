"""Matterport3D panoramas as folders of 36 views: a viewpoint is one image of a manifest."""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..base.errors import ManifestError
from ..base.text import IMAGE_SUFFIXES, counted, is_url, suffix
from .contents import as_utf8, disk_path, escaped, from_disk, unescaped
from .folder import is_hidden
from .headers import read_sizes
from .manifest import Image

logger = logging.getLogger(__name__)

VIEWS = 36  # 12 headings, 30 degrees apart from 0 on, at elevations of -30, 0 and 30 degrees
NUMBER = re.compile(r"\d+")


def view_paths(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of a viewpoint's 36 image files in the order of MatterSim's views.

    View 12 * row + heading has the elevation 30 * (row - 1) degrees and looks 30 * heading
    degrees clockwise from 0. The last number in a file's stem is the number of the view. Hidden
    files and files that are not images are skipped. Raises ManifestError for a name without a
    number (E-VIEWS-NAME), for a number that occurs twice (E-VIEWS-TWICE), and unless the numbers
    are 0 to 35 (E-VIEWS-COUNT).

    >>> view_paths(f"view_{k}.jpg" for k in range(36))[9:11]
    ('view_9.jpg', 'view_10.jpg')
    """
    numbered: dict[int, str] = {}
    images = [name for name in names if suffix(name) in IMAGE_SUFFIXES and not is_hidden(name)]
    for name in images:
        numbers = NUMBER.findall(name.rpartition(".")[0])
        # At most two digits count: a hash may end in many.
        if not numbers or len(numbers[-1].lstrip("0")) > 2:
            raise ManifestError(
                f"{name!r:.100} has no number of a view, 0 to {VIEWS - 1}", code="E-VIEWS-NAME"
            )
        other = numbered.setdefault(int(numbers[-1]), name)
        if other != name:
            raise ManifestError(
                f"{other!r:.100} and {name!r:.100} are the same view; remove one",
                code="E-VIEWS-TWICE",
            )
    if len(images) != VIEWS:
        raise ManifestError(
            f"{counted(len(images), 'view')}; a viewpoint has {VIEWS}", code="E-VIEWS-COUNT"
        )
    if sorted(numbered) != list(range(VIEWS)):
        raise ManifestError(
            f"views {min(numbered)} to {max(numbered)}; expected 0 to {VIEWS - 1}",
            code="E-VIEWS-COUNT",
        )
    return tuple(numbered[k] for k in range(VIEWS))


def view_files(root: str, viewpoint: str) -> list[str]:
    """Return the files of a viewpoint in the order of its views, as paths below the root.

    Raises ManifestError as `view_paths` does and for a URL (E-VIEWS-REMOTE), and OSError if the
    folder cannot be listed.
    """
    if is_url(root):
        raise ManifestError(
            "views are read from local folders only; copy them to one", code="E-VIEWS-REMOTE"
        )
    names = os.listdir(disk_path(root, unescaped(viewpoint)))  # noqa: PTH208
    return [f"{viewpoint}/{escaped(name)}" for name in view_paths(map(from_disk, names))]


def view_images(folder: Path, paths: Iterable[str], prefix: str) -> list[Image]:
    """Return one image for each viewpoint: id scan_viewpoint, path scan/viewpoint, size of a view.

    `paths` are the files of `folder`, and `prefix` leads to it from the root. A viewpoint without
    exactly 36 views is kept, since extraction records it with the reason; their number is logged.
    Raises ManifestError (E-MANIFEST-EMPTY) for a folder without viewpoints.
    """
    viewpoints: defaultdict[str, list[str]] = defaultdict(list)
    for path in paths:
        if path.count("/") == 2 and suffix(path) in IMAGE_SUFFIXES:
            viewpoint, _, name = path.rpartition("/")
            viewpoints[viewpoint].append(name)
    if not viewpoints:
        raise ManifestError(
            f"{folder} contains no views; expected SCAN/VIEWPOINT with {VIEWS} image files each",
            code="E-MANIFEST-EMPTY",
        )
    problems = {v: problem for v, names in viewpoints.items() if (problem := _problem(names))}
    if problems:
        viewpoint, problem = next(iter(problems.items()))
        logger.warning(
            f"{folder}: {len(problems):,} of {counted(len(viewpoints), 'viewpoint')} cannot be "
            f"used, such as {viewpoint!r:.100}: {problem}"
        )
    firsts = [escaped(f"{viewpoint}/{min(names)}") for viewpoint, names in viewpoints.items()]
    sizes = read_sizes(from_disk(str(folder)), firsts)
    return [
        Image(as_utf8(viewpoint.replace("/", "_")), escaped(prefix + viewpoint), *size)
        for viewpoint, size in zip(viewpoints, sizes, strict=True)
    ]


def _problem(names: Sequence[str]) -> str:
    try:
        view_paths(names)
    except ManifestError as error:
        return str(error)
    return ""
