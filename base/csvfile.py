"""Read CSV and TSV files row by row; each error names the line."""

import csv
from collections.abc import Collection, Iterator
from pathlib import Path

from .errors import ClipfeatError
from .files import text_lines
from .text import printable

QUOTES = 'put a value that holds a comma or a quote in quotes, and write each quote in it as ""'


def table_rows(
    path: Path,
    refuse: type[ClipfeatError],
    *,
    tabs: bool = False,
    wrapped: Collection[str] = (),
) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of its first line, values) of the heading and of each row of a UTF-8 file.

    In a CSV file commas divide values, and quotes hold a value together. In one with `tabs`
    nothing does: there a quote is a quote. A row is a line, in either; values in the columns
    `wrapped` alone may go on over several lines, in quotes. Blank lines are passed over. A quote
    too many would otherwise swallow the rows behind it.

    Raises `refuse`, with the line, for text that is not UTF-8, a row with more or fewer values
    than the heading, two columns of one name, and a quote that is not closed where it must be.
    """
    heading: list[str] = []
    try:
        for number, values in _tabbed(path) if tabs else _quoted(path, refuse):
            where = f"{path} line {number}"
            if not heading:
                heading = values
                _require_distinct(values, where, refuse)
            for column, value in enumerate(values):
                if "\n" in value and not (column < len(heading) and heading[column] in wrapped):
                    raise refuse(
                        f"{where}: a quote opens a value that goes on over the line's end: "
                        f"{value!r:.60}; {QUOTES}",
                        code="E-TABLE-QUOTE",
                    )
            if len(values) != len(heading):
                remedy = "values hold no tab and no line end" if tabs else QUOTES
                raise refuse(
                    f"{where} has {len(values)} values and the heading {len(heading)}; {remedy}",
                    code="E-TABLE-VALUES",
                )
            yield number, values
    except OSError as error:
        raise refuse(f"{path}: cannot be read: {error.strerror}", code="E-TABLE-TEXT") from None


def _tabbed(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in text_lines(path):
        if line:
            yield number, line.split("\t")


def _quoted(path: Path, refuse: type[ClipfeatError]) -> Iterator[tuple[int, list[str]]]:
    last = 0  # line that was read

    def lines() -> Iterator[str]:
        nonlocal last
        for number, line in text_lines(path):
            last = number
            yield f"{line}\n"

    rows = csv.reader(lines(), strict=True)
    while True:
        first = last + 1
        try:
            values = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise refuse(
                f"{path} line {first} is not a row of CSV ({error}); {QUOTES}", code="E-TABLE-QUOTE"
            ) from None
        if values:
            yield first, values


def _require_distinct(heading: list[str], where: str, refuse: type[ClipfeatError]) -> None:
    """Raise unless each column with a name has one of its own."""
    for column, name in enumerate(heading):
        if name and name in heading[:column]:
            raise refuse(
                f"{where}: two columns {printable(name)}; rename one", code="E-TABLE-HEADING"
            )


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
