"""The records of JSON files from elsewhere, with the types that they must have."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..base import jsonio
from ..base.errors import ClipfeatError, ManifestError
from ..base.text import printable

MAX_BYTES = 1 << 31  # of a JSON file; COCO's largest has 0.5 GB
MAX_ID = 1 << 63
# What is read of an object. The rest, most of a file of annotations, is dropped as it is parsed.
KEYS = frozenset(
    [
        "images",
        "id",
        "image_id",
        "file_name",
        "coco_url",
        "width",
        "height",
        "url",
        "filename",
        "filepath",
        "cocoid",
        "split",
    ]
)
FILES = frozenset(["images", "image_id", "file_name", "coco_url", "url", "filename"])
REMEDY = "docs/manifests.md says what is read"


def read_json(path: Path) -> Any:
    """Return what a JSON file holds, its objects with KEYS alone.

    Raises ManifestError if it cannot be read.
    """
    try:
        return jsonio.read_json(path, MAX_BYTES, object_hook=_needed)
    except ClipfeatError as error:
        raise ManifestError(f"{error}; {REMEDY}", code=error.code) from None


def _needed(found: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in found.items() if key in KEYS}
    # Of an object that names no file, an error is to say what there is: its keys stay.
    return kept if kept.keys() & FILES else dict.fromkeys(found) | kept


class Record(NamedTuple):
    """An object of a JSON file, with what an error calls it."""

    where: str
    values: dict[str, Any]

    def text(self, key: str) -> str:
        """Return a text; ManifestError if there is none under `key`."""
        value = self._value(key)
        if type(value) is not str:
            raise self._refuse(f"{key} must be a text; got {value!r:.60}")
        return value

    def image_id(self, key: str, *, texts: bool = False) -> str:
        """Return an id, a whole number or, with `texts`, a text, as text."""
        value = self._value(key)
        if texts and type(value) is str:
            return value
        if type(value) is not int or not 0 <= value < MAX_ID:  # a bool is no int here
            what = "a text or a whole number" if texts else "a whole number"
            raise self._refuse(f"{key} must be {what} from 0 to 2^63; got {value!r:.60}")
        return str(value)

    def size(self) -> tuple[int, int]:
        """Return width and height, 0 where they are not there."""
        return self._side("width"), self._side("height")

    def _side(self, key: str) -> int:
        value = self.values.get(key, 0)
        if type(value) is not int or not 0 <= value < 1 << 31:
            rule = "a whole number of pixels, 0 where it is not known"
            raise self._refuse(f"{key} must be {rule}; got {value!r:.60}")
        return value

    def _value(self, key: str) -> Any:
        if key not in self.values:
            found = printable(", ".join(self.values))
            raise self._refuse(f"no {key}; found {found:.200}")
        return self.values[key]

    def _refuse(self, why: str) -> ManifestError:
        return ManifestError(f"{self.where}: {why}; {REMEDY}")


def records(path: Path, found: Any) -> Iterator[Record]:
    """Yield the objects of a list in the JSON file `path`."""
    if not isinstance(found, list):
        raise ManifestError(f"{path}: expected a list of images; got {found!r:.60}; {REMEDY}")
    for number, values in enumerate(found):
        yield _record(f"{path} image {number}", values)


def read_json_lines(path: Path) -> Iterator[Record]:
    """Yield the object of each line of `path`."""
    try:
        for where, values in jsonio.read_json_lines(path):
            yield _record(where, values)
    except ManifestError:
        raise
    except ClipfeatError as error:
        raise ManifestError(f"{error}; {REMEDY}", code=error.code) from None


def _record(where: str, values: Any) -> Record:
    if not isinstance(values, dict):
        raise ManifestError(f"{where}: expected an object; got {values!r:.60}; {REMEDY}")
    return Record(where, values)
