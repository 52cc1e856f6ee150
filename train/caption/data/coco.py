"""COCO's images and captions, in its official JSON files."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ....base.errors import ClipfeatError, UsageError
from ...runs.jsonfile import field, identifier, read_json
from ...vqa.datasets.vqa2 import coco_candidates
from .captions import read_caption
from .split import CaptionedImage
from .stored import candidates_of

SUBSETS = {"train": "train2014", "val": "val2014"}  # {split: the part of COCO that its file names}


class Listed(NamedTuple):
    """An image that somebody wants captioned."""

    image_id: int | str  # as the data set has it
    candidates: tuple[str, ...]  # what a store may call it, the least ambiguous first


def read_images(data: Path, part: str) -> tuple[list[CaptionedImage], Path]:
    """Return the images that a file lists, with their captions, and the file.

    It has its official name, captions_<subset>.json, or is called captions_<part>.json. Raises
    UsageError where it is missing, ClipfeatError where it is not in the official format.
    """
    path = _find(data, part)
    content = read_json(path)
    captions: dict[int | str, list[tuple[str, str]]]
    captions = {image_id: [] for image_id, _, _ in _images(content, path)}
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


def read_list(path: Path) -> list[Listed]:
    """Return the images of a file in COCO's format, with or without captions, as its servers give.

    Such a file is image_info_test2014.json. Raises ClipfeatError where it cannot be read or is in
    another format, for an image that is there twice, and for no image.
    """
    images = []
    for image_id, record, where in _images(read_json(path), path):
        candidates = candidates_of(str(image_id))
        if "file_name" in record:
            name = PurePosixPath(field(record, "file_name", str, where)).stem
            candidates = tuple(dict.fromkeys((name, *candidates))) if name else candidates
        images.append(Listed(image_id, candidates))
    if not images:
        raise ClipfeatError(f"{path}: lists no images")
    return images


def _images(content: Any, path: Path) -> Iterator[tuple[int | str, Any, str]]:
    """Yield (id, record, where it stands) of each image that a file lists, each once."""
    seen: set[int | str] = set()
    for number, record in enumerate(field(content, "images", list, path)):
        where = f"{path}: images[{number}]"
        image_id = identifier(record, "id", where)
        if image_id in seen:
            raise ClipfeatError(f"{where}: id {image_id!r:.60} is there twice; drop one")
        seen.add(image_id)
        yield image_id, record, where


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
