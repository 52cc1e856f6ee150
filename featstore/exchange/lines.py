"""Files of one image a line: found by offset, read in any order, and written so that a kill costs
one line."""

import os
from abc import ABC, abstractmethod
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import numpy as np

from ...base.errors import UsageError
from ...base.files import naming, open_output, open_plain, read_at
from ...base.parquet import MAX_TEXT
from ...base.text import printable
from ..geometry import MAX_GRID_SIDE, GridShape
from ..identity import FloatDtype, Region
from ..lookup import Status
from .destination import give_name
from .options import JOURNAL_ENDING
from .parts import FIRST_IMAGES
from .records import Features, Item

MAX_COLUMNS = 12  # of a line; what follows stays with the last
MAX_LINE = 1 << 26  # bytes; 4096 regions of 2048 numbers have 45 MB
BUFFER = 1 << 20
PARTIAL = ".partial"  # ending of a file that is being written
FLOAT = np.dtype("<f4")
# Base64 between quotes: three times as fast as Python's binascii, and as strict.
BASE64 = msgspec.json.Decoder(bytes)


class Unread(ValueError):
    """A line that cannot be used, of which the id at least may be known."""

    def __init__(self, reason: str, image_id: str = "", status: Status = Status.UNDECODABLE):
        super().__init__(reason)
        self.image_id = image_id
        self.status = status


class Place(NamedTuple):
    """Where a line is."""

    file: int
    offset: int
    length: int


class Text(NamedTuple):
    """An array as a line has it: base64 of its numbers."""

    base64: bytes
    dtype: "np.dtype[Any]"
    columns: int  # numbers a row; 0: any number, the same for all images


class Row(NamedTuple):
    """What a line says, with its arrays not yet decoded; the features are `arrays["features"]`."""

    image_id: str
    rows: int
    arrays: Mapping[str, Text]
    width: int = 0
    height: int = 0
    vfov: int = 0  # degrees, of views


def decoded(row: Row, name: str) -> np.ndarray:
    """Return an array of a line, (row, column); raises ValueError for other bytes than it needs."""
    text, dtype, columns = row.arrays[name]
    try:
        numbers = np.frombuffer(BASE64.decode(b'"%b"' % text), np.uint8)
    except ValueError:
        raise ValueError(f"its {name} are not base64") from None
    width = columns * dtype.itemsize or numbers.size // row.rows
    if not width or width % dtype.itemsize or numbers.size != row.rows * width:
        raise ValueError(f"its {name} have {numbers.size:,} bytes for {row.rows} rows")
    return numbers.view(dtype).reshape(row.rows, -1)


def read_number(text: bytes | str, name: str) -> int:
    """Return a number of up to nine digits; raises ValueError for another text."""
    if not 0 < len(text) <= 9 or not text.isdigit():
        raise ValueError(f"its {name} is not a whole number: {text!r:.40}")
    return int(text)


def read_id(text: bytes) -> str:
    """Return an id; raises Unread if it is empty, too long or not UTF-8."""
    if not 0 < len(text) <= MAX_TEXT:
        raise Unread(f"its id has {len(text):,} bytes; expected 1 to {MAX_TEXT:,}")
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise Unread(f"its id is not UTF-8: {text!r:.80}") from None


class LineReader(ABC):
    """Reads files with an image a line; a subclass says what the columns are."""

    format: str
    dtype: FloatDtype = "float32"
    regions: tuple[Region, ...] = ()

    def __init__(self, files: Sequence[Path]):
        """Find the number of channels, which is that of most of the first lines that are whole.

        Raises UsageError (E-IMPORT-EMPTY, E-IMPORT-COLUMNS) if no line is.
        """
        self.files = files
        self.settings: dict[str, Any] = {}
        self._opened = ExitStack()
        self._descriptors: list[int] = []
        for path in files:
            if path.is_dir():
                raise UsageError(
                    f"{path} is a folder; {self.format} is read from files: name each",
                    code="E-IMPORT-SOURCE",
                )
            self._descriptors.append(open_plain(path, follow=True))
            self._opened.callback(os.close, self._descriptors[-1])
        self.dim = 0
        self.first = self._first()

    def _first(self) -> Row:
        problem, found = "", Counter[int]()
        rows: dict[int, Row] = {}  # the first of each number of channels
        for path, line_number, line in self._all_lines():
            try:
                row = self._row(line)
                dim = self.channels(row)
            except ValueError as error:
                problem = problem or f"line {line_number} of {path}: {error}"
                continue
            found[dim] += 1
            rows.setdefault(dim, row)
            if found.total() == FIRST_IMAGES:
                break
        if found:
            ((self.dim, _),) = found.most_common(1)
            return rows[self.dim]
        if not problem:
            raise UsageError(f"{self.files[0]} is empty", code="E-IMPORT-EMPTY")
        raise UsageError(
            f"no line can be read as {self.format}: {printable(problem)}", code="E-IMPORT-COLUMNS"
        )

    def _all_lines(self) -> Iterator[tuple[Path, int, bytes]]:
        for number, path in enumerate(self.files):
            for line_number, _, line in self._lines(number):
                yield path, line_number, line

    @abstractmethod
    def image_id(self, columns: Sequence[bytes]) -> str:
        """Return the id of a line; raises ValueError if it cannot be read."""

    @abstractmethod
    def parse(self, image_id: str, columns: Sequence[bytes]) -> Row:
        """Return what a line says; raises ValueError for one that is not of the format."""

    def channels(self, row: Row) -> int:
        """Return the number of channels of a line's features."""
        return decoded(row, "features").shape[1]

    @abstractmethod
    def features(self, row: Row) -> Features:
        """Return the features of a line, decoded."""

    def _row(self, line: bytes) -> Row:
        """Return what a line says; raises Unread for one that cannot be used."""
        columns = line.split(b"\t", MAX_COLUMNS)
        if len(columns) < 2:
            raise Unread("has no tabs")
        image_id = self.image_id(columns)
        if len(line) > MAX_LINE:
            reason = f"the line has more than {MAX_LINE:,} bytes"
            raise Unread(reason, image_id, Status.TOO_LARGE)
        try:
            row = self.parse(image_id, columns)
        except ValueError as error:
            raise Unread(str(error), image_id) from None
        if row.rows == 0:
            raise Unread("it has no regions", image_id, Status.UNSUPPORTED)
        if row.rows > MAX_GRID_SIDE:
            reason = f"has {row.rows:,} regions; a store holds at most {MAX_GRID_SIDE:,}"
            raise Unread(reason, image_id, Status.TOO_LARGE)
        return row

    def items(self) -> Iterator[Item]:
        """Yield an item for each line; blank lines are skipped."""
        for file, path in enumerate(self.files):
            for number, place, line in self._lines(file):
                source = f"{path.name} line {number}"
                try:
                    row = self._row(line)
                    self._check_lengths(row)
                except Unread as error:
                    image_id = error.image_id or source
                    yield Item(image_id, GridShape(1, 1), place, str(error), error.status, source)
                else:
                    yield Item(row.image_id, GridShape(row.rows, 1), place, source=source)

    def _check_lengths(self, row: Row) -> None:
        """Raise Unread unless each array has as much base64 as it must have."""
        for name, (text, dtype, columns) in row.arrays.items():
            size = row.rows * columns * dtype.itemsize
            if len(text) != -(-size // 3) * 4:
                raise Unread(
                    f"is cut off or damaged: its {name} have {len(text):,} letters of base64, "
                    f"{row.rows} rows need {-(-size // 3) * 4:,}",
                    row.image_id,
                )

    def read(self, item: Item) -> Features:
        """Return the features of a line; raises ValueError with the reason where it is damaged."""
        place: Place = item.place
        file, offset, length = place
        with naming(self.files[file]):
            line = read_at(self._descriptors[file], length, offset)
        row = self._row(line.rstrip(b"\r\n"))
        return self.features(row)._replace(source_sha256=sha256(line).hexdigest())

    def _lines(self, file: int) -> Iterator[tuple[int, Place, bytes]]:
        """Yield (number from 1, place, text without its end) of each line that is not blank.

        Of a line that is too long, the text is its beginning, and longer than MAX_LINE.
        """
        offset = number = 0
        with self.files[file].open("rb", buffering=BUFFER) as lines, naming(self.files[file]):
            if lines.read(len(BOM_UTF8)) == BOM_UTF8:  # of an editor; no part of an id
                offset = len(BOM_UTF8)
            lines.seek(offset)
            while line := lines.readline(MAX_LINE + 1):
                number += 1
                start, offset = offset, offset + len(line)
                end = line
                while len(line) > MAX_LINE and end and not end.endswith(b"\n"):
                    end = lines.readline(MAX_LINE)
                    offset += len(end)
                text = line.rstrip(b"\r\n")
                if text:
                    yield number, Place(file, start, offset - start), text

    def close(self) -> None:
        """Close the files of the source."""
        self._opened.close()


class LineWriter(ABC):
    """Writes a file with an image a line; until `finish` its name ends in PARTIAL."""

    def __init__(self, path: Path):
        """Raise UsageError (E-EXPORT-EXISTS) if there is a file of that name that is not ours."""
        self._path = path
        self._partial = path.with_name(path.name + PARTIAL)
        self._require_ours(self._partial)
        self._file: BinaryIO | None = None  # None too if an earlier call has finished the file
        self.offsets: list[int] = []  # of the lines

    def _require_ours(self, file: Path) -> None:
        """Raise UsageError if a file that is written exists, and no export has begun here."""
        if file.exists() and not self._path.with_name(self._path.name + JOURNAL_ENDING).exists():
            raise UsageError(
                f"{file} exists; remove it, or choose another name", code="E-EXPORT-EXISTS"
            )

    @abstractmethod
    def id_of(self, line: bytes) -> str:
        """Return the id of a line that `line` gave."""

    @abstractmethod
    def line(self, image_id: str, features: Features) -> bytes:
        """Return an image as a line with its end; raises ValueError if it cannot be held."""

    def written(self) -> set[str]:
        """Return the ids of the lines that are whole, and cut off what follows them."""
        if self._path.exists():
            with self._path.open("rb", buffering=BUFFER) as file:
                return self._ids(file)
        descriptor = open_output(self._partial)
        self._file = os.fdopen(descriptor, "r+b", buffering=BUFFER)
        ids = self._ids(self._file)
        self._file.seek(self._end)
        self._file.truncate()
        return ids

    def _ids(self, file: BinaryIO) -> set[str]:
        ids: set[str] = set()
        self._end = 0
        while (line := file.readline()).endswith(b"\n"):
            ids.add(self.id_of(line))
            self.offsets.append(self._end)
            self._end += len(line)
        return ids

    def write(self, image_id: str, features: Features) -> None:
        """Append a line."""
        assert self._file is not None
        line = self.line(image_id, features)
        with naming(self._partial):
            self._file.write(line)
        self.offsets.append(self._end)
        self._end += len(line)

    def finish(self) -> None:
        """Give the file its name, once its bytes are on the disk."""
        if self._file is None:
            return
        with naming(self._partial):
            self._file.close()
        give_name(self._partial, self._path)


def encoded(values: np.ndarray, dtype: "np.dtype[Any]" = FLOAT) -> bytes:
    """Return the base64 of an array's numbers."""
    return msgspec.json.encode(values.astype(dtype, copy=False).tobytes())[1:-1]
