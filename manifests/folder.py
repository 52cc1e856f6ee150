"""A folder of images as a manifest: ids are file stems."""

from pathlib import Path

from .errors import ManifestError
from .headers import read_sizes
from .manifest import Image, Manifest

# What Pillow reads and data sets come in; other files in the folder are passed over.
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".jp2")
)


def folder_manifest(folder: Path) -> Manifest:
    """Return the manifest of every image file in `folder` and below, sizes read from headers.

    Raises ManifestError for a folder without an image file, or with none whose header can be
    read, or with two files of one stem.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder} is no folder; give the folder that holds the images")
    paths = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file()]
    for path in paths:
        if any("\ud800" <= character <= "\udfff" for character in str(path)):
            raise ManifestError(f"{str(path)!r}: a file name must be UTF-8 text; rename it")
    if not paths:
        raise ManifestError(
            f"{folder} holds no image file; expected names ending in {', '.join(sorted(SUFFIXES))}"
        )
    sizes = read_sizes(paths)
    if not any(width for width, _ in sizes):
        raise ManifestError(
            f"{folder}: none of its {len(paths)} image files can be read as an image, "
            f"{paths[0].name} for one; check the files"
        )
    return Manifest.of(
        folder,
        (
            Image(path.stem, path.relative_to(folder).as_posix(), *size)
            for path, size in zip(paths, sizes, strict=True)
        ),
    )
