"""What is in a folder of images, found by listing folders and never by looking at files."""

import os
from collections.abc import Iterator

from .contents import split_archive
from .tars import members

# What Pillow reads and data sets come in; other files in the folder are passed over.
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".jp2")
)


def suffix(path: str) -> str:
    """Return the ending of a file's name, in lower case.

    >>> suffix("a.b/c.tar.GZ"), suffix(".hidden")
    ('.gz', '')
    """
    return os.path.splitext(path)[1].lower()  # noqa: PTH122


def walk(folder: str) -> Iterator[str]:
    """Yield the path of every file in `folder` and below, relative to it, unsorted.

    Links to folders are followed, but not into a folder that they stand in.
    """
    yield from _walk(folder, "", frozenset())


def _walk(folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    found = os.stat(folder)  # noqa: PTH116
    here = (found.st_dev, found.st_ino)
    if here in above:
        return
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.is_file():
                yield prefix + entry.name
    for name in folders:
        yield from _walk(f"{folder}/{name}", f"{prefix}{name}/", above | {here})


class Names:
    """The names under a local root; `path in names` lists each folder, or tar, once."""

    def __init__(self, root: str):
        self._root = root
        self._names: dict[str, frozenset[str]] = {}

    def __contains__(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        if folder not in self._names:
            self._names[folder] = frozenset(self._list(folder))
        return name in self._names[folder]

    def _list(self, folder: str) -> list[str]:
        try:
            return os.listdir(f"{self._root}/{folder}")  # noqa: PTH208
        except NotADirectoryError:
            return self._list_archive(folder)
        except OSError:  # not there, or not to be read: extraction says which
            return []

    def _list_archive(self, folder: str) -> list[str]:
        try:
            archive, inner = split_archive(self._root, f"{folder}/")
            listed = members(f"{self._root}/{archive}")
        except OSError:
            return []
        return [name[len(inner) :] for name in listed if name.startswith(inner)]
