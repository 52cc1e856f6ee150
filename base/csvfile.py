"""Read CSV and TSV files row by row; each error names the line."""

import csv
from collections.abc import Collection, Iterator
from pathlib import Path

from .errors import ClipfeatError, reason_of
from .files import text_lines
from .text import printable

QUOTING = 'put a value that holds a comma or a quote in quotes, and write each quote in it as ""'


def csv_rows(
    path: Path, *, tabs: bool = False, multiline: Collection[str] = ()
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (file and line, {column: text}) of each row of a table that has a heading.

    The options and the errors are those of `table_rows`.
    """
    rows = table_rows(path, tabs=tabs, multiline=multiline)
    heading = next(rows, (0, list[str]()))[1]
    for number, values in rows:
        yield f"{path}, line {number}", dict(zip(heading, values, strict=True))


def table_rows(
    path: Path, *, tabs: bool = False, multiline: Collection[str] = ()
) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of its first line, values) of the heading and of each row of a UTF-8 file.

    Commas separate values, and quotes enclose a value that holds a comma. With `tabs`, tabs
    separate them, and a quote is an ordinary letter. A row is one line: a stray quote would
    otherwise swallow the rows that follow. Only values of the columns `multiline` may hold line
    ends, in quotes. Blank lines are skipped.

    Raises ClipfeatError with the line: for text that is not UTF-8 (E-TABLE-TEXT), a row with more
    or fewer values than the heading (E-TABLE-VALUES), two columns of one name (E-TABLE-HEADING),
    and a quote that is not closed where it must be (E-TABLE-QUOTE).
    """
    heading: list[str] = []
    try:
        for number, values in _tsv_rows(path) if tabs else _csv_rows(path):
            line = f"{path} line {number}"
            if not heading:
                heading = values
                _require_distinct(values, line)
            for column, value in enumerate(values):
                if "\n" in value and not (column < len(heading) and heading[column] in multiline):
                    raise ClipfeatError(
                        f"{line}: a value in quotes contains a line end: {value!r:.60}; {QUOTING}",
                        code="E-TABLE-QUOTE",
                    )
            if len(values) != len(heading):
                remedy = "remove tabs and line ends from values" if tabs else QUOTING
                raise ClipfeatError(
                    f"{line} has {len(values)} values and the heading has {len(heading)}; {remedy}",
                    code="E-TABLE-VALUES",
                )
            yield number, values
    except OSError as error:
        raise ClipfeatError(
            f"{path}: cannot be read: {reason_of(error)}", code="E-TABLE-TEXT"
        ) from None


def _tsv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in text_lines(path):
        if line:
            yield number, line.split("\t")


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    last = 0  # number of the line that was read last

    def lines() -> Iterator[str]:
        nonlocal last
        for last, line in text_lines(path):  # noqa: B007 - read below
            yield f"{line}\n"

    rows = csv.reader(lines(), strict=True)
    while True:
        first = last + 1
        try:
            values = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise ClipfeatError(
                f"{path} line {first} is not a row of CSV ({error}); {QUOTING}",
                code="E-TABLE-QUOTE",
            ) from None
        if values:
            yield first, values


def _require_distinct(heading: list[str], line: str) -> None:
    """Raise ClipfeatError if two columns have the same name; unnamed columns may be several."""
    for column, name in enumerate(heading):
        if name and name in heading[:column]:
            raise ClipfeatError(
                f"{line}: two columns are called {printable(name)}; rename one",
                code="E-TABLE-HEADING",
            )
