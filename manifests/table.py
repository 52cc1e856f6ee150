"""A table of images: Parquet, CSV or JSON lines with a column of ids and one of paths."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.csvfile import table_rows
from ..base.errors import ManifestError
from ..base.parquet import read_columns, read_schema
from ..base.text import printable
from .jsonfile import Record, read_json_lines
from .listing import Listing, listed
from .manifest import Image, require_bounded

USUAL = {"id": ("image_id", "id"), "path": ("path", "file_name", "filename", "file")}
SIZE_COLUMNS = ("width", "height")
Asked = Mapping[str, str | None]  # "id" and "path" -> the column that has them; None: a usual one


def table_listing(path: Path, id_column: str | None, path_column: str | None) -> Listing:
    """Return what a table lists; its kind is told by the file's ending.

    The columns have the usual names unless others are given. Sizes are read if both columns are
    there. Raises ManifestError for a table without the columns, or with a value of the wrong type.
    """
    read = {".parquet": _parquet, ".csv": _csv}.get(path.suffix.lower(), _json_lines)
    asked = {"id": id_column, "path": path_column}
    return listed(path, read(path, asked), {"PATH": lambda image: image.path})


def _json_lines(path: Path, asked: Asked) -> Iterator[Image]:
    names = None
    for record in read_json_lines(path):
        names = names or _chosen(path, tuple(record.values), asked)
        yield _image(record, *names[:2])


def _csv(path: Path, asked: Asked) -> Iterator[Image]:
    rows = table_rows(path, ManifestError)
    _, heading = next(rows, (0, []))
    names = _chosen(path, heading, asked)
    for number, row in rows:
        values: dict[str, Any] = dict(zip(heading, row, strict=True))
        values |= {side: _number(values[side]) for side in names[2:]}
        yield _image(Record(f"{path} line {number}", values), *names[:2])


def _number(text: str) -> int | str:
    """Return the number that a text is, or the text, for an error to show."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else text


def _parquet(path: Path, asked: Asked) -> Iterator[Image]:
    def refuse(why: str) -> ManifestError:
        return ManifestError(f"{path}: {why}; write the columns anew")

    require_bounded(path, refuse)
    names = _chosen(path, tuple(read_schema(path, refuse).names), asked)
    keys = (*names[:2], *SIZE_COLUMNS)
    for row in read_columns(path, names, refuse):
        yield _image(Record(str(path), dict(zip(keys, row, strict=False))), *names[:2])


def _chosen(path: Path, found: Sequence[str], asked: Asked) -> tuple[str, ...]:
    """Return the names of the columns of ids and paths, and of the sizes if there are any."""
    chosen = []
    for what, usual in USUAL.items():
        wanted = [asked[what]] if asked[what] else usual
        name = next((name for name in wanted if name in found), None)
        if name is None:
            shown = printable(", ".join(found)) or "none"
            raise ManifestError(
                f"{path} has no column {' or '.join(map(str, wanted))}; it has {shown:.200}; "
                f"name one with --{what}-column"
            )
        chosen.append(name)
    chosen += SIZE_COLUMNS if all(name in found for name in SIZE_COLUMNS) else ()
    for name in chosen:
        if found.count(name) > 1:
            raise ManifestError(f"{path} has two columns {printable(name)}; rename one")
    return tuple(chosen)


def _image(record: Record, image_id: str, path: str) -> Image:
    return Image(record.image_id(image_id, texts=True), record.text(path), *record.size())
