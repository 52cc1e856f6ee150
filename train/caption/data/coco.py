"""COCO's images and captions, in its official JSON files."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ....base.errors import ClipfeatError, UsageError
from ...grounded.images import ENDING, any_candidates, coco_candidates
from ...runs.jsonfile import field, identifier, read_json
from .captions import read_caption
from .split import CaptionedImage

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
    # A split of one's own may draw on any part of COCO.
    subsets = (SUBSETS[part],) if part in SUBSETS else tuple(SUBSETS.values())
    listed = [
        Listed(image_id, _candidates(coco_candidates(image_id, subsets), record, where))
        for image_id, record, where in _images(content, path)
    ]
    captions: dict[str, list[tuple[str, str]]] = {str(image.image_id): [] for image in listed}
    for number, record in enumerate(field(content, "annotations", list, path)):
        where = f"{path}: annotations[{number}]"
        _of_image(captions, record, where).append(read_caption(record, "caption", where))
    images = []
    for image in listed:
        pairs = captions[str(image.image_id)]
        written, texts = (tuple(pair[place] for pair in pairs) for place in (0, 1))
        images.append(
            CaptionedImage(image.image_id, image.candidates, references=written, texts=texts)
        )
    return images, path


def read_list(path: Path) -> list[Listed]:
    """Return the images of a file in COCO's format, with or without captions, as its servers give.

    Such a file is image_info_test2014.json. Raises ClipfeatError where it cannot be read or is in
    another format, for an image that is there twice, and for no image.
    """
    images = [
        Listed(image_id, _candidates(any_candidates(image_id), record, where))
        for image_id, record, where in _images(read_json(path), path)
    ]
    if not images:
        raise ClipfeatError(f"{path}: lists no images")
    return images


def _images(content: Any, path: Path) -> Iterator[tuple[int | str, Any, str]]:
    """Yield (id, record, where it stands) of each image that a file lists; 42 and "42" are one."""
    seen: set[str] = set()
    for number, record in enumerate(field(content, "images", list, path)):
        where = f"{path}: images[{number}]"
        image_id = identifier(record, "id", where)
        if str(image_id) in seen:
            raise ClipfeatError(f"{where}: id {image_id!r:.60} is there twice; drop one")
        seen.add(str(image_id))
        yield image_id, record, where


def _find(data: Path, part: str) -> Path:
    names = [f"captions_{SUBSETS[part]}.json"] if part in SUBSETS else []
    names.append(f"captions_{part}.json")
    for name in names:
        if (data / name).is_file():
            return data / name
    raise UsageError(f"{data} has no captions of split {part!r}: expected {' or '.join(names)}")


def _candidates(known: tuple[str, ...], record: Any, where: str) -> tuple[str, ...]:
    """Return what a store may call an image: by its file's path, by its name, then by its id.

    Files of several folders may have one name, so that it comes after the path.
    """
    if "file_name" not in record:
        return known
    path = PurePosixPath(field(record, "file_name", str, where))
    names = (str(path).removesuffix(ENDING), path.stem) if path.stem else ()
    return tuple(dict.fromkeys((*names, *known)))


def _of_image(
    captions: dict[str, list[tuple[str, str]]], record: Any, where: str
) -> list[tuple[str, str]]:
    image_id = str(identifier(record, "image_id", where))
    if image_id not in captions:
        raise ClipfeatError(f"{where}: image_id {image_id} is none of the images of the file")
    return captions[image_id]
