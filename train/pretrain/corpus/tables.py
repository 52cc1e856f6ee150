"""Tables of captions, one image and one caption a row: CSV, TSV and Parquet."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ....base.errors import ClipfeatError
from ....base.parquet import read_columns, read_schema
from ...runs.csvfile import csv_rows
from ...runs.jsonfile import field, identifier
from .sentences import Sentence, require_unicode

SOURCE = "table"
IMAGE = ("image_id", "id")
CAPTION = "caption"


def captions(path: Path) -> Iterator[Sentence]:
    """Yield the caption of each row of a table, of which few rows are held at a time.

    The image's id is in column `image_id` or, where there is none, `id`; its text in `caption`.
    A TSV file has no quotes: Conceptual Captions has captions that begin with one. Raises
    ClipfeatError for a table without these columns, or with a value that is none.
    """
    read = {".parquet": _parquet, ".tsv": _tsv}.get(path.suffix, csv_rows)
    column = None
    for where, row in read(path):
        column = column or _image_column(path, row)
        image_id = str(identifier(row, column, where)).strip()
        if not image_id:
            raise ClipfeatError(f"{where}: {column} is blank; every caption needs its image")
        text = field(row, CAPTION, str, where)
        yield Sentence(
            require_unicode(image_id, column, where),
            require_unicode(text, CAPTION, where),
            SOURCE,
            None,
        )


def _image_column(path: Path, found: Collection[str]) -> str:
    """Return the name of the column that has the images' ids."""
    column = next((name for name in IMAGE if name in found), None)
    if column is None or CAPTION not in found:
        wanted = f"{' or '.join(IMAGE)}, and {CAPTION}"
        raise ClipfeatError(
            f"{path}: expected columns {wanted}; found {', '.join(map(repr, found)):.200}"
        )
    return column


def _tsv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    return csv_rows(path, tabs=True)


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    def refuse(why: str) -> ClipfeatError:
        return ClipfeatError(f"{path}: {why}; write the columns anew")

    found = read_schema(path, refuse).names
    names = (_image_column(path, found), CAPTION)
    for name in names:
        if found.count(name) > 1:
            raise refuse(f"has two columns {name}")
    for number, row in enumerate(read_columns(path, names, refuse)):
        yield f"{path}, row {number}", dict(zip(names, row, strict=True))
