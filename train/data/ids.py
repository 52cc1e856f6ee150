"""What a store may call an image of a data set, and which of these names it has."""

import logging
import os
import re
from collections.abc import Collection, Container, Sequence
from functools import lru_cache
from pathlib import Path

from ...base.errors import ClipfeatError
from ...base.text import IMAGE_SUFFIXES, suffix

logger = logging.getLogger(__name__)

COCO_NAME = re.compile(r"COCO_([a-z]+[0-9]{4})_([0-9]{12})")  # its part, its number
# With all of its zeros or with none: "042" is another image than "42".
COCO_NUMBER = re.compile(r"0|[1-9][0-9]{0,11}|[0-9]{12}")
COCO_PARTS = ("test2014", "test2015", "train2014", "val2014")
ENDING = ".jpg"


def without_ending(name: str) -> str:
    """Return the name or path of an image file as manifests have it: without the file's ending.

    >>> without_ending("b/1.png"), without_ending("2.JPEG"), without_ending("v1.2")
    ('b/1', '2', 'v1.2')
    """
    return os.path.splitext(name)[0] if suffix(name) in IMAGE_SUFFIXES else name  # noqa: PTH122


def coco_number(image_id: int | str) -> int | None:
    """Return an image's number in COCO, of a number or the name of a file; None for other ids.

    >>> coco_number("COCO_val2014_000000000042.jpg"), coco_number("000000000042"), coco_number("x")
    (42, 42, None)
    """
    text = without_ending(str(image_id))
    if name := COCO_NAME.fullmatch(text):
        return int(name[2])
    return int(text) if COCO_NUMBER.fullmatch(text) else None


@lru_cache(maxsize=1 << 10)  # an image's texts stand beside each other and share one tuple
def coco_candidates(image_id: int | str, parts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the ids under which a store may hold an image of COCO, the least ambiguous first.

    An id is a number, as text too, or the name of a file, which says the part of COCO; any other
    is the one that the store must have.

    >>> coco_candidates(42, ("val2014",))
    ('COCO_val2014_000000000042', '000000000042', '42')
    """
    number = coco_number(image_id)
    if number is None:
        return (str(image_id),)
    if name := COCO_NAME.fullmatch(without_ending(str(image_id))):
        parts = (name[1],)
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

    >>> file_candidates("2407214681"), file_candidates("a/b.png")
    (('2407214681', '2407214681.jpg'), ('a/b.png', 'a/b'))
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

    `candidates` are the ids that an image may have, with or without the ending of its file; `texts`
    says in errors what the texts are, as "questions of split 'val' ask". Raises ClipfeatError that
    counts and names the images without features where more than `skip_missing` texts are about
    them; None says that nobody may skip any.
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
        logger.info(f"{told}; skipped")
    return ids


def _stored(names: tuple[str, ...], store: Container[str]) -> str | None:
    """Return the first of the names that the store has, as it is or with the other ending."""
    spelled = (spelling for name in names for spelling in (name, _otherwise(name)))
    return next((name for name in spelled if name in store), None)


def _otherwise(name: str) -> str:
    """Return a name without the ending of an image file, or with ".jpg" where it has none."""
    bare = without_ending(name)
    return bare if bare != name else name + ENDING


def require_different(
    image_ids: Sequence[int | str], stored: Sequence[str | None], *, of: str
) -> None:
    """Raise ClipfeatError where two images of a list would have the features of one.

    `stored` are the store's ids of them, as `find_images` returns them; `of` says in errors whose
    images they are.
    """
    owners: dict[str, int | str] = {}
    for image_id, name in zip(image_ids, stored, strict=True):
        if name is None:
            continue
        owner = owners.setdefault(name, image_id)
        if owner != image_id:
            raise ClipfeatError(
                f"{of}: image {owner!r:.60} and image {image_id!r:.60} would both be {name!r:.60} "
                "of the store; extract them under ids that differ, as clipfeat manifest --ids path "
                "gives them",
                code="E-IMAGES-SAME",
            )


def require_ids(
    path: Path, predicted: Collection[int | str], wanted: Collection[int | str], *, of: str
) -> None:
    """Raise ClipfeatError that counts and names the ids which only one side has.

    `path` is the file of predictions; `of` says in the plural what has the ids: "questions".
    """
    missing, unknown = set(wanted) - set(predicted), set(predicted) - set(wanted)
    problems = [
        f"{len(ids)} {problem}, such as {', '.join(map(repr, sorted(ids, key=str)[:3]))}"
        for problem, ids in (
            (f"{of} have no prediction", missing),
            (f"predictions are of no {of.removesuffix('s')}", unknown),
        )
        if ids
    ]
    if problems:
        raise ClipfeatError(
            f"{path}: {'; '.join(problems)}; score a split with its own predictions",
            code="E-PREDICTIONS-IDS",
        )
