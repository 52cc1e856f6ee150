"""The images of the field's JSON files: COCO's, Karpathy's splits of them, Visual Genome's."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from ..base.errors import ManifestError
from .jsonfile import REMEDY, Record, read_json, records
from .listing import Listing, Place, Say, listed
from .manifest import Image
from .summary import count_remarks

SPLIT = re.compile(r"(?:train|val|test)20\d\d")  # of COCO; also the name of its folder


def annotation_listing(path: Path, say: Say) -> tuple[str, Listing]:
    """Return the kind of a JSON file, found by its keys, and what it lists.

    `say` is told where a known data set has another number of images than it should. Raises
    ManifestError for a file of no known kind, or with values of wrong types.
    """
    found = read_json(path)
    if isinstance(found, dict) and isinstance(found.get("images"), list):
        images, first = found["images"], (found["images"] or [{}])[0]
        read = _karpathy if isinstance(first, dict) and "filename" in first else _coco
    elif isinstance(found, list):
        images, read = found, _visual_genome
    else:
        raise ManifestError(f"{path} has neither a list of images nor a key images; {REMEDY}")
    kind, listing, counts = read(path, list(records(path, images)))
    for remark in count_remarks(path.name, counts):
        say(f"{path}: {remark}")
    return kind, listing


Read = tuple[str, Listing, Counter[str]]


def _coco(path: Path, found: list[Record]) -> Read:
    """instances_*, captions_*, image_info_* and others: ids are the images' numbers.

    LVIS has no file names, but a coco_url for each.
    """
    by_url = bool(found) and "file_name" not in found[0].values and "coco_url" in found[0].values

    def images() -> Iterator[Image]:
        for record in found:
            place = _end_of_url(record, "coco_url") if by_url else record.text("file_name")
            yield Image(record.image_id("id"), place, *record.size())

    layouts: dict[str, Place] = {"FILE_NAME": lambda image: image.path}
    if by_url:
        layouts = {
            "SPLIT/FILE_NAME": lambda image: image.path,
            "FILE_NAME": lambda image: PurePosixPath(image.path).name,
        }
    elif split := SPLIT.search(path.name.replace("-dev", "")):
        layouts[f"{split[0]}/FILE_NAME"] = lambda image: f"{split[0]}/{image.path}"
    elif found and SPLIT.search(found[0].text("file_name")):
        layouts["SPLIT/FILE_NAME"] = _in_split
    return "COCO", listed(path, images(), layouts), Counter({"images": len(found)})


def _in_split(image: Image) -> str:
    split = SPLIT.search(image.path)
    return f"{split[0]}/{image.path}" if split else image.path


def _karpathy(path: Path, found: list[Record]) -> Read:
    """dataset_coco.json and its like: ids are COCO's numbers, or else the files' stems."""

    def images() -> Iterator[Image]:
        for record in found:
            name = record.text("filename")
            place = f"{record.text('filepath')}/{name}" if "filepath" in record.values else name
            stem = PurePosixPath(name).stem
            yield Image(
                record.image_id("cocoid") if "cocoid" in record.values else stem, place, 0, 0
            )

    layouts: dict[str, Place] = {"FILENAME": lambda image: PurePosixPath(image.path).name}
    if found and "filepath" in found[0].values:
        layouts = {"FILEPATH/FILENAME": lambda image: image.path, **layouts}
    splits = Counter(record.text("split") for record in found)
    return "Karpathy", listed(path, images(), layouts), splits + Counter({"images": len(found)})


def _visual_genome(path: Path, found: list[Record]) -> Read:
    """image_data.json: ids are Visual Genome's numbers, files stand where the URLs say."""

    def images() -> Iterator[Image]:
        for record in found:
            place = _end_of_url(record, "url")
            yield Image(record.image_id("image_id"), place, *record.size())

    layouts: dict[str, Place] = {
        "VG_100K*/IMAGE_ID.jpg": lambda image: image.path,
        "IMAGE_ID.jpg": lambda image: f"{image.image_id}.jpg",
    }
    return "Visual Genome", listed(path, images(), layouts), Counter({"images": len(found)})


def _end_of_url(record: Record, key: str) -> str:
    """Return the folder and the name that a URL ends in."""
    url = record.text(key)
    try:
        path = urlsplit(url).path
    except ValueError:  # a bracket that opens an address and does not close it
        path = url
    return "/".join(PurePosixPath(path).parts[-2:])
