"""A sentence about an image, and what a store may call that image."""

from typing import NamedTuple

from ....base.errors import ClipfeatError
from ....base.text import is_unicode
from ...grounded.images import (
    COCO_NAME,
    coco_candidates,
    file_candidates,
    vg_candidates,
    without_ending,
)


class Sentence(NamedTuple):
    """A caption of an image, or a question about it."""

    image_id: str
    text: str
    source: str  # the data set: "mscoco", "vqa", "gqa", "visual7w", "vg", "table"
    answers: dict[str, float] | None  # {answer: score, 0 to 1}; None: no question


def image_candidates(image_id: str) -> tuple[str, ...]:
    """Return the ids under which a store may hold an image, the least ambiguous first.

    >>> image_candidates("COCO_val2014_000000393267")
    ('COCO_val2014_000000393267', '000000393267', '393267')
    >>> image_candidates("2354786"), image_candidates("b/7.jpg")
    (('VG_2354786', '2354786'), ('b/7.jpg', 'b/7'))
    """
    if COCO_NAME.fullmatch(without_ending(image_id)):
        return coco_candidates(image_id, ())
    if image_id.isascii() and image_id.isdigit():
        return vg_candidates(image_id)
    return file_candidates(image_id)


def require_unicode(text: str, what: str, where: str) -> str:
    """Return `text`; ClipfeatError if it holds half a surrogate pair, which nothing can encode."""
    if is_unicode(text):
        return text
    raise ClipfeatError(f"{where}: {what} holds half a surrogate pair: {text!r:.60}; mend it")
