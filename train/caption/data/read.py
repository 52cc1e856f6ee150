"""Read a split of captioned images, of any of the data sets, by its name."""

from pathlib import Path

from ....base.errors import ClipfeatError, UsageError
from . import coco, karpathy
from .split import CaptionedImage, CaptionSplit, make_split

DATASETS = (*karpathy.FILES, "coco")


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
        images, files = karpathy.read_images(dataset, data, parts)
    if not images:
        raise ClipfeatError(f"split {name!r} has no images; {' and '.join(map(str, files))}")
    return make_split(name, images, files, training=training)


def _coco(data: Path, parts: list[str]) -> tuple[list[CaptionedImage], tuple[Path, ...]]:
    read = [coco.read_images(data, part) for part in parts]
    return [image for images, _ in read for image in images], tuple(file for _, file in read)
