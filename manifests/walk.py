"""What is in a folder of images, found by listing folders and never by looking at files."""

import os
import unicodedata
from collections.abc import Iterator

from .contents import disk_path, split_archive
from .names import escaped, from_disk, unescaped
from .passed import HIDDEN, Passed
from .tars import members

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
