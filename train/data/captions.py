"""A split of captioned images: all that training on it and scoring it take, whatever its files."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ...base.errors import ClipfeatError, UsageError

logger = logging.getLogger(__name__)

RESTVAL = "restval"  # images of COCO's validation set that are in no other of Karpathy's splits


class CaptionedImage(NamedTuple):
    """An image, and what people said about it."""

    image_id: int | str  # the data set's own
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
        """Every caption as words, those of an image side by side."""
        return [text for image in self.images for text in image.texts]


def make_split(
    name: str, found: Sequence[CaptionedImage], files: tuple[Path, ...], *, training: bool
) -> CaptionSplit:
    """Return the split of the images `found`, less those without captions.

    A caption without a word is none. Raises ClipfeatError where an image is there twice, where
    no image has a caption, and, `training`, where any has none; else such images are named.
    """
    _require_once(name, found)
    images = [_worded(image) for image in found]
    dropped = sum(len(image.texts) for image in found) - sum(len(image.texts) for image in images)
    if dropped:
        logger.info(f"split {name!r}: {dropped} captions have no word; dropped")
    bare = [image.image_id for image in images if not image.texts]
    if bare:
        examples = ", ".join(map(str, bare[:3]))
        told = f"split {name!r}: {len(bare)} of {len(images)} images have no caption, such as "
        if training or len(bare) == len(images):
            remedy = "take them out of the file, or complete it"
            raise ClipfeatError(f"{told}{examples}; {remedy}")
        logger.info(f"{told}{examples}; left out")
    return CaptionSplit(name, tuple(image for image in images if image.texts), files)


def choose_splits(path: Path, parts: Sequence[str], found: Collection[str]) -> set[str]:
    """Return the splits of a file of Karpathy's that the named parts are.

    Part "train" is his train and, in COCO's file, restval: what the field calls COCO's training
    split. Raises UsageError for a part that is none of those `found`.
    """
    for part in parts:
        if part not in found:
            known = ", ".join(sorted(set(found))) or "none"
            raise UsageError(f"{path} has no images of split {part!r}; its splits: {known}")
    return {*parts, *((RESTVAL,) if "train" in parts else ())}


def _require_once(name: str, found: Sequence[CaptionedImage]) -> None:
    seen: set[int | str] = set()
    for image in found:
        if image.image_id in seen:
            raise ClipfeatError(
                f"split {name!r}: image {image.image_id} is there twice; drop one, or leave out "
                "the part that repeats it"
            )
        seen.add(image.image_id)


def _worded(image: CaptionedImage) -> CaptionedImage:
    """Return the image with those of its captions that have a word."""
    if all(image.texts):
        return image
    kept = [number for number, text in enumerate(image.texts) if text]
    references, texts = (
        tuple(captions[number] for number in kept) for captions in (image.references, image.texts)
    )
    return image._replace(references=references, texts=texts)
