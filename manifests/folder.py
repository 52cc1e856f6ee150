"""The images in folders; whatever is skipped is counted and logged."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..base.errors import ManifestError
from ..base.text import IMAGE_SUFFIXES, printable, suffix
from .archives import ENDINGS, archive_ending
from .contents import SURROGATE, as_utf8, disk_path, escaped, from_disk
from .headers import Size, read_sizes
from .manifest import Image, broken_rule

logger = logging.getLogger(__name__)

HIDDEN = "hidden or system files and folders"
NO_IMAGES = "files that are not images"
DANGLING = "links whose target does not exist"
# Often stored beside images, one for each; not opened to see what they contain.
OTHER_SUFFIXES = frozenset(
    [
        ".cls",
        ".csv",
        ".gz",
        ".h5",
        ".htm",
        ".html",
        ".json",
        ".jsonl",
        ".lst",
        ".md",
        ".npy",
        ".npz",
        ".parquet",
        ".pkl",
        ".pt",
        ".pth",
        ".py",
        ".tar",
        ".tgz",
        ".tsv",
        ".txt",
        ".xml",
        ".yaml",
        ".yml",
        ".zip",
    ]
)
# Created by macOS's archives, Synology, Windows and Linux's file systems.
SYSTEM_NAMES = frozenset(
    ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "Thumbs.db", "lost+found")
)


class SkippedFiles:
    """What is skipped in one place: counts for each reason, with one name each."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, str] = {}

    def add(self, reason: str, name: str) -> None:
        """Count one more; `reason` is a plural, such as "files that are not images"."""
        self._counts[reason] = self._counts.get(reason, 0) + 1
        self._examples.setdefault(reason, name)

    def log(self, source: str) -> None:
        """Log a line for each reason."""
        for reason, count in self._counts.items():
            name = printable(as_utf8(self._examples[reason])) or "an empty name"
            logger.info(f"{source}: skipped {reason}: {count:,}, such as {name:.200}")


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name belongs to the system and not to a data set.

    >>> is_hidden("._a.jpg"), is_hidden("@eaDir"), is_hidden("a.jpg")
    (True, True, False)
    """
    return name.startswith(".") or name in SYSTEM_NAMES


class FolderContents(NamedTuple):
    """What is in a folder and below, as sorted paths relative to it."""

    images: tuple[str, ...]  # files that end as images do, whatever they contain
    by_content: dict[str, Size]  # files with other endings, or none, that are images nevertheless
    archives: tuple[str, ...]  # of a folder without images: all of one kind, by their ending


def scan_folder(folder: Path) -> FolderContents:
    """Return what is in `folder` and below, and log what is skipped.

    A file with an unknown ending is opened: it is an image if its header can be read.
    """
    skipped = SkippedFiles()
    images: list[str] = []
    known: list[str] = []
    unknown: list[str] = []
    for path in sorted(_walk(str(folder), "", frozenset(), skipped)):
        ending = suffix(path)
        if ending in IMAGE_SUFFIXES:
            images.append(path)
        else:
            (known if ending in OTHER_SUFFIXES else unknown).append(path)
    root = from_disk(str(folder))
    by_content = images_by_content(root, unknown)
    archives: list[str] = []
    if not images and not by_content:
        endings = {path: archive_ending(path) for path in known}
        first = next((ending for ending in ENDINGS if ending in endings.values()), None)
        archives = [path for path in known if endings[path] == first]
    taken = set(archives)
    for path in known:
        if path not in taken:
            skipped.add(NO_IMAGES, path)
    for path in unknown:
        if path not in by_content:
            exists = os.path.exists(disk_path(root, path))  # noqa: PTH110
            skipped.add(NO_IMAGES if exists else DANGLING, path)
    skipped.log(str(folder))
    return FolderContents(tuple(images), by_content, tuple(archives))


def _walk(
    folder: str, prefix: str, parents: frozenset[tuple[int, int]], skipped: SkippedFiles
) -> Iterator[str]:
    """Yield the path of each file in `folder` and below, relative to it, unsorted.

    Links to folders are followed, but not into a folder that contains them.
    """
    status = os.stat(folder)  # noqa: PTH116
    this = (status.st_dev, status.st_ino)
    if this in parents:
        return
    folders: list[tuple[str, str]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = from_disk(entry.name)
            if is_hidden(name):
                skipped.add(HIDDEN, prefix + name)
            elif _is_folder(entry):
                folders.append((entry.path, f"{prefix}{name}/"))
            else:
                yield prefix + name
    for path, below in folders:
        yield from _walk(path, below, parents | {this}, skipped)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to a folder that may not be read
        return False


def images_by_content(root: str, paths: Sequence[str]) -> dict[str, Size]:
    """Return the sizes of those files whose header is that of an image."""
    sizes = read_sizes(root, [escaped(path) for path in paths]) if paths else []
    return {path: size for path, size in zip(paths, sizes, strict=True) if any(size)}


def folder_images(
    folder: Path | str,
    contents: FolderContents,
    prefix: str,
    ids: str,
    *,
    ids_from: str | None = None,
) -> list[Image]:
    """Return the images in `folder`; those found by their ending have the size (0, 0) so far.

    `prefix` leads from the root to the folder. `ids` is "stem", the file's name without its ending,
    or "path", the path without the ending: from the root, or with `ids_from` in place of `prefix`,
    as for a zip file in place of a folder. An ending that is not an image's remains
    part of the id. Raises ManifestError (E-MANIFEST-EMPTY) for a folder without an image
    that a manifest can store.
    """
    if not contents.images and not contents.by_content:
        raise ManifestError(
            f"{folder} contains no image file; expected names ending in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}, or other files with the content of an image",
            code="E-MANIFEST-EMPTY",
        )
    log_odd_names(str(folder), (*contents.images, *contents.by_content))
    if contents.by_content:
        example = printable(as_utf8(next(iter(contents.by_content))))
        logger.info(
            f"{folder}: images recognised by their content, with other endings: "
            f"{len(contents.by_content):,}, such as {example}"
        )
    by_name = (
        (path, os.path.splitext(path)[0], (0, 0))  # noqa: PTH122
        for path in contents.images
    )
    by_content = ((path, path, size) for path, size in contents.by_content.items())
    above = prefix if ids_from is None else ids_from
    images = [
        Image(
            as_utf8(bare.rpartition("/")[2] if ids == "stem" else above + bare),
            escaped(prefix + path),
            *size,
        )
        for path, bare, size in (*by_name, *by_content)
    ]
    skipped = SkippedFiles()
    images = storable(images, skipped)
    skipped.log(str(folder))
    if not images:
        raise ManifestError(
            f"{folder}: a manifest can store none of the paths in it; rename the files",
            code="E-MANIFEST-EMPTY",
        )
    return images


def storable(images: Iterable[Image], skipped: SkippedFiles) -> list[Image]:
    """Return the images that a manifest can store; the others are skipped."""
    storable: list[Image] = []
    for image in images:
        if rule := broken_rule(image):
            skipped.add(f"files that a manifest cannot store (a row {rule})", image.path)
        else:
            storable.append(image)
    return storable


def log_odd_names(source: str, paths: Iterable[str]) -> None:
    """Log how many of the paths are not UTF-8, since their ids contain escapes."""
    odd = [path for path in paths if not path.isascii() and SURROGATE.search(path)]
    if odd:
        logger.info(
            f"{source}: names that are not UTF-8, so that ids and paths contain escapes: "
            f"{len(odd):,}, such as {printable(as_utf8(odd[0]))}"
        )
