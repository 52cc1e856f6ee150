"""Features of the 36 views of a viewpoint in tab-separated files, as navigation codes read them."""

from collections.abc import Sequence
from pathlib import Path

from ...base.errors import UsageError
from ..geometry import GridShape
from ..identity import Identity
from .lines import FLOAT, LineReader, LineWriter, Row, Text, decoded, encoded, read_id, read_number
from .options import CHANNELS, Options, chosen
from .records import Features
from .tsv import require_columns

VIEWS = GridShape(36, 1)
COLUMNS = 6  # scanId, viewpointId, image_w, image_h, vfov, features
# Degrees. Of all published files: the views of a viewpoint are 30 degrees apart, see manifests/views.
FIELD_OF_VIEW = 60


def open_reader(_name: str, sources: Sequence[Path], options: Options) -> LineReader:
    """Return a reader of files of views; UsageError (E-IMPORT-CHANNELS) unless channels are given."""
    why = "the order of the channels of the pictures that the features were made of; "
    why += "the simulator gives bgr, and CLIP-ViL's published script leaves it so"
    return ViewsReader(sources, chosen("--channels", options.channels, CHANNELS, why))


def open_writer(name: str, path: Path, identity: Identity, _options: Options) -> LineWriter:
    """Return a writer of files of views; UsageError (E-EXPORT-VIEWS) for a store of others."""
    if identity.recipe.get("views") != VIEWS.rows:
        raise UsageError(
            f"{name} holds the {VIEWS.rows} views of viewpoints, and this is another store: it was "
            f"neither extracted with --recipe views nor imported from {name}",
            code="E-EXPORT-VIEWS",
        )
    field_of_view = identity.recipe.get("vfov", FIELD_OF_VIEW)
    return ViewsWriter(path, field_of_view if isinstance(field_of_view, int) else FIELD_OF_VIEW)


class ViewsReader(LineReader):
    """Reads lines of a viewpoint each; its id is scanId_viewpointId, as clipfeat manifest has it."""

    format = "vln-tsv"

    def __init__(self, files: Sequence[Path], channels: str):
        self._vfov = 0
        super().__init__(files)
        self._vfov = self.first.vfov
        self.settings = {"views": VIEWS.rows, "channels": channels, "vfov": self._vfov}

    def image_id(self, columns: Sequence[bytes]) -> str:
        """Return the first two columns, joined by an underscore."""
        return f"{read_id(columns[0])}_{read_id(columns[1])}"

    def parse(self, image_id: str, columns: Sequence[bytes]) -> Row:
        """Return what a line says."""
        require_columns(self.format, columns, COLUMNS)
        width, height, vfov = (
            read_number(text, name)
            for text, name in zip(columns[2:5], ("image_w", "image_h", "vfov"), strict=True)
        )
        if self._vfov not in (0, vfov):
            raise ValueError(f"its vfov is {vfov}, and that of the first line {self._vfov}")
        arrays = {"features": Text(columns[5], FLOAT, self.dim)}
        return Row(image_id, VIEWS.rows, arrays, width, height, vfov)

    def features(self, row: Row) -> Features:
        """Return the features of a line, a row for each view."""
        return Features(decoded(row, "features")[:, None], width=row.width, height=row.height)


class ViewsWriter(LineWriter):
    """Writes what the readers of R2R codes read."""

    def __init__(self, path: Path, vfov: int):
        super().__init__(path)
        self._vfov = vfov

    def id_of(self, line: bytes) -> str:
        """Return the first two columns, joined by an underscore."""
        return b"_".join(line.split(b"\t", 2)[:2]).decode()

    def line(self, image_id: str, features: Features) -> bytes:
        """Return a line of six columns."""
        scan, underscore, viewpoint = image_id.partition("_")
        if not (scan and underscore and viewpoint) or any(c in image_id for c in '\t\r\n"'):
            raise ValueError("the id does not read like SCAN_VIEWPOINT")
        if features.grid.shape[:2] != VIEWS:
            raise ValueError(f"the grid does not have the shape {VIEWS}")
        numbers = b"%d\t%d\t%d" % (features.width, features.height, self._vfov)
        values = (scan.encode(), viewpoint.encode(), numbers, encoded(features.grid[:, 0]))
        return b"\t".join(values) + b"\n"
