"""Find the files of listed images below a root."""

import logging
import os
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

from ..base.errors import ManifestError, reason_of
from ..base.text import counted, is_url, printable
from .archives import archive_format
from .contents import (
    disk_path,
    escaped,
    from_disk,
    open_content,
    split_archive,
    to_disk,
    unescaped,
)
from .folder import SkippedFiles
from .manifest import Image, broken_text, checked
from .records import Layout, Listing

logger = logging.getLogger(__name__)

PROBES = 16  # files of each layout that are looked for behind a URL, which cannot be listed


class LocatedImage(NamedTuple):
    """An image with its path below the root."""

    image: Image
    read_header: bool  # even if the list states a size


def locate_images(listing: Listing, root: str, archive: str = "") -> list[LocatedImage]:
    """Return the listed images with their paths below `root`, in the layout that finds most files.

    With `archive`, a path below the root with a slash at its end, they are members of this archive.

    An absolute path that leads below the root is taken relative to it. Rows that no manifest can
    store are skipped, and files that do not exist are kept, since extraction records them as
    missing; the numbers of both are logged. Headers of existing files are read; behind a URL, only
    if the size is unknown.

    Raises ManifestError if no file is found in any layout (E-MANIFEST-ABSENT), for a path that
    leads out of the root (E-MANIFEST-ROW), and if no row is left (E-MANIFEST-EMPTY).
    """
    images = _below_root(listing, root)
    remote = is_url(root)
    probes = images[:: max(1, len(images) // PROBES)] if remote else images
    find = _url_finder(root) if remote else FileFinder(root).find
    layouts = {f"{archive}{name}": _inside(archive, of) for name, of in listing.layouts.items()}
    paths_by_layout = {
        name: [find(path_of(image)) for image in probes] for name, path_of in layouts.items()
    }
    # The first of equally good layouts.
    layout = min(paths_by_layout, key=lambda name: paths_by_layout[name].count(None))
    path_of, paths = layouts[layout], paths_by_layout[layout]
    missing = [path_of(image) for image, path in zip(probes, paths, strict=True) if path is None]
    if len(missing) == len(probes):
        tried = " or ".join(f"{printable(root)}/{name}" for name in layouts)
        hint = "; parts of a path are separated by /" if r"\\" in missing[0] else ""
        raise ManifestError(
            f"{listing.source}: none of its {counted(len(images), 'image')} was found as {tried}, "
            f"such as {printable(missing[0])}{hint}; pass the folder above them with --images",
            code="E-MANIFEST-ABSENT",
        )
    if remote:
        logger.info(
            f"{printable(root)} is a URL: files are not looked for now; extraction reports those "
            "that are missing"
        )
        return [
            LocatedImage(
                image._replace(path=path_of(image)),
                read_header=not (image.width and image.height),
            )
            for image in images
        ]
    if missing:
        logger.warning(
            f"{listing.source}: {len(missing):,} of {counted(len(images), 'image')} are not in "
            f"{printable(root)}, such as {printable(missing[0])}"
        )
    return [
        LocatedImage(image._replace(path=path or path_of(image)), read_header=path is not None)
        for image, path in zip(images, paths, strict=True)
    ]


def _inside(archive: str, layout: Layout) -> Layout:
    return lambda image: archive + layout(image)


def _below_root(listing: Listing, root: str) -> list[Image]:
    """Return the images of a list, checked, with paths relative to the root."""
    tops = () if is_url(root) else (root, from_disk(os.path.realpath(to_disk(root))))
    tops = tuple(escaped(top).rstrip("/") + "/" for top in tops)
    skipped, last = SkippedFiles(), ""
    images: list[Image] = []
    for image in listing.images:
        if image.path.startswith("/"):
            top = next((top for top in tops if image.path.startswith(top)), None)
            if top is None:
                raise ManifestError(
                    f"{listing.source}: {printable(image.path):.200} is not below the root "
                    f"{printable(root)}; pass a folder above it with --images",
                    code="E-MANIFEST-ROW",
                )
            image = image._replace(path=image.path[len(top) :].lstrip("/"))
        if rule := broken_text(image):
            skipped.add(f"rows that a manifest cannot store (a row {rule})", image.path)
            last = f"{rule}; got id {image.image_id!r:.100}, path {image.path!r:.100}"
        else:
            images.append(image)
    if not images:
        raise ManifestError(
            f"{listing.source}: none of its rows can be used: a row {last}", code="E-MANIFEST-EMPTY"
        )
    skipped.log(str(listing.source))
    try:
        return list(checked(images))
    except ManifestError as error:
        raise ManifestError(f"{listing.source}: {error}", code=error.code) from None


def _url_finder(root: str) -> Callable[[str], str | None]:
    """Return a function that does behind a URL what `FileFinder.find` does in a folder."""

    def find(path: str) -> str | None:
        try:
            with open_content(root, path):
                return path
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ManifestError(
                f"--images {printable(root)}: {printable(path)} cannot be read "
                f"({reason_of(error)}); check the address, and that its server answers",
                code="E-IMAGES-NETWORK",
            ) from None

    return find


class FileFinder:
    """Finds files below a local root; each folder or tar is listed once."""

    def __init__(self, root: str):
        self._root = root
        self._folders: dict[str, tuple[str, dict[str, str]]] = {}

    def find(self, path: str) -> str | None:
        """Return a manifest's path as it is spelled on disk, None if there is no such file.

        Letters with marks may be one character or two (Unicode's NFC and NFD); systems and archives
        change one into the other. The same spelling is preferred to the other one.
        """
        above, _, name = path.rpartition("/")
        if above not in self._folders:
            self._folders[above] = self._look_up(above)
        folder, names = self._folders[above]
        spelled = names.get(name) or names.get(_composed(name))
        return spelled and (f"{folder}/{spelled}" if above else spelled)

    def _look_up(self, folder: str) -> tuple[str, dict[str, str]]:
        """Return a folder as it is spelled on disk, and its names by both spellings."""
        names = self._list(folder)
        if names is None and folder:
            folder = self.find(folder) or folder
            names = self._list(folder)
        names = names or []
        return folder, {_composed(name): name for name in names} | {name: name for name in names}

    def _list(self, folder: str) -> list[str] | None:
        """Return the names in a folder or tar, None if it cannot be read."""
        try:
            names = os.listdir(disk_path(self._root, unescaped(folder)))  # noqa: PTH208
        except NotADirectoryError:
            return self._list_archive(folder)
        except OSError:
            return None
        return [escaped(from_disk(name)) for name in names]

    def _list_archive(self, folder: str) -> list[str] | None:
        try:
            archive, inner = split_archive(self._root, f"{unescaped(folder)}/")
            names = archive_format(archive).names(disk_path(self._root, archive))
        except OSError:
            return None
        return [escaped(name[len(inner) :]) for name in names if name.startswith(inner)]


def _composed(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)
