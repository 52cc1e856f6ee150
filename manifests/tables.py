"""Tables of images, lists of paths, and how many rows of them name no new image."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, cast

from ..base.csvfile import table_rows
from ..base.errors import ClipfeatError, ManifestError, reason_of
from ..base.files import text_lines
from ..base.jsonio import read_json_lines
from ..base.parquet import column_names, read_columns
from ..base.text import printable
from .manifest import Image, require_bounded
from .records import Layout, Listing, Record, TableOptions, as_record, make_listing

logger = logging.getLogger(__name__)

ID_COLUMNS = ("image_id", "id")
# Beside this column of paths, which lists of training texts have, ids are those of the texts.
IMAGE_COLUMN = "image"
PATH_COLUMNS = ("path", "file_name", "filename", "file", "filepath", IMAGE_COLUMN)
SIZE_COLUMNS = ("width", "height")
LISTED: dict[str, Layout] = {"PATH": lambda image: image.path}
# Such lists are made for a folder with several data sets; people have one of these.
LISTED_IMAGE: dict[str, Layout] = {
    "IMAGE": lambda image: image.path,
    "FOLDER/NAME": lambda image: "/".join(PurePosixPath(image.path).parts[-2:]),
    "NAME": lambda image: PurePosixPath(image.path).name,
}


class Columns(NamedTuple):
    """The columns of a table that are read."""

    id: str | None  # None: ids come from the paths
    path: str
    sizes: tuple[str, ...]  # width and height, or nothing

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*((self.id,) if self.id else ()), self.path, *self.sizes)


def read_table(path: Path, options: TableOptions) -> Listing:
    """Return what a table lists, with sizes if it has both columns of them.

    A .txt file has one path a line. Rows that repeat an image, or have none in the column `image`,
    are counted in the log. Raises ClipfeatError as `read_listing` does.
    """
    readers = {".parquet": _parquet, ".csv": _csv, ".tsv": _csv, ".txt": _lines}
    read = readers.get(path.suffix.lower(), _json_lines)
    columns, records = read(path, options)
    return _listing(path, "a table", columns, records, options)


def list_of_paths(path: Path, records: Iterable[Record], options: TableOptions) -> Listing:
    """Return what a JSON list of objects with the key `image` lists."""
    columns = Columns(None, IMAGE_COLUMN, ())
    return _listing(path, "a list of paths", columns, records, options)


def _listing(
    source: Path, kind: str, columns: Columns, records: Iterable[Record], options: TableOptions
) -> Listing:
    if columns.id and options.ids != "stem":
        raise ManifestError(
            f"--ids and --views are for folders, --ids also for lists without ids; {source} has "
            f"ids in the column {printable(columns.id)}; drop --ids",
            code="E-MANIFEST-OPTION",
        )
    images: dict[Image, None] = {}  # in order
    repeated, without = 0, 0
    for record in records:
        paths = _paths(record, columns)
        without += not paths
        for path in paths:
            image_id = (
                record.image_id(columns.id, texts=True) if columns.id else id_of(path, options.ids)
            )
            image = Image(image_id, path, *(record.size() if columns.sizes else (0, 0)))
            repeated += image in images
            images[image] = None
    for count, what in ((without, "name no image"), (repeated, "repeat an image")):
        if count:
            logger.info(f"{source}: rows that {what}: {count:,}")
    is_for_texts = columns.path == IMAGE_COLUMN
    layouts = LISTED_IMAGE if is_for_texts else LISTED
    return make_listing(source, kind, images, layouts, repeats=columns.id is None)


def _paths(record: Record, columns: Columns) -> list[str]:
    """Return the paths of a row: one, or in the column `image` of JSON also several, or none."""
    value = record.values.get(columns.path)
    if columns.path != IMAGE_COLUMN or isinstance(value, str):
        return [record.text(columns.path)]
    if value is None:
        return []
    if isinstance(value, list):
        several = cast(list[Any], value)
        return [
            Record(f"{record.place} {columns.path}", {"item": item}).text("item")
            for item in several
        ]
    return [record.text(columns.path)]


def id_of(path: str, ids: str) -> str:
    """Return the id of a file: its path without the ending, or with "stem" the end of that.

    >>> id_of("a/b.c.jpg", "stem"), id_of("a/b.c.jpg", "path")
    ('b.c', 'a/b.c')
    """
    bare = os.path.splitext(path)[0]  # noqa: PTH122
    return bare.rpartition("/")[2] if ids == "stem" else bare


def _lines(path: Path, _: TableOptions) -> tuple[Columns, Iterator[Record]]:
    """Read a file of paths, one a line, as `find` prints them."""

    def records() -> Iterator[Record]:
        try:
            for number, line in text_lines(path):
                if text := line.strip().removeprefix("./"):
                    yield Record(f"{path} line {number}", {"path": text})
        except OSError as error:
            raise ClipfeatError(
                f"{path}: cannot be read: {reason_of(error)}", code="E-TABLE-TEXT"
            ) from None

    return Columns(None, "path", ()), records()


def _json_lines(path: Path, options: TableOptions) -> tuple[Columns, Iterator[Record]]:
    lines = (as_record(place, values) for place, values in read_json_lines(path))
    first = next(lines, None)
    if first is None:
        return Columns(None, "path", ()), lines
    # A size may be missing from the first line, and be known in another.
    columns = _columns(path, tuple(first.values), options)._replace(sizes=SIZE_COLUMNS)
    return columns, chain((first,), lines)


def _csv(path: Path, options: TableOptions) -> tuple[Columns, Iterator[Record]]:
    rows = table_rows(path, tabs=path.suffix.lower() == ".tsv")
    heading = next(rows, (0, list[str]()))[1]
    columns = _columns(path, heading, options)

    def records() -> Iterator[Record]:
        for number, row in rows:
            values: dict[str, Any] = dict(zip(heading, row, strict=True))
            values |= {side: _as_number(values[side]) for side in columns.sizes}
            yield Record(f"{path} line {number}", values)

    return columns, records()


def _as_number(text: str) -> int | str:
    """Return a text of digits as a number, and another text as it is, for an error to show."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else text


def _parquet(path: Path, options: TableOptions) -> tuple[Columns, Iterator[Record]]:
    def refuse(reason: str) -> ManifestError:
        return ManifestError(f"{path}: {reason}; write the table again", code="E-MANIFEST-TABLE")

    require_bounded(path, refuse)
    columns = _columns(path, column_names(path, refuse), options)
    rows = read_columns(path, columns.names, refuse)
    return columns, (
        Record(f"{path} row {number}", dict(zip(columns.names, row, strict=True)))
        for number, row in enumerate(rows)
    )


def _columns(path: Path, available: Sequence[str], options: TableOptions) -> Columns:
    """Return the columns of ids and paths, and of the sizes if the table has both."""
    path_column = _column(path, available, "--path-column", options.path_column, PATH_COLUMNS)
    if path_column is None:
        raise _no_column(path, available, "--path-column", PATH_COLUMNS)
    usual = () if path_column == IMAGE_COLUMN else ID_COLUMNS
    id_column = _column(path, available, "--id-column", options.id_column, usual)
    has_sizes = all(name in available for name in SIZE_COLUMNS)
    columns = Columns(id_column, path_column, SIZE_COLUMNS if has_sizes else ())
    for name in columns.names:
        if available.count(name) > 1:
            raise ManifestError(
                f"{path} has two columns called {printable(name)}; rename one",
                code="E-MANIFEST-COLUMN",
            )
    return columns


def _column(
    path: Path, available: Sequence[str], option: str, chosen: str | None, usual: Sequence[str]
) -> str | None:
    """Return the column that was chosen, or else the first usual one, None if there is none."""
    if chosen and chosen not in available:
        raise _no_column(path, available, option, (chosen,))
    return chosen or next((name for name in usual if name in available), None)


def _no_column(
    path: Path, available: Sequence[str], option: str, wanted: Sequence[str]
) -> ManifestError:
    columns = printable(", ".join(available)) or "none"
    return ManifestError(
        f"{path} has no column {' or '.join(wanted)}; its columns are {columns:.200}; choose one "
        f"with {option}",
        code="E-MANIFEST-COLUMN",
    )
