"""COCO's captions, in its official JSON files."""

from pathlib import Path
from typing import Any

from ....base.errors import ClipfeatError, UsageError
from ...runs.jsonfile import field, identifier, read_json
from ...vqa.datasets.vqa2 import coco_candidates
from .captions import read_caption
from .split import CaptionedImage

SUBSETS = {"train": "train2014", "val": "val2014"}  # {split: the part of COCO that its file names}


def read_images(data: Path, part: str) -> tuple[list[CaptionedImage], Path]:
    """Return the images that a file lists, with their captions, and the file.

    It has its official name, captions_<subset>.json, or is called captions_<part>.json. Raises
    UsageError where it is missing, ClipfeatError where it is not in the official format.
    """
    path = _find(data, part)
    content = read_json(path)
    captions: dict[int | str, list[tuple[str, str]]] = {}
    for number, record in enumerate(field(content, "images", list, path)):
        image_id = identifier(record, "id", f"{path}: images[{number}]")
        if image_id in captions:
            raise ClipfeatError(f"{path}: images[{number}]: id {image_id} is there twice")
        captions[image_id] = []
    for number, record in enumerate(field(content, "annotations", list, path)):
        where = f"{path}: annotations[{number}]"
        _of_image(captions, record, where).append(read_caption(record, "caption", where))
    # A split of one's own may draw on any part of COCO.
    subsets = (SUBSETS[part],) if part in SUBSETS else tuple(SUBSETS.values())
    images = [
        CaptionedImage(
            image_id,
            coco_candidates(image_id, subsets),
            tuple(written for written, _ in pairs),
            tuple(text for _, text in pairs),
        )
        for image_id, pairs in captions.items()
    ]
    return images, path


def _find(data: Path, part: str) -> Path:
    names = [f"captions_{SUBSETS[part]}.json"] if part in SUBSETS else []
    names.append(f"captions_{part}.json")
    for name in names:
        if (data / name).is_file():
            return data / name
    raise UsageError(f"{data} has no captions of split {part!r}: expected {' or '.join(names)}")


def _of_image(
    captions: dict[int | str, list[tuple[str, str]]], record: Any, where: str
) -> list[tuple[str, str]]:
    image_id = identifier(record, "image_id", where)
    if image_id not in captions:
        raise ClipfeatError(f"{where}: image_id {image_id} is none of the images of the file")
    return captions[image_id]
