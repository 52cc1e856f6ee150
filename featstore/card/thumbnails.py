"""Small pictures of some images of a store, in a document: `documents/thumbnails.parquet`.

They are in the order of a random sample, in row groups that are small enough to read the first alone.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyarrow has no types.

import io
import logging
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from ...base.errors import CorruptStoreError, StoreError
from ...base.parquet import read_leaf
from ..layout import DOCUMENTS
from ..store import FeatureStore

THUMBNAILS = f"{DOCUMENTS}/thumbnails.parquet"
SIDE = 160  # pixels of the longer side
SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string()),
        pa.field("source_sha256", pa.string()),  # of the image file, as the index has it
        pa.field("jpeg", pa.binary()),  # of at most SIDE x SIDE pixels
    ]
)
GROUP_ROWS = 64
MOST_REMOTE_BYTES = 1 << 26  # of the document of a store at a URL; a larger one is not fetched
MOST_JPEG_BYTES = 1 << 15  # of a picture that is shown
JPEG = b"\xff\xd8\xff"  # how such a file begins

logger = logging.getLogger(__name__)


def thumbnails_table(rows: Iterable[tuple[str, str, bytes]]) -> bytes:
    """Return the document of (image id, sha256 of the image's file, JPEG file)."""
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    file = io.BytesIO()
    table = pa.table([pa.array(c, t) for c, t in zip(columns, SCHEMA.types, strict=True)], SCHEMA)
    pq.write_table(table, file, row_group_size=GROUP_ROWS, compression="zstd")
    return file.getvalue()


def read_thumbnails(store: FeatureStore) -> dict[tuple[str, str], bytes]:
    """Return the first row group of a store's thumbnails, by image id and sha256 of the image's file.

    Nothing is returned, and why is logged, if the document cannot be read or is too large.
    """
    metadata = store.metadata
    if THUMBNAILS not in metadata.documents:
        return {}
    try:
        path = store.files.document(THUMBNAILS, metadata, MOST_REMOTE_BYTES)
        limit = GROUP_ROWS * MOST_JPEG_BYTES
        leaves = [read_leaf(path, name, 0, limit, _refused) for name in SCHEMA.names]
    except (StoreError, OSError) as error:
        logger.warning(f"{store.location}: no thumbnails are shown: {error}")
        return {}
    rows = zip(*([value[0].as_py() for value in leaf] for leaf in leaves), strict=False)
    return {
        (str(image_id), str(sha256)): jpeg
        for image_id, sha256, jpeg in rows
        if isinstance(jpeg, bytes) and jpeg.startswith(JPEG) and len(jpeg) <= MOST_JPEG_BYTES
    }


def _refused(reason: str) -> CorruptStoreError:
    return CorruptStoreError(f"{THUMBNAILS} {reason}", code="E-STORE-DOCUMENT")
