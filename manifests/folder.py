"""The images in folders and in tar files; whatever is skipped is counted and logged."""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..base.errors import ManifestError, reason_of
from ..base.text import IMAGE_SUFFIXES, printable, suffix
from .contents import SURROGATE, as_utf8, disk_path, escaped, from_disk
from .headers import Size, read_sizes
from .manifest import Image, broken_rule
from .tars import members, others

logger = logging.getLogger(__name__)

HIDDEN = "hidden or system files and folders"
NO_IMAGES = "files that are not images"
DANGLING = "links whose target does not exist"
SPECIAL = "symbolic links, devices and sparse files"
DOTTED = "images with more than one dot in their name, which belong to a sample with an image"
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
# A member's key in webdataset: its folders and its name up to the first dot, then the rest. A name
# that begins with a dot has no key; webdataset would take the folder's name as its key.
SAMPLE_NAME = re.compile(r"((?:.*/)?[^/.]+)\.([^/]*)", re.DOTALL)


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
    tars: tuple[str, ...]  # if there is no image


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
    by_content = _images_by_content(root, unknown)
    tars = [] if images or by_content else [path for path in known if suffix(path) == ".tar"]
    for path in known:
        if not tars or suffix(path) != ".tar":
            skipped.add(NO_IMAGES, path)
    for path in unknown:
        if path not in by_content:
            exists = os.path.exists(disk_path(root, path))  # noqa: PTH110
            skipped.add(NO_IMAGES if exists else DANGLING, path)
    skipped.log(str(folder))
    return FolderContents(tuple(images), by_content, tuple(tars))


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


def _images_by_content(root: str, paths: Sequence[str]) -> dict[str, Size]:
    """Return the sizes of those files whose header is that of an image."""
    sizes = read_sizes(root, [escaped(path) for path in paths]) if paths else []
    return {path: size for path, size in zip(paths, sizes, strict=True) if any(size)}


def folder_images(folder: Path, contents: FolderContents, prefix: str, ids: str) -> list[Image]:
    """Return the images in `folder`; those found by their ending have the size (0, 0) so far.

    `prefix` leads from the root to the folder. `ids` is "stem", the file's name without its ending,
    or "path", the path from the root without the ending. An ending that is not an image's remains
    part of the id. Raises ManifestError (E-MANIFEST-EMPTY) for a folder without an image.
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
    images = [
        Image(
            as_utf8(bare.rpartition("/")[2] if ids == "stem" else prefix + bare),
            escaped(prefix + path),
            *size,
        )
        for path, bare, size in (*by_name, *by_content)
    ]
    skipped = SkippedFiles()
    images = _storable(images, skipped)
    skipped.log(str(folder))
    return images


def tar_images(root: str, tars: Sequence[str]) -> list[Image]:
    """Return the images in tar files as webdataset writes them; a member's key is the image's id.

    `tars` are paths below the local folder `root`. Most images have the size (0, 0) so far. The
    texts and numbers of a sample are not images. A name with several dots is a part of the sample
    named before the first one, if that sample has an image; otherwise its id ends at its last dot.
    A member with an unknown ending is opened: if it is an image, its whole name is its id. Raises ManifestError for a file that is not a complete,
    uncompressed tar (E-TAR-READ), and if no member is an image (E-MANIFEST-EMPTY).
    """
    images: list[Image] = []
    skipped = SkippedFiles()
    unknown: dict[str, str] = {}  # path below the root -> name in its tar
    for tar in tars:
        location = disk_path(root, tar)
        try:
            names, unreadable = members(location), others(location)
        except OSError as error:
            raise ManifestError(
                f"{location}: {reason_of(error)}; pack it again, uncompressed", code="E-TAR-READ"
            ) from None
        log_odd_names(location, names)
        for name in unreadable:
            skipped.add(HIDDEN if _is_hidden_member(name) else SPECIAL, f"{tar}/{name}")
        keys = {key for name in names if (key := _image_key(name)) is not None}
        dotted: list[str] = []
        for name in names:
            path = f"{tar}/{name}"
            if _is_hidden_member(name):
                skipped.add(HIDDEN, path)
            elif (key := _image_key(name)) is not None:
                images.append(Image(as_utf8(key), escaped(path), 0, 0))
            elif (ending := suffix(name)) in IMAGE_SUFFIXES:
                sample = SAMPLE_NAME.fullmatch(name)
                if sample and sample[1] in keys:
                    skipped.add(DOTTED, path)
                else:
                    dotted.append(path)
                    images.append(Image(as_utf8(name[: -len(ending)]), escaped(path), 0, 0))
            elif ending not in OTHER_SUFFIXES:
                unknown[path] = name
        if dotted:
            logger.info(
                f"{tar}: images whose ids end at the last of several dots in their names: "
                f"{len(dotted):,}, such as {printable(as_utf8(dotted[0])):.200}"
            )
    by_content = _images_by_content(root, list(unknown))
    for path, name in unknown.items():
        if path in by_content:
            images.append(Image(as_utf8(name), escaped(path), *by_content[path]))
        else:
            skipped.add(NO_IMAGES, path)
    images = _storable(images, skipped)
    skipped.log(", ".join(map(printable, tars[:3])))
    if not images:
        raise ManifestError(
            f"{', '.join(tars):.200}: no member is an image; expected names of KEY and one of "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}",
            code="E-MANIFEST-EMPTY",
        )
    return images


def _image_key(name: str) -> str | None:
    """Return the key of a member that is named by its key and the ending of an image, else None."""
    sample = SAMPLE_NAME.fullmatch(name)
    return sample[1] if sample and f".{sample[2].lower()}" in IMAGE_SUFFIXES else None


def _is_hidden_member(name: str) -> bool:
    if "/" not in name:
        return is_hidden(name)
    return any(is_hidden(part) for part in name.split("/") if part not in (".", ".."))


def _storable(images: Iterable[Image], skipped: SkippedFiles) -> list[Image]:
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
