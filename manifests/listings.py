"""Files that list images: JSON of COCO, of Karpathy's splits and of Visual Genome, and tables."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

from ..base.csvfile import table_rows
from ..base.errors import ClipfeatError, ManifestError, UsageError
from ..base.jsonio import field, identifier, read_json, read_json_lines
from ..base.parquet import column_names, read_columns
from ..base.text import printable
from .contents import as_utf8, escaped, is_escaped
from .manifest import Image, require_bounded

logger = logging.getLogger(__name__)

REMEDY = "docs/manifests.md describes the files that are read"
MAX_JSON_BYTES = 1 << 31  # COCO's largest file has 0.5 GB
MAX_ID = 1 << 63
# Of JSON objects, these keys are kept. The rest, most of a file of annotations, is dropped as it is
# parsed.
NAMING_KEYS = frozenset(("images", "image_id", "file_name", "coco_url", "url", "filename"))
KEPT_KEYS = NAMING_KEYS | {"id", "width", "height", "filepath", "cocoid", "split"}
ID_COLUMNS = ("image_id", "id")
PATH_COLUMNS = ("path", "file_name", "filename", "file")
SIZE_COLUMNS = ("width", "height")
COCO_SPLIT = re.compile(r"(?:train|val|test)20\d\d")  # also the name of the split's folder
COCO_FILE = re.compile(
    r"(?:instances|captions|person_keypoints|image_info)_((?:train|val|test)20\d\d)\.json"
)
# Numbers of images, as published by the authors of the data sets; those of Karpathy's splits were
# counted. A file with fewer was cut off, or is only a part.
COCO_COUNTS = {
    "train2014": 82_783,
    "val2014": 40_504,
    "test2014": 40_775,
    "test2015": 81_434,
    "train2017": 118_287,
    "val2017": 5_000,
    "test2017": 40_670,
}
KARPATHY_COUNTS = {
    "dataset_coco.json": {
        "images": 123_287,
        "train+restval": 113_287,
        "val": 5_000,
        "test": 5_000,
    },
    "dataset_flickr30k.json": {"images": 31_014, "train": 29_000, "val": 1_014, "test": 1_000},
    "dataset_flickr8k.json": {"images": 8_000, "train": 6_000, "val": 1_000, "test": 1_000},
}
VISUAL_GENOME_COUNTS = (108_077, 108_249)  # versions 1.4 and 1.2

Layout = Callable[[Image], str]  # from an image, as it is listed, to its path below the root


@dataclass(frozen=True)
class Listing:
    """The images that a file lists, with width and height 0 where the file does not state them."""

    source: Path
    kind: str
    images: Sequence[Image]
    layouts: Mapping[str, Layout]  # the ways in which people store the files, by name


class ColumnChoice(NamedTuple):
    """The columns of ids and of paths in a table; None stands for one of the usual names."""

    id: str | None = None
    path: str | None = None


def read_listing(path: Path, columns: ColumnChoice | None = None) -> Listing:
    """Return the images that a JSON file or a table lists; the ending tells the kind of file.

    `columns` are those of a table. The number of images of a well-known data set is checked, and a
    difference is logged. Raises ManifestError for a file that cannot be read, of an unknown kind,
    without images, or with values of wrong types.
    """
    try:
        if path.suffix.lower() == ".json":
            return _read_json(path)
        return _read_table(path, columns or ColumnChoice())
    except UsageError:
        raise
    except ClipfeatError as error:
        raise ManifestError(f"{error}; {REMEDY}", code=error.code) from None


def _listing(
    source: Path, kind: str, images: Iterable[Image], layouts: Mapping[str, Layout]
) -> Listing:
    spelled = [_spelled(image) for image in images]
    if not spelled:
        raise ManifestError(
            f"{source} lists no image; pass a file that lists some", code="E-MANIFEST-EMPTY"
        )
    return Listing(source, kind, spelled, layouts)


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


def _record(place: str, values: Any) -> Record:
    if not isinstance(values, dict):
        raise ManifestError(
            f"{place}: expected an object; got {values!r:.60}; {REMEDY}", code="E-JSON-TYPE"
        )
    return Record(place, values)


def _read_json(path: Path) -> Listing:
    """Return what a JSON file lists; its kind is told by its keys."""
    content = read_json(path, MAX_JSON_BYTES, object_hook=kept_keys)
    is_object = isinstance(content, dict)
    images = cast(dict[str, Any], content).get("images") if is_object else content
    if not isinstance(images, list):
        raise ManifestError(
            f"{path} has neither a list of images nor a key images; {REMEDY}", code="E-JSON-KEY"
        )
    records = [
        _record(f"{path} image {number}", values)
        for number, values in enumerate(cast(list[Any], images))
    ]
    read = _visual_genome
    if is_object:
        read = _karpathy if records and "filename" in records[0].values else _coco
    listing = read(path, records)
    counts = Counter({"images": len(records)})
    if listing.kind == "Karpathy":
        counts.update(record.text("split") for record in records)
    for difference in count_differences(path.name, counts):
        logger.warning(f"{path}: {difference}")
    return listing


def kept_keys(values: dict[str, Any]) -> dict[str, Any]:
    """Return an object of a JSON file with KEPT_KEYS only.

    If it does not name a file, an error will show its keys; they are kept without their values.
    """
    kept = {key: value for key, value in values.items() if key in KEPT_KEYS}
    return kept if kept.keys() & NAMING_KEYS else dict.fromkeys(values) | kept


def _coco(path: Path, records: list[Record]) -> Listing:
    """instances_*, captions_*, image_info_* and others: ids are the images' numbers.

    LVIS has no file names, but a coco_url for each image.
    """
    first = records[0].values if records else {}
    by_url = "file_name" not in first and "coco_url" in first

    def images() -> Iterator[Image]:
        for record in records:
            name = _end_of_url(record, "coco_url") if by_url else record.text("file_name")
            yield Image(record.image_id("id"), name, *record.size())

    layouts: dict[str, Layout] = {"FILE_NAME": lambda image: image.path}
    if by_url:
        layouts = {
            "SPLIT/FILE_NAME": lambda image: image.path,
            "FILE_NAME": lambda image: PurePosixPath(image.path).name,
        }
    elif split := COCO_SPLIT.search(path.name.replace("-dev", "")):
        layouts[f"{split[0]}/FILE_NAME"] = lambda image: f"{split[0]}/{image.path}"
    elif records and COCO_SPLIT.search(records[0].text("file_name")):
        layouts["SPLIT/FILE_NAME"] = _in_folder_of_split
    return _listing(path, "COCO", images(), layouts)


def _in_folder_of_split(image: Image) -> str:
    split = COCO_SPLIT.search(image.path)
    return f"{split[0]}/{image.path}" if split else image.path


def _karpathy(path: Path, records: list[Record]) -> Listing:
    """dataset_coco.json and the like: ids are COCO's numbers, or else the names without ending."""

    def images() -> Iterator[Image]:
        for record in records:
            name = record.text("filename")
            folder = f"{record.text('filepath')}/" if "filepath" in record.values else ""
            image_id = PurePosixPath(name).stem
            if "cocoid" in record.values:
                image_id = record.image_id("cocoid")
            yield Image(image_id, folder + name, 0, 0)

    layouts: dict[str, Layout] = {"FILENAME": lambda image: PurePosixPath(image.path).name}
    if records and "filepath" in records[0].values:
        layouts = {"FILEPATH/FILENAME": lambda image: image.path, **layouts}
    return _listing(path, "Karpathy", images(), layouts)


def _visual_genome(path: Path, records: list[Record]) -> Listing:
    """image_data.json: ids are Visual Genome's numbers, and the URLs end in the files' paths."""

    def images() -> Iterator[Image]:
        for record in records:
            name = _end_of_url(record, "url")
            yield Image(record.image_id("image_id"), name, *record.size())

    layouts: dict[str, Layout] = {
        "VG_100K*/IMAGE_ID.jpg": lambda image: image.path,
        "IMAGE_ID.jpg": lambda image: f"{image.image_id}.jpg",
    }
    return _listing(path, "Visual Genome", images(), layouts)


def _end_of_url(record: Record, key: str) -> str:
    """Return the last folder and the file name of a URL."""
    url = record.text(key)
    try:
        path = urlsplit(url).path
    except ValueError:  # a bracket that opens an address and does not close it
        path = url
    return "/".join(PurePosixPath(path).parts[-2:])


def count_differences(file_name: str, counts: Mapping[str, int]) -> Iterator[str]:
    """Yield a line for each number of images that differs from that of a well-known data set.

    `counts` has the number of "images" and, where the file has splits, that of each split. Files
    with other names are not checked.

    >>> list(count_differences("captions_val2014.json", {"images": 40_000}))
    ['lists 40,000 images; COCO val2014 has 40,504']
    """
    if match := COCO_FILE.fullmatch(file_name):
        expected = (COCO_COUNTS[match[1]],)
        yield from _difference("images", counts["images"], f"COCO {match[1]}", expected)
    elif file_name == "image_data.json":
        yield from _difference("images", counts["images"], "Visual Genome", VISUAL_GENOME_COUNTS)
    for name, number in KARPATHY_COUNTS.get(file_name, {}).items():
        count = sum(counts.get(part, 0) for part in name.split("+"))
        things = "images" if name == "images" else f"images of {name}"
        yield from _difference(things, count, f"Karpathy's {file_name}", (number,))


def _difference(things: str, count: int, data_set: str, expected: tuple[int, ...]) -> Iterator[str]:
    if count not in expected:
        numbers = " or ".join(f"{number:,}" for number in expected)
        yield f"lists {count:,} {things}; {data_set} has {numbers}"


def _read_table(path: Path, columns: ColumnChoice) -> Listing:
    """Return what a table lists, with sizes if it has both columns of them."""
    read = {".parquet": _parquet, ".csv": _csv}.get(path.suffix.lower(), _json_lines)
    return _listing(path, "a table", read(path, columns), {"PATH": lambda image: image.path})


def _json_lines(path: Path, columns: ColumnChoice) -> Iterator[Image]:
    names: tuple[str, ...] = ()
    for place, values in read_json_lines(path):
        record = _record(place, values)
        names = names or _column_names(path, tuple(record.values), columns)
        yield _row_image(record, *names[:2])


def _csv(path: Path, columns: ColumnChoice) -> Iterator[Image]:
    rows = table_rows(path)
    heading = next(rows, (0, list[str]()))[1]
    names = _column_names(path, heading, columns)
    for number, row in rows:
        values: dict[str, Any] = dict(zip(heading, row, strict=True))
        values |= {side: _as_number(values[side]) for side in names[2:]}
        yield _row_image(Record(f"{path} line {number}", values), *names[:2])


def _as_number(text: str) -> int | str:
    """Return a text of digits as a number, and another text as it is, for an error to show."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else text


def _parquet(path: Path, columns: ColumnChoice) -> Iterator[Image]:
    def refuse(reason: str) -> ManifestError:
        return ManifestError(f"{path}: {reason}; write the table again", code="E-MANIFEST-TABLE")

    require_bounded(path, refuse)
    names = _column_names(path, column_names(path, refuse), columns)
    keys = (*names[:2], *SIZE_COLUMNS)
    for number, row in enumerate(read_columns(path, names, refuse)):
        yield _row_image(
            Record(f"{path} row {number}", dict(zip(keys, row, strict=False))), *keys[:2]
        )


def _column_names(path: Path, available: Sequence[str], columns: ColumnChoice) -> tuple[str, ...]:
    """Return the names of the columns of ids and paths, and of the sizes if there are any."""
    names: list[str] = []
    for option, chosen, usual in (
        ("--id-column", columns.id, ID_COLUMNS),
        ("--path-column", columns.path, PATH_COLUMNS),
    ):
        wanted = (chosen,) if chosen else usual
        name = next((name for name in wanted if name in available), None)
        if name is None:
            columns_text = printable(", ".join(available)) or "none"
            raise ManifestError(
                f"{path} has no column {' or '.join(wanted)}; its columns are {columns_text:.200}; "
                f"choose one with {option}",
                code="E-MANIFEST-COLUMN",
            )
        names.append(name)
    names += SIZE_COLUMNS if all(name in available for name in SIZE_COLUMNS) else ()
    for name in names:
        if available.count(name) > 1:
            raise ManifestError(
                f"{path} has two columns called {printable(name)}; rename one",
                code="E-MANIFEST-COLUMN",
            )
    return tuple(names)


def _row_image(record: Record, id_column: str, path_column: str) -> Image:
    return Image(record.image_id(id_column, texts=True), record.text(path_column), *record.size())
