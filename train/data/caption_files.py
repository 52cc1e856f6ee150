"""Files of captions: results in COCO's format, and references in any of the field's."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ...base.errors import ClipfeatError, UsageError
from ...base.jsonio import field, identifier, read_json, write_json
from .captions import choose_splits

# An image goes by its id as text, so that 42 and "42" are one image: keys of JSON are text.
Captions = dict[str, str]
References = dict[str, list[str]]


def write_results(path: Path, captions: Mapping[Any, str]) -> None:
    """Write a caption for each image in COCO's format; ids that are numbers as text as numbers."""
    write_json(
        path,
        [{"image_id": _number(image), "caption": caption} for image, caption in captions.items()],
    )


def read_results(path: Path) -> Captions:
    """Return {image id: caption} of a file in COCO's format, [{"image_id": 42, "caption": "a"}].

    Raises ClipfeatError for another format, for an image that is there twice, and for no image.
    """
    records = read_json(path)
    if not isinstance(records, list):
        raise ClipfeatError(
            f"{path}: expected a list of {{'image_id': ..., 'caption': ...}}; got {records!r:.60}"
        )
    captions: Captions = {}
    for number, record in enumerate(records):
        where = f"{path}: [{number}]"
        image = str(identifier(record, "image_id", where))
        if image in captions:
            raise ClipfeatError(f"{where}: image_id {image!r:.60} is there twice; drop one")
        captions[image] = field(record, "caption", str, where)
    if not captions:
        raise ClipfeatError(f"{path}: holds no captions")
    return captions


def read_references(path: Path, split: str | None = None) -> References:
    """Return {image id: its captions} of a file that is, as its keys tell, one of

    - COCO's captions_val2014.json: `annotations` with `image_id` and `caption`;
    - Karpathy's dataset_coco.json and its like: `images` with `sentences`, those of `split`, which
      means what it does in training: "train" takes in restval. An image goes by its `cocoid`, or
      where there is none by its file's name without ".jpg";
    - plain: {"image id": ["a caption", "another"]}.

    Raises UsageError for a split that is missing, unknown or in the way, ClipfeatError for
    another format and for an image without captions.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ClipfeatError(
            f"{path}: expected an object, such as {{'42': ['a caption']}}; got {content!r:.60}"
        )
    if _has_objects(content, "images", "sentences"):
        return _karpathy(path, content["images"], split)
    if split is not None:
        raise UsageError(f"{path} has no splits, as Karpathy's files do; leave --split out")
    coco = _has_objects(content, "annotations", "caption")
    return _coco(path, content["annotations"]) if coco else _plain(path, content)


def matched(results: Captions, references: References, *, subset: bool) -> References:
    """Return the references of the images that have a result.

    Raises ClipfeatError for results without references and, unless `subset`, for references
    without a result: most scores are no means over images, and depend on which they are.
    """
    strays = results.keys() - references.keys()
    if strays:
        raise ClipfeatError(
            f"{len(strays)} of {len(results)} images of the results have no references, "
            f"such as {_some(strays)}; score a split with its own references"
        )
    missing = references.keys() - results.keys()
    if missing and not subset:
        raise ClipfeatError(
            f"the results lack {len(missing)} of {len(references)} images of the references, "
            f"such as {_some(missing)}; caption them, or pass --subset to score the others alone"
        )
    return {image: references[image] for image in results}


def _karpathy(path: Path, images: list[Any], split: str | None) -> References:
    places = [f"{path}: images[{number}]" for number in range(len(images))]
    splits = [
        field(image, "split", str, where) for image, where in zip(images, places, strict=True)
    ]
    if split is None:
        raise UsageError(f"{path} needs --split, one of {', '.join(sorted(set(splits)))}")
    wanted = choose_splits(path, split.split("+"), splits)
    references: References = {}
    for image, name, where in zip(images, splits, places, strict=True):
        if name in wanted:
            own = [
                field(sentence, "raw", str, f"{where}.sentences[{place}]")
                for place, sentence in enumerate(field(image, "sentences", list, where))
            ]
            _add(references, _karpathy_id(image, where), own, where)
    return references


def _karpathy_id(image: Any, where: str) -> str:
    if "cocoid" in image:
        return str(identifier(image, "cocoid", where))
    return PurePosixPath(field(image, "filename", str, where)).stem


def _coco(path: Path, annotations: list[Any]) -> References:
    references: References = {}
    for number, record in enumerate(annotations):
        where = f"{path}: annotations[{number}]"
        image = str(identifier(record, "image_id", where))
        references.setdefault(image, []).append(field(record, "caption", str, where))
    return references


def _plain(path: Path, content: dict[str, Any]) -> References:
    if not content:
        raise ClipfeatError(f"{path}: holds no captions")
    references: References = {}
    for image, own in content.items():
        where = f"{path}: {image!r:.60}"
        if not isinstance(own, list) or not all(isinstance(caption, str) for caption in own):
            raise ClipfeatError(
                f"{where}: expected a list of captions, in COCO's, Karpathy's or the plain "
                f"format; got {own!r:.60}"
            )
        _add(references, image, own, where)
    return references


def _add(references: References, image: str, own: list[str], where: str) -> None:
    if not own:
        raise ClipfeatError(f"{where}: has no captions; leave the image out")
    if image in references:
        raise ClipfeatError(f"{where}: image {image!r:.60} is there twice; drop one")
    references[image] = own


def _has_objects(content: dict[str, Any], key: str, inner: str) -> bool:
    """Return whether `key` is a list whose first value is an object with `inner`."""
    values = content.get(key)
    first = values[0] if isinstance(values, list) and values else None
    return isinstance(first, dict) and inner in first


def _number(image: int | str) -> int | str:
    text = str(image)
    plain = text.isascii() and text.isdecimal() and (text == "0" or text[0] != "0")
    return int(text) if plain else image


def _some(images: set[str]) -> str:
    return ", ".join(f"{image!r:.60}" for image in sorted(images)[:3])
