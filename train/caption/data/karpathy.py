"""Karpathy's splits of COCO and of Flickr30k, with their captions, one JSON file each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ....base.errors import ClipfeatError, UsageError
from ...grounded.images import coco_candidates, file_candidates, without_ending
from ...runs.jsonfile import field, identifier, read_json
from .captions import read_caption
from .split import CaptionedImage, choose_splits

FILES = {"karpathy_coco": "dataset_coco.json", "karpathy_flickr30k": "dataset_flickr30k.json"}


def read_images(
    dataset: str, data: Path, parts: Sequence[str]
) -> tuple[list[CaptionedImage], tuple[Path, ...]]:
    """Return the images of the named parts, in the order of the file, and the file.

    Raises UsageError where the file is missing or has no such part, ClipfeatError where it is in
    another format.
    """
    path = data / FILES[dataset]
    if not path.is_file():
        raise UsageError(f"{data} has no {path.name}, Karpathy's captions and splits; add it")
    records = field(read_json(path), "images", list, path)
    splits = [
        field(record, "split", str, f"{path}: images[{number}]")
        for number, record in enumerate(records)
    ]
    wanted = choose_splits(path, parts, splits)
    read = _coco_image if dataset == "karpathy_coco" else _flickr_image
    images = [
        read(record, f"{path}: images[{number}]")
        for number, (record, split) in enumerate(zip(records, splits, strict=True))
        if split in wanted
    ]
    return images, (path,)


def _coco_image(record: Any, where: str) -> CaptionedImage:
    image_id = identifier(record, "cocoid", where)
    candidates = (_name(record, where), *coco_candidates(image_id, ()))
    return CaptionedImage(image_id, candidates, *_captions(record, where))


def _flickr_image(record: Any, where: str) -> CaptionedImage:
    image_id = _name(record, where)
    return CaptionedImage(image_id, file_candidates(image_id), *_captions(record, where))


def _name(record: Any, where: str) -> str:
    """Return the name of an image's file without its ending, such as COCO_val2014_000000000042."""
    name = without_ending(field(record, "filename", str, where))
    if not name:
        raise ClipfeatError(f"{where}: filename names no image")
    return name


def _captions(record: Any, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return an image's captions as written, and as words."""
    captions = [
        read_caption(sentence, "raw", f"{where}.sentences[{number}]")
        for number, sentence in enumerate(field(record, "sentences", list, where))
    ]
    return tuple(written for written, _ in captions), tuple(text for _, text in captions)
