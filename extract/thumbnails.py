"""Small pictures of some images of a store, kept in it for those who look at it."""

import io
import logging
from collections import Counter
from collections.abc import Iterator

from tqdm import tqdm

from ..base.errors import ExtractUsageError, needs_extra
from ..base.text import counted
from ..featstore import FeatureStore
from ..featstore.card.thumbnails import MOST_JPEG_BYTES, SIDE, THUMBNAILS, thumbnails_table
from ..featstore.geometry import BICUBIC, RGB, Upright, WholeCells
from ..featstore.report.sample import SAMPLE_SEED, sample_rows
from ..featstore.writing.describe import write_documents
from .planning.recipe import Recipe
from .recompute import decode_rows, not_comparable

logger = logging.getLogger(__name__)

QUALITY = 80  # of JPEG


def check_thumbnails(recipe: Recipe) -> None:
    """Raise ExtractUsageError (E-THUMBNAILS-VIEWS) for a recipe of which a record is many pictures."""
    if recipe.views is not None:
        raise ExtractUsageError(
            "--thumbnails: a record of views is 36 pictures; leave out --thumbnails",
            code="E-THUMBNAILS-VIEWS",
        )


def write_thumbnails(store: FeatureStore, root: str, count: int) -> int:
    """Write small pictures of `count` images of a store into it, and return how many there are.

    They are a random sample, the same for each call: JPEG files of at most 160 x 160 pixels, in the
    document documents/thumbnails.parquet. The digest stays the same. `root` is the folder or URL of
    the images. A file that is not the one that was extracted is left out, with a warning.
    """
    recipe = Recipe.from_json(store.identity.recipe)
    check_thumbnails(recipe)
    with needs_extra("extract"):
        import PIL.Image  # noqa: F401
    rejected: Counter[str] = Counter()
    kept = list(_pictures(store, root, count, recipe, rejected))
    write_documents(store.path, {THUMBNAILS: thumbnails_table(kept)})
    for reason, n in rejected.most_common(3):
        logger.warning(f"no thumbnail of {counted(n, 'image')}: {reason}")
    return len(kept)


def _pictures(
    store: FeatureStore, root: str, count: int, recipe: Recipe, rejected: Counter[str]
) -> Iterator[tuple[str, str, bytes]]:
    """Yield (image id, sha256 of the file, JPEG file) of a sample; count why others are left out."""
    from PIL import Image

    small = WholeCells(SIDE, SIDE, (1, 1), **BICUBIC)
    # Turned or not, as the backbone has seen it: sizes in the index are those of such images.
    steps = (*((Upright(),) if recipe.is_upright else ()), RGB(), small)
    shrinking = Recipe("thumbnail", steps, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    rows = sample_rows(store, count, SAMPLE_SEED)  # which begins with those of the card
    pictures = decode_rows(rows, root, shrinking)
    for row, picture in tqdm(pictures, "thumbnails", len(rows), unit="image", disable=None):
        reason = not_comparable(row, picture)
        if reason is not None or picture.pixels is None:
            rejected[reason or picture.reason] += 1
            continue
        file = io.BytesIO()
        Image.fromarray(picture.pixels).save(file, "JPEG", quality=QUALITY, optimize=True)
        if file.tell() > MOST_JPEG_BYTES:
            rejected["its JPEG file would be too large"] += 1
            continue
        yield row.image_id, row.source_sha256, file.getvalue()
