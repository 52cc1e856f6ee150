"""How many images the field's data sets have: a file with fewer was cut off, or is a part."""

import re
from collections.abc import Iterator, Mapping

# Published by their authors; those of Karpathy's splits are counted by everyone who trains on them.
COCO = {
    "train2014": 82_783,
    "val2014": 40_504,
    "test2014": 40_775,
    "test2015": 81_434,
    "train2017": 118_287,
    "val2017": 5_000,
    "test2017": 40_670,
}
KARPATHY = {
    "dataset_coco.json": {
        "images": 123_287,
        "train+restval": 113_287,
        "val": 5_000,
        "test": 5_000,
    },
    "dataset_flickr30k.json": {"images": 31_014, "train": 29_000, "val": 1_014, "test": 1_000},
    "dataset_flickr8k.json": {"images": 8_000, "train": 6_000, "val": 1_000, "test": 1_000},
}
VISUAL_GENOME = (108_077, 108_249)  # versions 1.4 and 1.2
COCO_FILE = re.compile(
    r"(?:instances|captions|person_keypoints|image_info)_((?:train|val|test)20\d\d)\.json"
)


def count_remarks(file_name: str, counts: Mapping[str, int]) -> Iterator[str]:
    """Yield a line for each number of images that is not that of the data set.

    `counts` has the number of "images" and, where the file has splits, that of each. Files of
    other names are data sets of which nothing is known.

    >>> list(count_remarks("captions_val2014.json", {"images": 40_000}))
    ['lists 40,000 images; COCO val2014 has 40,504']
    """
    if match := COCO_FILE.fullmatch(file_name):
        yield from _remark("images", counts["images"], f"COCO {match[1]}", (COCO[match[1]],))
    elif file_name == "image_data.json":
        yield from _remark("images", counts["images"], "Visual Genome", VISUAL_GENOME)
    for name, wanted in KARPATHY.get(file_name, {}).items():
        number = sum(counts.get(part, 0) for part in name.split("+"))
        what = "images" if name == "images" else f"images of {name}"
        yield from _remark(what, number, f"Karpathy's {file_name}", (wanted,))


def _remark(what: str, number: int, data_set: str, wanted: tuple[int, ...]) -> Iterator[str]:
    if number not in wanted:
        numbers = " or ".join(f"{n:,}" for n in wanted)
        yield f"lists {number:,} {what}; {data_set} has {numbers}"
