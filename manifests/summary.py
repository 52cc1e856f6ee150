"""What is in a manifest, in a screenful."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.endings import suffix
from ..base.text import printable
from .manifest import Manifest

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
