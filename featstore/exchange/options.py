"""What a user says about a source or a destination, since files themselves do not say it."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...base.csvfile import csv_rows
from ...base.errors import UsageError
from ...base.parquet import read_columns
from ...base.text import printable

CHANNELS = ("rgb", "bgr")
SIZE_COLUMNS = ("image_id", "width", "height")
JOURNAL_ENDING = ".export.json"  # of the file beside a destination while it is incomplete

Sizes = Mapping[str, tuple[int, int]]  # image id to width and height in pixels


@dataclass(frozen=True)
class Options:
    """What cannot be known from the files of a format; None: the user has not said it."""

    layout: str | None = None  # of the arrays; each format has its own choices
    channels: Literal["rgb", "bgr"] | None = None  # of the pictures that the features were made of
    sizes: Sizes = field(default_factory=dict[str, tuple[int, int]])  # empty: not given


def chosen(option: str, value: str | None, choices: Sequence[str], why: str) -> str:
    """Return the value of an option, which must be one of `choices`.

    `why` says what the choices mean. Raises UsageError: E-IMPORT-LAYOUT, E-IMPORT-CHANNELS.
    """
    if value is not None and value in choices:
        return value
    code = f"E-IMPORT-{option.strip('-').upper()}"
    got = "it is not given" if value is None else f"got {value!r:.80}"
    raise UsageError(f"{option} must be one of {', '.join(choices)}: {why}; {got}", code=code)


def needs_sizes(what: str) -> UsageError:
    """Return the error for a source whose boxes need the sizes of the images; `what` says why."""
    return UsageError(
        f"{what}: the sizes of the images are needed; give with --sizes a manifest of the images "
        f"(clipfeat manifest IMAGES -o images.parquet), or a table such as sizes.csv with the columns "
        f"{', '.join(SIZE_COLUMNS)}",
        code="E-IMPORT-SIZES",
    )


def read_sizes(path: str | Path) -> Sizes:
    """Return the width and height of each image of a manifest or of a .csv or .tsv table.

    A table has the columns SIZE_COLUMNS, and may have others. Images of unknown size are left out.
    Raises UsageError (E-IMPORT-SIZES) for another file, and a ClipfeatError of `csv_rows`.
    """

    def refuse(reason: str) -> Exception:
        return UsageError(
            f"--sizes {path}: {reason}; give a manifest that clipfeat manifest has written, or a .csv "
            f"or .tsv table with the columns {', '.join(SIZE_COLUMNS)}",
            code="E-IMPORT-SIZES",
        )

    path = Path(path)
    tabs = path.suffix.lower() == ".tsv"
    is_table = tabs or path.suffix.lower() == ".csv"
    rows = (
        _table_sizes(path, refuse, tabs=tabs)
        if is_table
        else read_columns(path, SIZE_COLUMNS, refuse)
    )
    sizes: dict[str, tuple[int, int]] = {}
    for image_id, width, height in rows:
        if not (isinstance(image_id, str) and isinstance(width, int) and isinstance(height, int)):
            raise refuse("image_id must be a text, width and height whole numbers")
        size = (width, height)
        if min(size) > 0 and sizes.setdefault(image_id, size) != size:
            raise refuse(f"it has two sizes for the id {printable(image_id):.100}")
    return sizes


def _table_sizes(
    path: Path, refuse: Callable[[str], Exception], *, tabs: bool
) -> Iterator[tuple[Any, ...]]:
    """Yield the id, the width and the height of each row of a table."""
    for place, row in csv_rows(path, tabs=tabs):
        if missing := [name for name in SIZE_COLUMNS if name not in row]:
            raise refuse(f"it has no column {missing[0]}")
        image_id, *sides = (row[name] for name in SIZE_COLUMNS)
        if not all(side.isascii() and side.isdigit() and len(side) < 10 for side in sides):
            raise refuse(f"{place}: width and height must be whole numbers; got {sides!r:.80}")
        yield image_id, *map(int, sides)
