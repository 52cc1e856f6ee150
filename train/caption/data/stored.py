"""Images that go by one of several ids, in a store."""

import re
from collections.abc import Container, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ....base.errors import ClipfeatError
from ...runs.jsonfile import field, identifier, read_json
from ...ve.data import image_candidates
from ...vqa.datasets.vqa2 import IMAGES, coco_candidates

SUBSETS = ("test2014", *IMAGES)
COCO_ID = re.compile(r"0|[1-9][0-9]{0,11}")  # "042" is another image than "42"


class Listed(NamedTuple):
    """An image that somebody wants captioned."""

    image_id: int | str  # as the data set has it
    candidates: tuple[str, ...]  # what a store may call it, the least ambiguous first


def read_list(path: Path) -> list[Listed]:
    """Return the images of a file in COCO's format, with or without captions, as its servers give.

    Such a file is image_info_test2014.json. Raises UsageError where it is missing, ClipfeatError
    for another format, for an image that is there twice, and for no image.
    """
    images: dict[int | str, Listed] = {}
    for number, record in enumerate(field(read_json(path), "images", list, path)):
        where = f"{path}: images[{number}]"
        image_id = identifier(record, "id", where)
        if image_id in images:
            raise ClipfeatError(f"{where}: id {image_id!r:.60} is there twice; drop one")
        named = "file_name" in record
        name = PurePosixPath(field(record, "file_name", str, where)).stem if named else ""
        candidates = (name, *candidates_of(str(image_id))) if name else candidates_of(str(image_id))
        images[image_id] = Listed(image_id, tuple(dict.fromkeys(candidates)))
    if not images:
        raise ClipfeatError(f"{path}: lists no images")
    return list(images.values())


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
