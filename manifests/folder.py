"""What is passed over where images are looked for: nothing vanishes without a word."""

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..base.errors import ManifestError
from ..base.text import IMAGE_SUFFIXES, printable, suffix
from .contents import ODD, disk_path, escaped, from_disk, split_archive, unescaped, without_odd
from .headers import Size, read_sizes
from .manifest import Image, broken_rule
from .tars import members

Say = Callable[[str], None]  # takes a line for a person

HIDDEN = "hidden or system files and folders"
NO_IMAGES = "files that are not images"
DANGLING = "links that lead nowhere"


class Passed:
    """What is passed over in one place, counted by what it is, with one name of each."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._names: dict[str, str] = {}

    def add(self, what: str, name: str) -> None:
        """Count one more; `what` is a plural, such as "links that lead nowhere"."""
        self._counts[what] = self._counts.get(what, 0) + 1
        self._names.setdefault(what, name)

    def say(self, where: str, say: Say) -> None:
        """Tell `say` a line for each kind."""
        for what, count in self._counts.items():
            name = printable(without_odd(self._names[what])) or "an empty name"
            say(f"{where}: {what} passed over: {count:,}, such as {name:.200}")


def say_odd_names(where: str, paths: Iterable[str], say: Say) -> None:
    """Tell `say` how many of the paths have no UTF-8, since their ids look odd."""
    odd = [path for path in paths if not path.isascii() and ODD.search(path)]
    if odd:
        say(
            f"{where}: names that are not UTF-8, of which ids and paths have escapes: {len(odd):,}, "
            f"such as {printable(without_odd(odd[0]))}"
        )


# What stands beside images in data sets, often one for each: not opened to see what it is.
OTHERS = (
    ".cls .csv .gz .h5 .htm .html .json .jsonl .lst .md .npy .npz .parquet .pkl .pt .pth .py .tar "
    ".tgz .tsv .txt .xml .yaml .yml .zip"
)
OTHER_SUFFIXES = frozenset(OTHERS.split())
# Left by macOS's archives, Synology, Windows and Linux's file systems.
SYSTEM = frozenset(
    ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "Thumbs.db", "lost+found")
)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is the system's and no part of a data set.

    >>> is_hidden("._a.jpg"), is_hidden("@eaDir"), is_hidden("a.jpg")
    (True, True, False)
    """
    return name.startswith(".") or name in SYSTEM


def walk(folder: str, passed: Passed) -> Iterator[str]:
    """Yield the path of all in `folder` and below that is not a folder, relative to it, unsorted.

    Links to folders are followed, but not into a folder that they stand in. What is hidden is
    passed over.
    """
    yield from _walk(folder, "", frozenset(), passed)


def _walk(
    folder: str, prefix: str, above: frozenset[tuple[int, int]], passed: Passed
) -> Iterator[str]:
    found = os.stat(folder)  # noqa: PTH116
    here = (found.st_dev, found.st_ino)
    if here in above:
        return
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = from_disk(entry.name)
            if is_hidden(name):
                passed.add(HIDDEN, prefix + name)
            elif _is_folder(entry):
                folders.append((entry.path, f"{prefix}{name}/"))
            else:
                yield prefix + name
    for path, below in folders:
        yield from _walk(path, below, above | {here}, passed)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where nobody may look
        return False


class Names:
    """The names under a local root, each folder or tar listed once."""

    def __init__(self, root: str):
        self._root = root
        self._listed: dict[str, tuple[str, dict[str, str]]] = {}

    def find(self, path: str) -> str | None:
        """Return a manifest's path as it is spelled on disk; None where there is no such file.

        Letters with marks may be one character or two (Unicode's NFC and NFD): systems and
        archives change one into the other. The same spelling goes before the other one.
        """
        above, _, name = path.rpartition("/")
        if above not in self._listed:
            self._listed[above] = self._look(above)
        folder, names = self._listed[above]
        found = names.get(name) or names.get(_composed(name))
        return found and (f"{folder}/{found}" if above else found)

    def _look(self, folder: str) -> tuple[str, dict[str, str]]:
        """Return a folder as it is spelled on disk, and the names in it by both spellings."""
        names = self._list(folder)
        if names is None and folder:
            folder = self.find(folder) or folder
            names = self._list(folder)
        names = names or []
        return folder, {_composed(name): name for name in names} | {name: name for name in names}

    def _list(self, folder: str) -> list[str] | None:
        """Return the names in a folder or tar, None where there is none to be read."""
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
            listed = members(disk_path(self._root, archive))
        except OSError:
            return None
        return [escaped(name[len(inner) :]) for name in listed if name.startswith(inner)]


def _composed(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


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
        if ending in IMAGE_SUFFIXES:
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
            f"{folder} holds no image file; expected names ending in {', '.join(sorted(IMAGE_SUFFIXES))}, "
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
