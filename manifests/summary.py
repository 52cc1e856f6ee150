"""How many images the field's data sets have: a file with fewer was cut off, or is a part."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.text import printable, suffix
from .manifest import Manifest

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


FREQUENT = 5  # sizes, kinds and forms of ids that are shown
Size = tuple[int, int]  # width, height


def describe(manifest: Manifest, path: Path) -> dict[str, Any]:
    """Return the facts of a manifest read from `path`; sizes are [width, height] in pixels.

    `without_size` counts images whose header could not be read; the other figures leave them
    out. The median is the size with as many smaller as larger ones, by the number of pixels.
    """
    sizes: Counter[Size] = Counter()
    kinds: Counter[str] = Counter()
    forms: Counter[str] = Counter()
    for image in manifest.images:
        sizes[image.width, image.height] += 1
        kinds[suffix(image.path)] += 1
        form = re.sub(r"\d+", "#", image.image_id)
        # Names of no form, such as hashes, would all be remembered.
        forms[form if form in forms or len(forms) < 1000 else "others"] += 1
    unknown = sum(sizes.pop(size) for size in list(sizes) if 0 in size)
    return {
        "path": str(path),
        "root": manifest.root,
        "images": len(manifest.images),
        "without_size": unknown,
        "kinds": dict(kinds.most_common()),
        "ids": {
            "first": manifest.images[0].image_id,
            "last": manifest.images[-1].image_id,
            "forms": dict(forms.most_common(FREQUENT)),
        },
        "sizes": _sizes(sizes) if sizes else None,
    }


def _sizes(sizes: Counter[Size]) -> dict[str, Any]:
    count = sizes.total()
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    orientations = Counter[str]()
    for (width, height), n in sizes.items():
        side = (width > height) - (width < height)
        orientations[("square", "landscape", "portrait")[side]] += n
    pixels = sum(width * height * n for (width, height), n in sizes.items())
    return {
        "smallest": ordered[0],
        "median": _median(ordered, sizes),
        "largest": ordered[-1],
        "different": len(sizes),
        "frequent": [{"size": size, "images": n} for size, n in sizes.most_common(FREQUENT)],
        "orientations": dict(orientations.most_common()),
        "megapixels": pixels / 1e6,
        "megapixels_per_image": pixels / 1e6 / count,
    }


def _median(ordered: Sequence[Size], sizes: Counter[Size]) -> Size:
    remaining = (sizes.total() + 1) // 2
    for size in ordered:
        remaining -= sizes[size]
        if remaining <= 0:
            return size
    raise AssertionError("a median of no sizes")


def summary_text(summary: Mapping[str, Any]) -> str:
    """Return what `describe` gave as lines that a person reads."""
    return "\n".join(f"{name:<8}  {printable(value)}" for name, value in _rows(summary))


def _rows(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "manifest", f"{summary['path']}, {_number(summary['images'], 'image')}"
    yield "root", summary["root"]
    ids = summary["ids"]
    forms = _shares(ids["forms"], summary["images"])
    yield "ids", f"{ids['first']} to {ids['last']}"
    yield "", f"like {forms}"
    yield "files", ", ".join(f"{n:,} {kind or 'no ending'}" for kind, n in summary["kinds"].items())
    if summary["without_size"]:
        yield (
            "unknown",
            f"{_number(summary['without_size'], 'image')} without a header that can be read",
        )
    sizes = summary["sizes"]
    if sizes is None:
        return
    measured = summary["images"] - summary["without_size"]
    yield (
        "sizes",
        ", ".join(f"{key} {_size(sizes[key])}" for key in ("smallest", "median", "largest")),
    )
    frequent = ", ".join(
        f"{_size(f['size'])} {_share(f['images'], measured)}" for f in sizes["frequent"]
    )
    yield "", f"{_number(sizes['different'], 'different size')}: {frequent}"
    yield "shape", _shares(sizes["orientations"], measured)
    mean = sizes["megapixels_per_image"]
    yield "pixels", f"{sizes['megapixels']:,.1f} megapixels, {mean:.3g} an image"


def _shares(counts: Mapping[str, int], total: int) -> str:
    return ", ".join(f"{name} {_share(n, total)}" for name, n in counts.items())


def _share(n: int, total: int) -> str:
    return f"{n / total:.1%}"


def _size(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"


def _number(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
