"""Images that go by one of several ids, in a store."""

import re
from collections.abc import Container, Sequence

from ....base.errors import ClipfeatError
from ...ve.data import image_candidates
from ...vqa.datasets.vqa2 import IMAGES, coco_candidates

SUBSETS = ("test2014", *IMAGES)
COCO_ID = re.compile(r"0|[1-9][0-9]{0,11}")  # "042" is another image than "42"


def candidates_of(image: str) -> tuple[str, ...]:
    """Return the ids under which a store may hold an image of COCO, Flickr30k or one's own."""
    coco = coco_candidates(int(image), SUBSETS) if COCO_ID.fullmatch(image) else ()
    return tuple(dict.fromkeys((*coco, *image_candidates(image))))


def find_stored(
    candidates: Sequence[tuple[str, ...]], store: Container[str], *, what: str
) -> list[str]:
    """Return the store's id of each image.

    `what` says in errors what they are, as "images of the results". Raises ClipfeatError that
    counts and names the images that the store does not have.
    """
    found = [next((name for name in names if name in store), None) for names in candidates]
    missing = [names for names, stored in zip(candidates, found, strict=True) if stored is None]
    if missing:
        raise ClipfeatError(
            f"{len(missing)} of {len(found)} {what} have no features, such as "
            f"{' or '.join(map(repr, missing[0][:3]))}; extract them into the store"
        )
    return [stored for stored in found if stored is not None]
