"""What a list of images gives: its images, the layouts of their files, and its rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..base.errors import ManifestError
from ..base.jsonio import field, identifier
from .contents import as_utf8, escaped, is_escaped
from .manifest import Image

REMEDY = "docs/manifests.md describes the files that are read"
MAX_ID = 1 << 63

Layout = Callable[[Image], str]  # from an image, as it is listed, to its path below the root


@dataclass(frozen=True)
class Listing:
    """The images that a file lists, with width and height 0 where the file does not state them."""

    source: Path
    kind: str
    images: Sequence[Image]
    layouts: Mapping[str, Layout]  # the ways in which people store the files, by name
    repeats: bool = False  # another list may name the same image again


class TableOptions(NamedTuple):
    """How a table, or a list of paths, names images and files."""

    id_column: str | None = None  # None stands for one of the usual names
    path_column: str | None = None
    ids: str = "stem"  # without a column of ids: the "stem" of the file's name, or its "path"


def make_listing(
    source: Path,
    kind: str,
    images: Iterable[Image],
    layouts: Mapping[str, Layout],
    *,
    repeats: bool = False,
) -> Listing:
    """Return a listing; raises ManifestError (E-MANIFEST-EMPTY) for a list without images."""
    spelled = [_spelled(image) for image in images]
    if not spelled:
        raise ManifestError(
            f"{source} lists no image; pass a file that lists some", code="E-MANIFEST-EMPTY"
        )
    return Listing(source, kind, spelled, layouts, repeats)


def _spelled(image: Image) -> Image:
    """Escape what a manifest cannot store; escapes that come from a manifest are kept."""
    if image.image_id.isascii() and image.path.isascii() and "\\" not in image.path:
        return image
    path = as_utf8(image.path) if is_escaped(image.path) else escaped(image.path)
    return image._replace(image_id=as_utf8(image.image_id), path=path)


class Record(NamedTuple):
    """An object of a JSON file or a row of a table, with its place for errors."""

    place: str
    values: dict[str, Any]

    def text(self, key: str) -> str:
        """Return a text."""
        return field(self.values, key, str, self.place)

    def image_id(self, key: str, *, texts: bool = False) -> str:
        """Return an id, a whole number or, with `texts`, also a text, as a text."""
        value = identifier(self.values, key, self.place)
        if isinstance(value, str) and texts:
            return value
        if isinstance(value, str) or not 0 <= value < MAX_ID:
            rule = "a text or a whole number" if texts else "a whole number"
            raise self._error(f"{key} must be {rule} from 0 to 2^63; got {value!r:.60}")
        return str(value)

    def size(self) -> tuple[int, int]:
        """Return width and height in pixels, 0 where they are missing."""
        return self._side("width"), self._side("height")

    def _side(self, key: str) -> int:
        value = self.values.get(key, 0)
        if type(value) is not int or not 0 <= value < 1 << 31:
            rule = "a whole number of pixels, or 0 if it is unknown"
            raise self._error(f"{key} must be {rule}; got {value!r:.60}")
        return value

    def _error(self, problem: str) -> ManifestError:
        return ManifestError(f"{self.place}: {problem}; {REMEDY}", code="E-MANIFEST-VALUE")


def as_record(place: str, values: Any) -> Record:
    """Return a parsed value as a record; ManifestError (E-JSON-TYPE) if it is not an object."""
    if not isinstance(values, dict):
        raise ManifestError(
            f"{place}: expected an object; got {values!r:.60}; {REMEDY}", code="E-JSON-TYPE"
        )
    return Record(place, values)
