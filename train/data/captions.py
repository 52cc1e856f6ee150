"""Splits of captioned images, from the files of COCO and of Karpathy (COCO, Flickr30k)."""

import logging
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ...base.errors import ClipfeatError, UsageError
from ...base.jsonio import field, field_items, identifier, read_json, require_unicode
from ...base.text import counted
from .caption_files import choose_karpathy, coco_captions
from .ids import (
    COCO_SPLITS,
    JPEG,
    any_candidates,
    coco_candidates,
    file_candidates,
    find_file,
    require_folder,
    require_unique,
    without_suffix,
)
from .vocabulary import tokenize

logger = logging.getLogger(__name__)

KARPATHY_FILES = {
    "karpathy_coco": "dataset_coco.json",
    "karpathy_flickr30k": "dataset_flickr30k.json",
}
CAPTION_DATASETS = (*KARPATHY_FILES, "coco")
# Keys of an image in nocaps and VizWiz-Captions, which count their images as COCO does: 7 is another.
OTHER_NUMBERS = ("open_images_id", "vizwiz_url")

Caption = tuple[str, str]  # as it was written, and as words with one space between two


class CaptionedImage(NamedTuple):
    """An image and the captions that people gave it."""

    image_id: int | str  # of the data set
    candidates: tuple[str, ...]  # what a store may call it, the least ambiguous first
    references: tuple[str, ...]  # its captions as they were written
    texts: tuple[str, ...]  # the same captions as words, one space between two


@dataclass(frozen=True)
class CaptionSplit:
    """The images of a split that have captions, in the order of the files."""

    name: str
    images: tuple[CaptionedImage, ...]
    files: tuple[Path, ...]

    @property
    def texts(self) -> list[str]:
        """All captions as words, those of an image next to each other."""
        return [text for image in self.images for text in image.texts]


class ListedImage(NamedTuple):
    """An image to caption."""

    image_id: int | str  # of the data set
    candidates: tuple[str, ...]  # what a store may call it, the least ambiguous first


def read_captions(dataset: str, data: Path, name: str, *, training: bool) -> CaptionSplit:
    """Return split `name` of the folder `data`: one part, or several such as "train+val".

    Images without captions are left out and logged; with `training`, a model will learn from the
    split, and every image must have a caption. Raises UsageError for missing files and unknown
    splits; ClipfeatError for files in another format, for an image that occurs twice, and where
    no image, or with `training` not every image, has a caption.
    """
    require_folder(data, "the caption files")
    parts = name.split("+")
    for number, part in enumerate(parts):
        if part in parts[:number]:
            raise UsageError(
                f"split {name!r} names part {part!r} twice; leave one out", code="E-SPLIT-TWICE"
            )
    if dataset == "coco":
        files = tuple(_find_coco(data, part) for part in parts)
        images = [
            image
            for part, path in zip(parts, files, strict=True)
            for image in _coco_images(part, path)
        ]
    else:
        files = (find_file(data, [KARPATHY_FILES[dataset]], "Karpathy's captions and splits"),)
        images = list(_karpathy_images(dataset, files[0], parts))
    if not images:
        raise ClipfeatError(
            f"split {name!r} has no images; {' and '.join(map(str, files))}", code="E-SPLIT-EMPTY"
        )
    return CaptionSplit(name, _with_captions(name, images, training=training), files)


def read_image_list(path: Path) -> list[ListedImage]:
    """Return the images of a file in COCO's format, with or without captions.

    Such a file is image_info_test2014.json. Raises ClipfeatError where it cannot be read or has
    another format, for an image that occurs twice, and for no image.
    """
    images = [
        ListedImage(image_id, _coco_names(image_id, any_candidates(image_id), record, place))
        for place, image_id, record in _coco_records(read_json(path), path)
    ]
    if not images:
        raise ClipfeatError(f"{path}: lists no images", code="E-DATA-EMPTY")
    return images


def read_karpathy_list(path: Path, parts: Sequence[str] = ()) -> list[ListedImage]:
    """Return the images of Karpathy's file, or those of some of its splits, such as "val".

    Raises as `read_image_list` does, and UsageError for a split that the file does not have.
    """
    content = read_json(path)
    chosen = (
        choose_karpathy(path, content, parts) if parts else field_items(content, "images", path)
    )
    images = [
        ListedImage(*_karpathy_ids(image, place, coco=type(image) is dict and "cocoid" in image))
        for place, image in chosen
    ]
    if not images:
        raise ClipfeatError(f"{path}: lists no images", code="E-DATA-EMPTY")
    return images


def _find_coco(data: Path, part: str) -> Path:
    """Return the captions of a split: COCO's official file or captions_<part>.json.

    Without these, the file of nocaps or, named as the split alone, of VizWiz-Captions.
    """
    names = [f"captions_{COCO_SPLITS[part]}.json"] if part in COCO_SPLITS else []
    names.append(f"captions_{part}.json")
    if not any((data / name).is_file() for name in names):
        for name in (f"nocaps_{part}_4500_captions.json", f"{part}.json"):
            if (data / name).is_file():
                return data / name
    return find_file(data, names, f"the captions of split {part!r}")


def _coco_images(part: str, path: Path) -> Iterator[CaptionedImage]:
    content = read_json(path)
    # A split of the user's own may have images of any part of COCO.
    known = (COCO_SPLITS[part],) if part in COCO_SPLITS else tuple(COCO_SPLITS.values())
    images = [
        (image_id, _coco_names(image_id, coco_candidates(image_id, known), record, place))
        for place, image_id, record in _coco_records(content, path)
    ]
    captions: dict[str, list[Caption]] = {str(image_id): [] for image_id, _ in images}
    records, others = coco_captions(content, path)
    for place, record in records:
        image_id = str(identifier(record, "image_id", place))
        if image_id not in captions:
            raise ClipfeatError(
                f"{place}: image_id {image_id} is not among the images of the file",
                code="E-CAPTIONS-IMAGES",
            )
        captions[image_id].append(_caption(record, "caption", place))
    for image_id, candidates in images:
        if captions[str(image_id)] or str(image_id) not in others:
            yield _captioned(image_id, candidates, captions[str(image_id)])


def _coco_records(content: Any, path: Path) -> Iterator[tuple[str, int | str, Any]]:
    """Yield (place, id, record) of each image that a file lists; 42 and "42" are one."""
    seen: set[str] = set()
    for place, record in field_items(content, "images", path):
        image_id = identifier(record, "id", place)
        require_unique(str(image_id), seen, "id", place)
        seen.add(str(image_id))
        yield place, image_id, record


def _coco_names(
    image_id: int | str, known: tuple[str, ...], record: Any, place: str
) -> tuple[str, ...]:
    """Return what a store may call an image: the path of its file, its name, then its ids.

    `known` are the ids that an image of COCO may have. Files of several folders may have one name,
    which therefore comes after the path.
    """
    if "file_name" not in record:
        return known
    path = PurePosixPath(field(record, "file_name", str, place))
    if not path.stem:
        return known
    if any(key in record for key in OTHER_NUMBERS):
        known = (str(image_id),)
    return tuple(dict.fromkeys((str(path).removesuffix(JPEG), path.stem, *known)))


def _karpathy_images(dataset: str, path: Path, parts: Sequence[str]) -> Iterator[CaptionedImage]:
    for place, image in choose_karpathy(path, read_json(path), parts):
        captions = [
            _caption(sentence, "raw", spot)
            for spot, sentence in field_items(image, "sentences", place)
        ]
        ids = _karpathy_ids(image, place, coco=dataset == "karpathy_coco")
        yield _captioned(*ids, captions)


def _karpathy_ids(image: Any, place: str, *, coco: bool) -> tuple[int | str, tuple[str, ...]]:
    """Return the id of an image, and what a store may call it.

    The id is COCO's number, or else the name of the file without its suffix.
    """
    name = without_suffix(field(image, "filename", str, place))
    if not name:
        raise ClipfeatError(f"{place}: filename is empty", code="E-CAPTIONS-FILE-NAME")
    if not coco:
        return name, file_candidates(name)
    number = identifier(image, "cocoid", place)
    return number, (name, *coco_candidates(number, ()))


def _captioned(
    image_id: int | str, candidates: tuple[str, ...], captions: Sequence[Caption]
) -> CaptionedImage:
    return CaptionedImage(
        image_id,
        candidates,
        references=tuple(written for written, _ in captions),
        texts=tuple(text for _, text in captions),
    )


def _caption(record: Any, key: str, place: str) -> Caption:
    """Return the caption `record[key]` as written and as words in NFC.

    The words are the record's own `tokens`, where it has them.
    """
    written = field(record, key, str, place)
    words = field(record, "tokens", list, place) if "tokens" in record else tokenize(written)
    if not all(isinstance(word, str) for word in words):
        raise ClipfeatError(f"{place}: tokens must be texts; got {words!r:.60}", code="E-JSON-TYPE")
    text = unicodedata.normalize("NFC", " ".join(" ".join(words).split()))
    return require_unicode(written, key, place), require_unicode(text, key, place)


def _with_captions(
    name: str, images: Sequence[CaptionedImage], *, training: bool
) -> tuple[CaptionedImage, ...]:
    """Return the images that have captions, less those captions that have no word."""
    seen: set[int | str] = set()
    for image in images:
        require_unique(image.image_id, seen, "image", f"split {name!r}")
        seen.add(image.image_id)
    kept = [_without_blank(image) for image in images]
    dropped = sum(len(image.texts) for image in images) - sum(len(image.texts) for image in kept)
    if dropped:
        logger.info(f"split {name!r}: dropped {counted(dropped, 'caption')} without a word")
    bare = [image.image_id for image in kept if not image.texts]
    if bare:
        problem = (
            f"split {name!r}: {len(bare)} of {len(images)} images have no caption, such as "
            f"{', '.join(map(str, bare[:3]))}"
        )
        if training or len(bare) == len(images):
            raise ClipfeatError(
                f"{problem}; remove them from the file, or complete it", code="E-CAPTIONS-NONE"
            )
        logger.info(f"{problem}; left out")
    return tuple(image for image in kept if image.texts)


def _without_blank(image: CaptionedImage) -> CaptionedImage:
    captions = zip(image.references, image.texts, strict=True)
    return _captioned(image.image_id, image.candidates, [pair for pair in captions if pair[1]])
