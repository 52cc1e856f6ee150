"""Read CSV files row by row, with errors that name the file and the line."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...base.errors import ClipfeatError

MORE = "(more)"  # what a row has beyond the header


def csv_rows(path: Path, delimiter: str = ",") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where it stands, {column: text}) of each row; a column that a row lacks is None.

    Raises ClipfeatError for a file that cannot be read, is no UTF-8, or has more fields in a row
    than in its header.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, delimiter=delimiter, strict=True, restkey=MORE)
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                if MORE in row:
                    raise ClipfeatError(
                        f"{where}: more fields than the header has; quote its commas"
                    )
                yield where, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ClipfeatError(f"{path}: cannot be read ({error})") from None
