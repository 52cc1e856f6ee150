"""Which images to extract: a frozen, checked list."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from .errors import ManifestError


class Image(NamedTuple):
    """One image to extract."""

    image_id: str
    path: str  # relative to the manifest's root
    width: int  # pixels, as the file's header says; 0 where no header could be read
    height: int


@dataclass(frozen=True)
class Manifest:
    """Images sorted by id, every id once; a Manifest that breaks this cannot be made."""

    root: Path  # the folder that paths are relative to
    images: tuple[Image, ...]

    def __post_init__(self) -> None:
        if not self.images:
            raise ManifestError(f"{self.root}: a manifest must have at least one image; it has 0")
        count, image_id = max((n, i) for i, n in Counter(i.image_id for i in self.images).items())
        if count > 1:
            first, second = [i.path for i in self.images if i.image_id == image_id][:2]
            raise ManifestError(
                f"two images have the id {image_id!r}: {first} and {second}; "
                f"ids must be unique: rename one"
            )
        for image in self.images:
            if not image.image_id or min(image.width, image.height) < 0:
                raise ManifestError(f"a manifest row must have an id and a size >= 0; got {image}")

    @classmethod
    def of(cls, root: Path, images: Iterable[Image]) -> Self:
        """Return the manifest of `images` in any order."""
        return cls(root, tuple(sorted(images)))
