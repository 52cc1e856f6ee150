"""Regions in the tab-separated files of VinVL and Oscar, with an index of lines beside each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from ...base.files import write_atomically
from ..identity import REGIONS, Identity
from .lines import (
    FLOAT,
    LineReader,
    LineWriter,
    Row,
    Text,
    decoded,
    encoded,
    read_id,
    read_number,
)
from .options import Options, Sizes, chosen, needs_sizes
from .records import Features
from .tsv import region_arrays, require_regions

GEOMETRY = 6  # numbers behind a vector: left, top, right, bottom, width and height, as fractions
TOLERANCE = 1e-3  # between right - left and the width: some files were rounded to half precision
LAYOUTS = ("boxes", "vectors")
WHY = (
    "boxes: the last 6 of the numbers of a region (of 2054) are the place of its box, and become "
    "boxes; vectors: all numbers are features"
)


class Info(msgspec.Struct):
    """The JSON of a line. What follows `features` is in files that clipfeat has written."""

    num_boxes: Annotated[int, msgspec.Meta(ge=0, lt=10**9)]
    features: str
    boxes: str | None = None  # float32, in pixels: those of `features` are rounded
    image_w: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] = 0
    image_h: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] = 0


def read_info(text: bytes) -> Info:
    """Return the JSON of a line; raises ValueError for another one."""
    try:
        return msgspec.json.decode(text, type=Info)
    except RecursionError:
        raise ValueError("its JSON is nested too deep") from None


def open_reader(name: str, sources: Sequence[Path], options: Options) -> LineReader:
    """Return a reader of files of the format; UsageError if it must know more (E-IMPORT-...)."""
    layout = chosen("--layout", options.layout, LAYOUTS, WHY)
    if layout == "vectors":
        return VectorsReader(sources)
    return BoxesReader(sources, options.sizes)


def open_writer(name: str, path: Path, identity: Identity, _options: Options) -> LineWriter:
    """Return a writer of a file: with the place of boxes behind each vector if there are boxes.

    Raises UsageError (E-EXPORT-REGIONS) for grids that are neither regions nor such vectors.
    """
    layout = identity.recipe.get("layout") if identity.recipe.get("name") == name else None
    if layout != "vectors":
        require_regions(name, identity, REGIONS[:1])
    return VinvlWriter(path)


class VectorsReader(LineReader):
    """Reads lines of an id and JSON, or of an id, a count and base64; all numbers are features."""

    format = "vinvl-tsv"
    _geometry = 0

    def __init__(self, files: Sequence[Path]):
        super().__init__(files)
        self.settings = {"layout": "vectors"}

    def image_id(self, columns: Sequence[bytes]) -> str:
        """Return the first column."""
        return read_id(columns[0].strip())

    def parse(self, image_id: str, columns: Sequence[bytes]) -> Row:
        """Return what a line says."""
        if len(columns) == 3:
            count = read_number(columns[1].strip(), "num_boxes")
            info = Info(count, columns[2].strip().decode())
        elif len(columns) == 2:
            info = read_info(columns[1])
        else:
            raise ValueError(f"has {len(columns)} columns; {self.format} has 2 or 3")
        numbers = self.dim + self._geometry if self.dim else 0
        arrays = {"features": Text(info.features.encode(), FLOAT, numbers)}
        if info.boxes is not None:
            arrays["boxes"] = Text(info.boxes.encode(), FLOAT, 4)
        return Row(image_id, info.num_boxes, arrays, info.image_w, info.image_h)

    def features(self, row: Row) -> Features:
        """Return the features of a line."""
        return Features(decoded(row, "features")[:, None], width=row.width, height=row.height)


class BoxesReader(VectorsReader):
    """Reads the same lines; the last six numbers of a region become its box."""

    regions = REGIONS[:1]
    _geometry = GEOMETRY

    def __init__(self, files: Sequence[Path], sizes: Sizes):
        super().__init__(files)
        self.settings = {"layout": "boxes"}
        self._sizes = sizes
        if "boxes" not in self.first.arrays and not sizes:
            raise needs_sizes(f"{self.format} has boxes as fractions of the width and height")

    def channels(self, row: Row) -> int:
        """Return the number of channels before the place of the box."""
        numbers = super().channels(row)
        if numbers <= GEOMETRY:
            raise ValueError(f"has {numbers} numbers for a region, which are no vector and a box")
        return numbers - GEOMETRY

    def features(self, row: Row) -> Features:
        """Return the features of a line, with boxes."""
        vectors = decoded(row, "features")
        grid, geometry = vectors[:, None, : self.dim], vectors[:, self.dim :].astype(float)
        size = (row.width, row.height) if row.width else self._sizes.get(row.image_id)
        if "boxes" in row.arrays:
            return Features(grid, decoded(row, "boxes"), width=row.width, height=row.height)
        if size is None:
            raise ValueError("the width and height of the image are not in the manifest of --sizes")
        if not (np.abs(geometry[:, 2:4] - geometry[:, :2] - geometry[:, 4:]) < TOLERANCE).all():
            raise ValueError("its last 6 numbers are not the place of a box; try --layout vectors")
        boxes = (geometry[:, :4] * (*size, *size)).astype(np.float32)
        return Features(grid, boxes, width=size[0], height=size[1])


class VinvlWriter(LineWriter):
    """Writes what Oscar reads, and the file .lineidx beside it with the offset of each line."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._index = path.with_suffix(".lineidx")
        self._require_ours(self._index)

    def id_of(self, line: bytes) -> str:
        """Return the first column."""
        return line.partition(b"\t")[0].decode()

    def line(self, image_id: str, features: Features) -> bytes:
        """Return a line of an id and JSON; it also has the boxes and the size, which Oscar ignores."""
        if image_id != image_id.strip() or any(letter in image_id for letter in "\t\r\n"):
            raise ValueError("the id begins or ends in a space, or has a tab or a line end")
        vectors, more = features.grid[:, 0], dict[str, object]()
        if features.boxes is not None:
            vectors, boxes = region_arrays(features)
            size = (features.width, features.height)
            vectors = np.hstack([vectors.astype(np.float32), geometry_of(boxes, size)])
            more = {"boxes": encoded(boxes).decode(), "image_w": size[0], "image_h": size[1]}
        info = {"num_boxes": len(vectors), "features": encoded(vectors).decode(), **more}
        return b"%s\t%s\n" % (image_id.encode(), msgspec.json.encode(info))

    def finish(self) -> None:
        """Write the index of lines, then give the file its name."""
        lines = "".join(f"{offset}\n" for offset in self.offsets)
        write_atomically(self._index, lines.encode())
        super().finish()


def geometry_of(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the place of each box in an image of (width, height): (region, 6) float32.

    Left, top, right, bottom, width and height, each a fraction of the image's. They are what
    Oscar's authors give (microsoft/Oscar, issue 10).
    """
    corners = boxes.astype(float) / (*size, *size)
    return np.hstack([corners, corners[:, 2:] - corners[:, :2]]).astype(np.float32)
