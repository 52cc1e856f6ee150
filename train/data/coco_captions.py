"""One caption of a file: as it was written, and as words."""

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ...base.errors import ClipfeatError, UsageError
from ...base.jsonio import field, identifier, read_json
from ...base.text import is_unicode
from .captions import CaptionedImage, CaptionSplit, choose_splits, make_split
from .ids import ENDING, any_candidates, coco_candidates, file_candidates, without_ending
from .words import tokenize


def read_caption(record: Any, key: str, where: str) -> tuple[str, str]:
    """Return the caption `record[key]` as written and as words in NFC, one space between two.

    The words are the record's own `tokens`, where it has them. Raises ClipfeatError where either
    is none.
    """
    written = field(record, key, str, where)
    words = field(record, "tokens", list, where) if "tokens" in record else tokenize(written)
    if not all(isinstance(word, str) for word in words):
        raise ClipfeatError(f"{where}: tokens must be texts; got {words!r:.60}")
    text = unicodedata.normalize("NFC", " ".join(" ".join(words).split()))
    for value in (written, text):
        if not is_unicode(value):
            raise ClipfeatError(f"{where}: {key} holds half a surrogate pair: {value!r:.60}")
    return written, text


SUBSETS = {"train": "train2014", "val": "val2014"}  # {split: the part of COCO that its file names}


class Listed(NamedTuple):
    """An image that somebody wants captioned."""

    image_id: int | str  # as the data set has it
    candidates: tuple[str, ...]  # what a store may call it, the least ambiguous first


def read_coco(data: Path, part: str) -> tuple[list[CaptionedImage], Path]:
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


FILES = {"karpathy_coco": "dataset_coco.json", "karpathy_flickr30k": "dataset_flickr30k.json"}


def read_karpathy(
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


CAPTION_DATASETS = (*FILES, "coco")


def read_split(dataset: str, data: Path, name: str, *, training: bool) -> CaptionSplit:
    """Return split `name` of the folder `data`: one part, or several such as "train+val".

    `training` says that a model will learn from it: then every image must have a caption. Raises
    UsageError for missing files and unknown splits, ClipfeatError for files in another format
    and as `make_split` does.
    """
    if not data.is_dir():
        raise UsageError(f"{data} is not a folder; --data takes the folder of the caption files")
    parts = name.split("+")
    for number, part in enumerate(parts):
        if part in parts[:number]:
            raise UsageError(f"split {name!r} names part {part!r} twice; leave one out")
    if dataset == "coco":
        images, files = _coco(data, parts)
    else:
        images, files = read_karpathy(dataset, data, parts)
    if not images:
        raise ClipfeatError(f"split {name!r} has no images; {' and '.join(map(str, files))}")
    return make_split(name, images, files, training=training)


def _coco(data: Path, parts: list[str]) -> tuple[list[CaptionedImage], tuple[Path, ...]]:
    read = [read_coco(data, part) for part in parts]
    return [image for images, _ in read for image in images], tuple(file for _, file in read)
