"""What a store may call an image of a data set, and which of these names it has."""

import re
from collections.abc import Container, Sequence
from functools import lru_cache

from ...base.errors import ClipfeatError
from ...base.text import say

COCO_NAME = re.compile(r"COCO_([a-z]+[0-9]{4})_([0-9]{12})")  # its part, its number
COCO_NUMBER = re.compile(r"0|[1-9][0-9]{0,11}")  # "042" is another image than "42"
COCO_PARTS = ("test2014", "test2015", "train2014", "val2014")
ENDING = ".jpg"


@lru_cache(maxsize=1 << 10)  # an image's texts stand beside each other and share one tuple
def coco_candidates(image_id: int | str, parts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the ids under which a store may hold an image of COCO, the least ambiguous first.

    An id is a number, as text too, or the name of a file, which says the part of COCO; any other
    is the one that the store must have.

    >>> coco_candidates(42, ("val2014",))
    ('COCO_val2014_000000000042', '000000000042', '42')
    """
    text = str(image_id)
    if name := COCO_NAME.fullmatch(text.removesuffix(ENDING)):
        parts, number = (name[1],), int(name[2])
    elif COCO_NUMBER.fullmatch(text):
        number = int(text)
    else:
        return (text,)
    digits = f"{number:012}"
    return (*(f"COCO_{part}_{digits}" for part in parts), digits, str(number))


def vg_candidates(image_id: int | str) -> tuple[str, ...]:
    """Return the ids under which a store may hold an image of Visual Genome, or of GQA.

    >>> vg_candidates(2354786)
    ('VG_2354786', '2354786')
    """
    return (f"VG_{image_id}", str(image_id))


def file_candidates(image_id: str) -> tuple[str, ...]:
    """Return the ids under which a store may hold an image that goes by its file, its own first.

    >>> file_candidates("2407214681"), file_candidates("36979.jpg")
    (('2407214681', '2407214681.jpg'), ('36979.jpg', '36979'))
    """
    return (image_id, _otherwise(image_id))


def any_candidates(image_id: int | str) -> tuple[str, ...]:
    """Return the ids under which a store may hold an image of COCO, Flickr30k or one's own."""
    coco = coco_candidates(image_id, COCO_PARTS)
    return tuple(dict.fromkeys((*coco, *file_candidates(str(image_id)))))


def find_images(
    candidates: Sequence[tuple[str, ...]],
    store: Container[str],
    *,
    texts: str,
    skip_missing: int | None,
) -> list[str | None]:
    """Return the store's id of each text's image, None where it has no features.

    `candidates` are the ids that an image may have, with or without ".jpg"; `texts` says in errors
    what the texts are, as "questions of split 'val' ask". Raises ClipfeatError that counts and
    names the images without features where more than `skip_missing` texts are about them; None
    says that nobody may skip any.
    """
    found = {names: _stored(names, store) for names in dict.fromkeys(candidates)}
    ids = [found[names] for names in candidates]
    missing = [names for names, stored in found.items() if stored is None]
    if missing:
        skipped = ids.count(None)
        told = (
            f"{skipped} of {len(ids)} {texts} about "
            f"{len(missing)} images that have no features, such as "
            f"{', '.join(' or '.join(names[:2]) for names in missing[:3])}"
        )
        if skipped > (skip_missing or 0):
            remedy = "extract these images into the store"
            if skip_missing is not None:
                remedy += f", or pass --skip-missing {skipped}"
            raise ClipfeatError(f"{told}; {remedy}")
        say(f"{told}; skipped")
    return ids


def _stored(names: tuple[str, ...], store: Container[str]) -> str | None:
    """Return the first of the names that the store has, as it is or with the other ending."""
    spelled = (*names, *map(_otherwise, names))
    return next((name for name in spelled if name in store), None)


def _otherwise(name: str) -> str:
    """Return a name without ".jpg", or with it where it has none."""
    return name.removesuffix(ENDING) if name.endswith(ENDING) else name + ENDING
