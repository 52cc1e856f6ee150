"""Read CSV and TSV files as records, with errors that name the file and the line."""

from collections.abc import Collection, Iterator
from pathlib import Path

from ...base.csvfile import table_rows
from ...base.errors import ClipfeatError


def csv_rows(
    path: Path, *, tabs: bool = False, wrapped: Collection[str] = ()
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (where it stands, {column: text}) of each row.

    With `tabs` the values are divided by tabs, and quotes are text. Values of the columns
    `wrapped` may have line ends. Raises ClipfeatError for a file that cannot be read or is not
    UTF-8, and for a row that is not one (see `table_rows`).
    """
    rows = table_rows(path, ClipfeatError, tabs=tabs, wrapped=wrapped)
    _, heading = next(rows, (0, []))
    for number, values in rows:
        yield f"{path}, line {number}", dict(zip(heading, values, strict=True))
