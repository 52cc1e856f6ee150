"""Files that list images: JSON of COCO, of Karpathy's splits and of Visual Genome.

Tables and lists of paths are read by tables.py.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, cast
from urllib.parse import urlsplit

from ..base.errors import ClipfeatError, ManifestError, UsageError
from ..base.jsonio import read_json
from .manifest import Image
from .records import REMEDY, Layout, Listing, Record, TableOptions, as_record, make_listing
from .tables import IMAGE_COLUMN, list_of_paths, read_table

logger = logging.getLogger(__name__)

MAX_JSON_BYTES = 1 << 31  # COCO's largest file has 0.5 GB
# Of JSON objects, these keys are kept. The rest, most of a file of annotations, is dropped as it is
# parsed.
NAMING_KEYS = frozenset(("images", "image_id", "file_name", "coco_url", "url", "filename", "image"))
KEPT_KEYS = NAMING_KEYS | {"id", "width", "height", "filepath", "cocoid", "split"}
COCO_SPLIT = re.compile(r"(?:train|val|test)20\d\d")  # also the name of the split's folder
COCO_FILE = re.compile(
    r"(?:instances|captions|person_keypoints|image_info)_((?:train|val|test)20\d\d)\.json"
)
# Numbers of images, as published by the authors of the data sets; those of Karpathy's splits were
# counted. A file with fewer was cut off, or is only a part.
COCO_COUNTS = {
    "train2014": 82_783,
    "val2014": 40_504,
    "test2014": 40_775,
    "test2015": 81_434,
    "train2017": 118_287,
    "val2017": 5_000,
    "test2017": 40_670,
}
KARPATHY_COUNTS = {
    "dataset_coco.json": {
        "images": 123_287,
        "train+restval": 113_287,
        "val": 5_000,
        "test": 5_000,
    },
    "dataset_flickr30k.json": {"images": 31_014, "train": 29_000, "val": 1_014, "test": 1_000},
    "dataset_flickr8k.json": {"images": 8_000, "train": 6_000, "val": 1_000, "test": 1_000},
}
VISUAL_GENOME_COUNTS = (108_077, 108_249)  # versions 1.4 and 1.2


def read_listing(path: Path, options: TableOptions | None = None) -> Listing:
    """Return the images that a JSON file or a table lists; the ending tells the kind of file.

    `options` are those of a table, or of a list of paths. The number of images of a well-known data
    set is checked, and a difference is logged. Raises ManifestError for a file that cannot be read,
    of an unknown kind, without images, or with values of wrong types.
    """
    try:
        if path.suffix.lower() == ".json":
            return _read_json(path, options or TableOptions())
        return read_table(path, options or TableOptions())
    except UsageError:
        raise
    except ClipfeatError as error:
        raise ManifestError(f"{error}; {REMEDY}", code=error.code) from None


def _read_json(path: Path, options: TableOptions) -> Listing:
    """Return what a JSON file lists; its kind is told by its keys."""
    content = read_json(path, MAX_JSON_BYTES, object_hook=kept_keys)
    is_object = isinstance(content, dict)
    images = cast(dict[str, Any], content).get("images") if is_object else content
    if not isinstance(images, list):
        raise ManifestError(
            f"{path} has neither a list of images nor a key images; {REMEDY}", code="E-JSON-KEY"
        )
    records = [
        as_record(f"{path} image {number}", values)
        for number, values in enumerate(cast(list[Any], images))
    ]
    if not is_object and any(IMAGE_COLUMN in record.values for record in records):
        return list_of_paths(path, records, options)
    if options.ids != "stem":
        raise ManifestError(
            f"--ids is for folders and lists of paths; {path} has ids of its own; drop --ids",
            code="E-MANIFEST-OPTION",
        )
    read = _visual_genome
    if is_object:
        read = _karpathy if records and "filename" in records[0].values else _coco
    listing = read(path, records)
    counts = Counter({"images": len(records)})
    if listing.kind == "Karpathy":
        counts.update(record.text("split") for record in records)
    for difference in count_differences(path.name, counts):
        logger.warning(f"{path}: {difference}")
    return listing


def kept_keys(values: dict[str, Any]) -> dict[str, Any]:
    """Return an object of a JSON file with KEPT_KEYS only.

    If it does not name a file, an error will show its keys; they are kept without their values.
    """
    kept = {key: value for key, value in values.items() if key in KEPT_KEYS}
    return kept if kept.keys() & NAMING_KEYS else dict.fromkeys(values) | kept


def _coco(path: Path, records: list[Record]) -> Listing:
    """instances_*, captions_*, image_info_* and others: ids are the images' numbers, or texts.

    LVIS has no file names, but a coco_url for each image.
    """
    first = records[0].values if records else {}
    by_url = "file_name" not in first and "coco_url" in first

    def images() -> Iterator[Image]:
        for record in records:
            name = _end_of_url(record, "coco_url") if by_url else record.text("file_name")
            yield Image(record.image_id("id", texts=True), name, *record.size())

    layouts: dict[str, Layout] = {"FILE_NAME": lambda image: image.path}
    if by_url:
        layouts = {
            "SPLIT/FILE_NAME": lambda image: image.path,
            "FILE_NAME": lambda image: PurePosixPath(image.path).name,
        }
    elif split := COCO_SPLIT.search(path.name.replace("-dev", "")):
        layouts[f"{split[0]}/FILE_NAME"] = lambda image: f"{split[0]}/{image.path}"
    elif records and COCO_SPLIT.search(records[0].text("file_name")):
        layouts["SPLIT/FILE_NAME"] = _in_folder_of_split
    return make_listing(path, "COCO", images(), layouts)


def _in_folder_of_split(image: Image) -> str:
    split = COCO_SPLIT.search(image.path)
    return f"{split[0]}/{image.path}" if split else image.path


def _karpathy(path: Path, records: list[Record]) -> Listing:
    """dataset_coco.json and the like: ids are COCO's numbers, or else the names without ending."""

    def images() -> Iterator[Image]:
        for record in records:
            name = record.text("filename")
            folder = f"{record.text('filepath')}/" if "filepath" in record.values else ""
            image_id = PurePosixPath(name).stem
            if "cocoid" in record.values:
                image_id = record.image_id("cocoid")
            yield Image(image_id, folder + name, 0, 0)

    layouts: dict[str, Layout] = {"FILENAME": lambda image: PurePosixPath(image.path).name}
    if records and "filepath" in records[0].values:
        layouts = {"FILEPATH/FILENAME": lambda image: image.path, **layouts}
    return make_listing(path, "Karpathy", images(), layouts)


def _visual_genome(path: Path, records: list[Record]) -> Listing:
    """image_data.json: ids are Visual Genome's numbers, and the URLs end in the files' paths.

    Version 1.0 calls the number `id`, the later ones `image_id`.
    """

    def images() -> Iterator[Image]:
        for record in records:
            name = _end_of_url(record, "url")
            key = "id" if "id" in record.values and "image_id" not in record.values else "image_id"
            yield Image(record.image_id(key), name, *record.size())

    layouts: dict[str, Layout] = {
        "VG_100K*/IMAGE_ID.jpg": lambda image: image.path,
        "IMAGE_ID.jpg": lambda image: f"{image.image_id}.jpg",
    }
    return make_listing(path, "Visual Genome", images(), layouts)


def _end_of_url(record: Record, key: str) -> str:
    """Return the last folder and the file name of a URL."""
    url = record.text(key)
    try:
        path = urlsplit(url).path
    except ValueError:  # a bracket that opens an address and does not close it
        path = url
    return "/".join(PurePosixPath(path).parts[-2:])


def count_differences(file_name: str, counts: Mapping[str, int]) -> Iterator[str]:
    """Yield a line for each number of images that differs from that of a well-known data set.

    `counts` has the number of "images" and, where the file has splits, that of each split. Files
    with other names are not checked.

    >>> list(count_differences("captions_val2014.json", {"images": 40_000}))
    ['lists 40,000 images; COCO val2014 has 40,504']
    """
    if match := COCO_FILE.fullmatch(file_name):
        expected = (COCO_COUNTS[match[1]],)
        yield from _difference("images", counts["images"], f"COCO {match[1]}", expected)
    elif file_name == "image_data.json":
        yield from _difference("images", counts["images"], "Visual Genome", VISUAL_GENOME_COUNTS)
    for name, number in KARPATHY_COUNTS.get(file_name, {}).items():
        count = sum(counts.get(part, 0) for part in name.split("+"))
        things = "images" if name == "images" else f"images of {name}"
        yield from _difference(things, count, f"Karpathy's {file_name}", (number,))


def _difference(things: str, count: int, data_set: str, expected: tuple[int, ...]) -> Iterator[str]:
    if count not in expected:
        numbers = " or ".join(f"{number:,}" for number in expected)
        yield f"lists {count:,} {things}; {data_set} has {numbers}"
