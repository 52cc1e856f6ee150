"""Regions in tab-separated files: those of bottom-up attention and those of LXMERT."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...base.errors import UsageError
from ..identity import REGIONS, Identity, Region
from .lines import FLOAT, LineReader, LineWriter, Row, Text, decoded, encoded, read_id, read_number
from .options import Options
from .records import Features

LONG = np.dtype("<i8")
COLUMNS = {
    "bottom-up-tsv": ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features"),
    "lxmert-tsv": (
        *("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf"),
        *("num_boxes", "boxes", "features"),
    ),
}


def open_reader(name: str, sources: Sequence[Path], _options: Options) -> LineReader:
    """Return a reader of files of the format."""
    return BottomUpReader(sources) if name == "bottom-up-tsv" else LxmertReader(sources)


def open_writer(name: str, path: Path, identity: Identity, _options: Options) -> LineWriter:
    """Return a writer of a file of the format; UsageError (E-EXPORT-REGIONS) without regions."""
    if name == "bottom-up-tsv":
        require_regions(name, identity, REGIONS[:1])
        return BottomUpWriter(path)
    require_regions(name, identity, REGIONS)
    return LxmertWriter(path)


def require_regions(name: str, identity: Identity, needed: Sequence[Region]) -> None:
    """Raise UsageError (E-EXPORT-REGIONS) unless a store has what each region needs in a format."""
    missing = [region for region in needed if region not in identity.regions]
    if missing:
        raise UsageError(
            f"{name} holds regions with {', '.join(needed)}; the store has no {', '.join(missing)}; "
            f"choose another format",
            code="E-EXPORT-REGIONS",
        )


def unquoted(text: bytes) -> bytes:
    """Return a value as Python's csv module reads it: quotes enclose a value that has a quote."""
    if len(text) > 1 and text[:1] == text[-1:] == b'"':
        return text[1:-1].replace(b'""', b'"')
    return text


def quoted(image_id: str) -> bytes:
    """Return an id as Python's csv module writes it; raises ValueError for tabs and line ends."""
    if any(letter in image_id for letter in "\t\r\n"):
        raise ValueError("the id has a tab or a line end, which a line cannot hold")
    text = image_id.encode()
    return b'"%s"' % text.replace(b'"', b'""') if b'"' in text else text


def require_columns(name: str, columns: Sequence[bytes], count: int) -> None:
    """Raise ValueError unless a line has the columns of the format."""
    if len(columns) == count:
        return
    others = [other for other, names in COLUMNS.items() if len(names) == len(columns)]
    hint = f", as {others[0]} has" if others and others[0] != name else ""
    raise ValueError(f"has {len(columns)} columns{hint}; {name} has {count}")


class TsvReader(LineReader):
    """Reads lines of values that Python's csv module has written, the id first."""

    def image_id(self, columns: Sequence[bytes]) -> str:
        """Return the first column."""
        return read_id(unquoted(columns[0]))

    def sizes(self, columns: Sequence[bytes]) -> tuple[int, int, int]:
        """Return the width and the height of the image, and the number of its regions."""
        names = COLUMNS[self.format]
        require_columns(self.format, columns, len(names))
        values = dict(zip((name.replace("image_", "img_") for name in names), columns, strict=True))
        width, height, count = (
            read_number(values[name], name) for name in ("img_w", "img_h", "num_boxes")
        )
        return width, height, count


class BottomUpReader(TsvReader):
    """Reads what bottom-up-attention's generate_tsv.py writes."""

    format = "bottom-up-tsv"
    regions = REGIONS[:1]

    def parse(self, image_id: str, columns: Sequence[bytes]) -> Row:
        """Return what a line says."""
        width, height, count = self.sizes(columns)
        arrays = {
            "boxes": Text(columns[4], FLOAT, 4),
            "features": Text(columns[5], FLOAT, self.dim),
        }
        return Row(image_id, count, arrays, width, height)

    def features(self, row: Row) -> Features:
        """Return the features of a line, with boxes."""
        grid = decoded(row, "features")[:, None]
        return Features(grid, decoded(row, "boxes"), width=row.width, height=row.height)


class LxmertReader(TsvReader):
    """Reads the files of LXMERT; of a region's attribute nothing is kept."""

    format = "lxmert-tsv"
    regions = REGIONS

    def parse(self, image_id: str, columns: Sequence[bytes]) -> Row:
        """Return what a line says."""
        width, height, count = self.sizes(columns)
        arrays = {
            "classes": Text(columns[3], LONG, 1),
            "scores": Text(columns[4], FLOAT, 1),
            "boxes": Text(columns[8], FLOAT, 4),
            "features": Text(columns[9], FLOAT, self.dim),
        }
        return Row(image_id, count, arrays, width, height)

    def features(self, row: Row) -> Features:
        """Return the features of a line, with boxes, classes and scores."""
        return Features(
            decoded(row, "features")[:, None],
            decoded(row, "boxes"),
            decoded(row, "classes")[:, 0],
            decoded(row, "scores")[:, 0],
            row.width,
            row.height,
        )


class TsvWriter(LineWriter):
    """Writes lines of values that Python's csv module reads, the id first."""

    def id_of(self, line: bytes) -> str:
        """Return the first column."""
        return unquoted(line.partition(b"\t")[0]).decode()


def region_arrays(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Return the features (region, dim) and the boxes; ValueError if the image's size is unknown."""
    assert features.boxes is not None
    if not features.width or not features.height:
        raise ValueError("the width and height of the image are unknown; import with --sizes")
    return features.grid[:, 0], features.boxes


class BottomUpWriter(TsvWriter):
    """Writes what bottom-up-attention's read_tsv.py reads."""

    def line(self, image_id: str, features: Features) -> bytes:
        """Return a line of six columns."""
        grid, boxes = region_arrays(features)
        numbers = b"%d\t%d\t%d" % (features.width, features.height, len(grid))
        values = (quoted(image_id), numbers, encoded(boxes), encoded(grid))
        return b"\t".join(values) + b"\n"


class LxmertWriter(TsvWriter):
    """Writes what LXMERT's load_obj_tsv reads; attributes are 0, with a confidence of 0."""

    def line(self, image_id: str, features: Features) -> bytes:
        """Return a line of ten columns."""
        grid, boxes = region_arrays(features)
        assert features.classes is not None
        assert features.scores is not None
        none = np.zeros(len(grid), LONG)
        values = (
            quoted(image_id),
            b"%d\t%d" % (features.height, features.width),
            encoded(features.classes, LONG),
            encoded(features.scores),
            encoded(none, LONG),
            encoded(none),
            b"%d" % len(grid),
            encoded(boxes),
            encoded(grid),
        )
        return b"\t".join(values) + b"\n"
