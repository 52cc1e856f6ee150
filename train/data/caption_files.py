"""Files of captions: results in COCO's format, and references in the formats of the field."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ...base.errors import ClipfeatError, UsageError
from ...base.jsonio import field, field_items, identifier, list_items, read_json, write_json
from ...base.text import counted
from .ids import require_unique

logger = logging.getLogger(__name__)

LEFT_OUT = ("is_rejected", "is_precanned")  # keys of VizWiz-Captions
RESTVAL = "restval"  # images of COCO's validation set that are in no other of Karpathy's splits

# Images are identified by their ids as text, so that 42 and "42" are one image: JSON keys are text.
Captions = dict[str, str]
References = dict[str, list[str]]


def write_results(path: Path, captions: Mapping[Any, str]) -> None:
    """Write a caption for each image in COCO's format; numbers as text become numbers."""
    write_json(
        path,
        [
            {"image_id": _as_number(image), "caption": caption}
            for image, caption in captions.items()
        ],
    )


def _as_number(image: int | str) -> int | str:
    text = str(image)
    is_number = text.isascii() and text.isdecimal() and (text == "0" or text[0] != "0")
    return int(text) if is_number else image


def read_results(path: Path) -> Captions:
    """Return {image id: caption} of a file in COCO's format, [{"image_id": 42, "caption": "a"}].

    Raises ClipfeatError for another format, for an image that occurs twice, and for no captions.
    """
    captions: Captions = {}
    for place, record in list_items(read_json(path), path, of="{'image_id': ..., 'caption': ...}"):
        image = str(identifier(record, "image_id", place))
        require_unique(image, captions, "image_id", place)
        captions[image] = field(record, "caption", str, place)
    if not captions:
        raise ClipfeatError(f"{path}: holds no captions", code="E-CAPTIONS-EMPTY")
    return captions


def read_references(path: Path, split: str | None = None) -> References:
    """Return {image id: its captions} of a file in one of three formats, told by its keys:

    - COCO's captions_val2014.json: `annotations` with `image_id` and `caption`;
    - Karpathy's dataset_coco.json and its like: `images` with `sentences`, those of `split`, which
      means the same as in training: "train" includes restval. The id of an image is its `cocoid`
      or, without one, the name of its file without the suffix;
    - plain: {"image id": ["a caption", "another"]}.

    Raises UsageError for a split that is missing, unknown or not needed, ClipfeatError for
    another format and for an image without captions.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ClipfeatError(
            f"{path}: expected an object, such as {{'42': ['a caption']}}; got {content!r:.60}",
            code="E-CAPTIONS-FORMAT",
        )
    if _has_records(content, "images", "sentences"):
        return _karpathy_references(path, content, split)
    if split is not None:
        raise UsageError(
            f"{path} has no splits, as Karpathy's files do; leave --split out",
            code="E-SPLIT-OPTION",
        )
    if _has_records(content, "annotations", "caption"):
        return _coco_references(path, content)
    return _plain_references(path, content)


def match_references(results: Captions, references: References, *, subset: bool) -> References:
    """Return the references of the images that have a result, and at least one reference.

    Raises ClipfeatError for results without references and, unless `subset`, for references
    without a result: most scores are not means over images, and depend on the set of images.
    """
    unknown = results.keys() - references.keys()
    if unknown:
        raise ClipfeatError(
            f"{len(unknown)} of {len(results)} images of the results have no references, "
            f"such as {_examples(unknown)}; score a split with its own references",
            code="E-CAPTIONS-IMAGES",
        )
    missing = references.keys() - results.keys()
    if missing and not subset:
        raise ClipfeatError(
            f"the results lack {len(missing)} of {len(references)} images of the references, "
            f"such as {_examples(missing)}; caption them, or pass --subset to score the others",
            code="E-CAPTIONS-IMAGES",
        )
    matched = {image: references[image] for image in results if references[image]}
    if len(matched) < len(results):
        count = counted(len(results) - len(matched), "result")
        logger.info(f"not scored: {count} of images whose captions are all left out")
    return matched


def _examples(images: set[str]) -> str:
    return ", ".join(f"{image!r:.60}" for image in sorted(images)[:3])


def choose_karpathy(path: Path, content: Any, parts: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield (place, record) of each image of a Karpathy file that is in one of `parts`.

    Part "train" is his train and, in COCO's file, restval: what the field calls COCO's training
    split. Raises UsageError for a part that the file does not have, and for no part.
    """
    splits = [
        (place, image, field(image, "split", str, place))
        for place, image in field_items(content, "images", path)
    ]
    names = {split for _, _, split in splits}
    known = ", ".join(sorted(names)) or "none"
    if not parts:
        raise UsageError(f"{path} needs --split, one of {known}", code="E-SPLIT-OPTION")
    for part in parts:
        if part not in names:
            raise UsageError(
                f"{path} has no images of split {part!r}; its splits: {known}",
                code="E-SPLIT-UNKNOWN",
            )
    wanted = {*parts, *((RESTVAL,) if "train" in parts else ())}
    for place, image, split in splits:
        if split in wanted:
            yield place, image


def _karpathy_references(path: Path, content: Any, split: str | None) -> References:
    references: References = {}
    for place, image in choose_karpathy(path, content, split.split("+") if split else ()):
        captions = [
            field(sentence, "raw", str, spot)
            for spot, sentence in field_items(image, "sentences", place)
        ]
        if "cocoid" in image:
            image_id = str(identifier(image, "cocoid", place))
        else:
            image_id = PurePosixPath(field(image, "filename", str, place)).stem
        _add(references, image_id, captions, place)
    return references


def coco_captions(content: Any, path: Path) -> tuple[list[tuple[str, Any]], set[str]]:
    """Return (place, record) of the captions of a file in COCO's format, and ids of some images.

    VizWiz-Captions has captions that its own scorer leaves out: those that were rejected, and ready
    sentences for images that show nothing. They are left out here too, and counted in a message. The
    ids are those of images that have such captions, maybe no other ones.
    """
    records = list(field_items(content, "annotations", path))
    kept = [
        (place, record)
        for place, record in records
        if not (isinstance(record, dict) and any(record.get(key) is True for key in LEFT_OUT))
    ]
    if len(kept) == len(records):
        return kept, set()
    places = {place for place, _ in kept}
    others = [(place, record) for place, record in records if place not in places]
    logger.info(f"{path}: left out {len(others):,} captions that are {' or '.join(LEFT_OUT)}")
    return kept, {str(identifier(record, "image_id", place)) for place, record in others}


def _coco_references(path: Path, content: Any) -> References:
    """Return the captions of each image; none of one whose captions are all left out."""
    captions, others = coco_captions(content, path)
    references: References = {}
    for place, record in captions:
        image = str(identifier(record, "image_id", place))
        references.setdefault(image, []).append(field(record, "caption", str, place))
    return references | {image: [] for image in others - references.keys()}


def _plain_references(path: Path, content: dict[str, Any]) -> References:
    if not content:
        raise ClipfeatError(f"{path}: holds no captions", code="E-CAPTIONS-EMPTY")
    references: References = {}
    for image, captions in content.items():
        place = f"{path}: {image!r:.60}"
        if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
            raise ClipfeatError(
                f"{place}: expected a list of captions, in COCO's, Karpathy's or the plain "
                f"format; got {captions!r:.60}",
                code="E-CAPTIONS-FORMAT",
            )
        _add(references, image, captions, place)
    return references


def _add(references: References, image: str, captions: list[str], place: str) -> None:
    if not captions:
        raise ClipfeatError(
            f"{place}: has no captions; leave the image out", code="E-CAPTIONS-NONE"
        )
    require_unique(image, references, "image", place)
    references[image] = captions


def _has_records(content: dict[str, Any], key: str, inner: str) -> bool:
    """Return whether `key` is a list whose first value is an object with `inner`."""
    values = content.get(key)
    first = values[0] if isinstance(values, list) and values else None
    return isinstance(first, dict) and inner in first
