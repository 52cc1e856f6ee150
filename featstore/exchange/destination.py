"""Write files so that an interrupted export continues: folders with files for each image."""

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from ...base.files import fsync_folder, naming, open_output, remove_plain
from .records import Features

BATCH = 128  # images whose names reach the disk together

Name = Callable[[str], str]  # of an image's files, without their endings
Encode = Callable[[str, Features], Iterable[tuple[str, bytes]]]


def file_name(image_id: str) -> str:
    """Return an id as a path below a folder; ValueError where it would lead out of it."""
    path = PurePosixPath(image_id)
    if path.is_absolute() or str(path) != image_id or ".." in path.parts or "\0" in image_id:
        raise ValueError("an id that cannot be the name of a file")
    return image_id


def number_of(image_id: str) -> int:
    """Return the number that an id is or ends in: 42 for COCO_val2014_000000000042."""
    digits = image_id.rpartition("_")[2].partition(".")[0]
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 18:
        raise ValueError("an id that does not end in a number, which this format needs")
    return int(digits)


class Numbered:
    """Names images by their numbers; two ids with one number would overwrite each other."""

    def __init__(self) -> None:
        self._ids: dict[int, str] = {}

    def __call__(self, image_id: str) -> str:
        """Return the number of an id; ValueError where another id has the same."""
        number = number_of(image_id)
        if self._ids.setdefault(number, image_id) != image_id:
            raise ValueError("an id that ends in the same number as another id")
        return str(number)


class FolderWriter:
    """Writes a file or a few for each image. Ids whose files are on the disk are in a list."""

    def __init__(self, folder: Path, encode: Encode, name: Name = file_name) -> None:
        """`encode` gets the name of an image, and returns names and contents of its files."""
        self._folder, self._encode, self._name = folder, encode, name
        self._list = folder / ".written"
        self._pending: list[str] = []
        self._folders: set[Path] = set()

    def written(self) -> set[str]:
        """Return the ids that are written completely."""
        try:
            lines = self._list.read_bytes().split(b"\n")
        except FileNotFoundError:
            return set()
        # What follows the last line end was being written when the process ended.
        ids = {line.decode(errors="replace") for line in lines[:-1]}
        for image_id in ids:
            self._name(image_id)
        return ids

    def write(self, image_id: str, features: Features) -> None:
        """Write the files of one image; ValueError where the format cannot hold it."""
        if "\n" in image_id:
            raise ValueError("an id of several lines")
        for name, content in self._encode(self._name(image_id), features):
            path = self._folder / name
            try:
                if path.parent not in self._folders:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self._folders.add(path.parent)
                write_durably(path, content)
            except OSError as error:  # how long a name may be depends on the file system
                if error.errno != errno.ENAMETOOLONG:
                    raise
                raise ValueError("an id that is too long for the name of a file") from None
        self._pending.append(image_id)
        if len(self._pending) == BATCH:
            self._note()

    def finish(self) -> None:
        """Complete the folder."""
        self._note()
        remove_plain(self._list)

    def _note(self) -> None:
        """Add ids to the list, after the names of their files are on the disk."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for folder in self._folders:
            fsync_folder(folder)
        with os.fdopen(open_output(self._list, append=True), "r+b") as file, naming(self._list):
            file.write("".join(f"{image_id}\n" for image_id in self._pending).encode())
            file.flush()
            os.fsync(file.fileno())
        self._pending.clear()


def give_name(part: Path, path: Path) -> None:
    """Give a complete file its name, once its bytes are on the disk."""
    with naming(part), part.open("rb") as file:
        os.fsync(file.fileno())
    part.rename(path)
    fsync_folder(path.parent)


def write_durably(path: Path, content: bytes) -> None:
    """Write a file whose bytes are on the disk when this returns; its name may not be."""
    with path.open("wb") as file, naming(path):
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
