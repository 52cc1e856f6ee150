"""A summary of a manifest: how many images, of which sizes and kinds, and how ids look."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.text import counted, printable, suffix
from .manifest import Manifest

FREQUENT = 5  # sizes and forms of ids that are shown
MAX_FORMS = 1000  # that are counted one by one; ids without a form, such as hashes, have one each
Size = tuple[int, int]  # width, height in pixels


@dataclass(frozen=True)
class IdSummary:
    """How the ids look."""

    first: str
    last: str
    forms: dict[str, int]  # frequent ids with # for each number -> how many


@dataclass(frozen=True)
class FrequentSize:
    """A size that many images have."""

    size: Size
    images: int


@dataclass(frozen=True)
class SizeSummary:
    """The sizes of images whose header could be read."""

    smallest: Size
    median: Size  # by the number of pixels
    largest: Size
    different: int
    frequent: tuple[FrequentSize, ...]
    orientations: dict[str, int]  # square, landscape, portrait -> how many
    megapixels: float
    megapixels_per_image: float


@dataclass(frozen=True)
class ManifestSummary:
    """The facts of a manifest; `sizes` leaves out images whose header could not be read."""

    path: str
    root: str
    images: int
    without_size: int  # images whose header could not be read
    kinds: dict[str, int]  # ending -> how many
    ids: IdSummary
    sizes: SizeSummary | None  # None if no header could be read

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON."""
        return dataclasses.asdict(self)

    def text(self) -> str:
        """Return the summary as lines for people."""
        return "\n".join(f"{name:<8}  {printable(value)}" for name, value in self._lines())

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "manifest", f"{self.path}, {counted(self.images, 'image')}"
        yield "root", self.root
        yield "ids", f"{self.ids.first} to {self.ids.last}"
        yield "", f"like {_shares(self.ids.forms, self.images)}"
        yield "files", ", ".join(f"{n:,} {kind or 'no ending'}" for kind, n in self.kinds.items())
        if self.without_size:
            yield "unknown", f"{counted(self.without_size, 'image')} without a readable header"
        if self.sizes is None:
            return
        sizes, measured = self.sizes, self.images - self.without_size
        yield (
            "sizes",
            f"smallest {_size(sizes.smallest)}, median {_size(sizes.median)}, "
            f"largest {_size(sizes.largest)}",
        )
        frequent = {_size(each.size): each.images for each in sizes.frequent}
        yield "", f"{counted(sizes.different, 'different size')}: {_shares(frequent, measured)}"
        yield "shape", _shares(sizes.orientations, measured)
        yield (
            "pixels",
            f"{sizes.megapixels:,.1f} megapixels, {sizes.megapixels_per_image:.3g} per image",
        )


def summarize_manifest(manifest: Manifest, path: Path) -> ManifestSummary:
    """Return the summary of a manifest that was read from `path`."""
    sizes: Counter[Size] = Counter()
    kinds: Counter[str] = Counter()
    forms: Counter[str] = Counter()
    for image in manifest.images:
        sizes[image.width, image.height] += 1
        kinds[suffix(image.path)] += 1
        form = re.sub(r"\d+", "#", image.image_id)
        forms[form if form in forms or len(forms) < MAX_FORMS else "others"] += 1
    without_size = sum(sizes.pop(size) for size in list(sizes) if 0 in size)
    return ManifestSummary(
        path=str(path),
        root=manifest.root,
        images=len(manifest.images),
        without_size=without_size,
        kinds=dict(kinds.most_common()),
        ids=IdSummary(
            first=manifest.images[0].image_id,
            last=manifest.images[-1].image_id,
            forms=dict(forms.most_common(FREQUENT)),
        ),
        sizes=_size_summary(sizes) if sizes else None,
    )


def _size_summary(sizes: Counter[Size]) -> SizeSummary:
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    orientations = Counter[str]()
    for (width, height), n in sizes.items():
        orientation = (width > height) - (width < height)
        orientations[("square", "landscape", "portrait")[orientation]] += n
    pixels = sum(width * height * n for (width, height), n in sizes.items())
    return SizeSummary(
        smallest=ordered[0],
        median=_median(ordered, sizes),
        largest=ordered[-1],
        different=len(sizes),
        frequent=tuple(FrequentSize(size, n) for size, n in sizes.most_common(FREQUENT)),
        orientations=dict(orientations.most_common()),
        megapixels=pixels / 1e6,
        megapixels_per_image=pixels / 1e6 / sizes.total(),
    )


def _median(ordered: Sequence[Size], sizes: Counter[Size]) -> Size:
    """Return the size of which as many images are smaller as are larger."""
    remaining = (sizes.total() + 1) // 2
    for size in ordered:
        remaining -= sizes[size]
        if remaining <= 0:
            return size
    raise AssertionError("a median of no sizes")


def _shares(counts: Mapping[str, int], total: int) -> str:
    return ", ".join(f"{name} {n / total:.1%}" for name, n in counts.items())


def _size(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
