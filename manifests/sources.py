"""From what a user has, of whatever kind, to a manifest."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.text import printable
from .annotations import annotation_listing
from .contents import absolute_root, is_url
from .errors import ManifestError
from .folder import folder_images
from .headers import read_sizes
from .images import Image
from .listing import Say, located
from .manifest import Manifest, checked
from .parquet import recorded_root
from .table import table_listing
from .views import view_images
from .walk import SUFFIXES, suffix, walk
from .webdataset import shard_images

TABLES = (".parquet", ".csv", ".jsonl", ".ndjson")
FOLDER, TAR, TABLE, JSON = "a folder of images", "tar files", "a table", "JSON"


@dataclass(frozen=True)
class Choices:
    """What a user may choose; each choice is for one kind of source."""

    ids: str = "stem"  # of the files in folders; or "path"
    id_column: str | None = None  # of tables; None is one of the usual names
    path_column: str | None = None
    views: bool = False  # folders hold Matterport3D's views


def make_manifest(
    sources: Sequence[Path],
    images: str | None = None,
    choices: Choices | None = None,
    *,
    say: Say,
) -> Manifest:
    """Return the manifest of `sources`, all of one kind; which one is found by looking.

    Folders of images, tar files or folders of them, JSON files of annotations, or tables.
    `images` is the root, a folder or a URL; without it, the folder that holds the sources.
    `say` takes remarks, a line each. Raises ManifestError for what cannot be a manifest.
    """
    choices = choices or Choices()
    files = {source: _files(source) for source in sources}
    kind = _one_kind({source: _kind(source, files[source]) for source in sources})
    _check_choices(choices, kind)
    root = _root(sources, kind, images)
    if kind in (TABLE, JSON):
        found = _listed(sources, kind, root, choices, say)
    elif is_url(root):
        raise ManifestError(
            f"--images {root}: a URL goes with a table or JSON that lists the images; got {kind}"
        )
    elif kind == TAR:
        found = shard_images(_shards(files, root), say)
    else:
        found = []
        for source, names in files.items():
            prefix = f"{_below(root, source)}/".removeprefix("./")
            if choices.views:
                found += view_images(str(source), names, prefix, say)
            else:
                found += folder_images(str(source), names, prefix, choices.ids)
    return Manifest.of(root, found if choices.views else _measured(found, root, sources[0]))


def folder_manifest(folder: Path) -> Manifest:
    """Return the manifest of every image file in `folder` and below, ids being file stems.

    A folder that holds no image file but tar files is listed as these. Raises ManifestError for
    a folder without an image, or with none whose header can be read, or with two of one stem.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder} is no folder; give the folder that holds the images")
    return make_manifest([folder], say=lambda line: None)


def _files(source: Path) -> list[str]:
    """Return the paths of the files in a folder; of a file, nothing."""
    return sorted(walk(str(source))) if source.is_dir() else []


def _kind(source: Path, files: Sequence[str]) -> str:
    ending = source.suffix.lower()
    if source.is_dir():
        endings = set(map(suffix, files))
        return TAR if ".tar" in endings and not endings & SUFFIXES else FOLDER
    if not source.is_file():
        raise ManifestError(f"{source} is no folder and no file; give what lists the images")
    if ending == ".tar":
        return TAR
    if ending in (".json", *TABLES):
        return JSON if ending == ".json" else TABLE
    wanted = ", ".join((".tar", ".json", *TABLES))
    raise ManifestError(f"{source}: expected a folder, or a file that ends in one of {wanted}")


def _one_kind(kinds: Mapping[Path, str]) -> str:
    (first, kind), *others = kinds.items()
    for source, other in others:
        if other != kind:
            raise ManifestError(
                f"{first} is {kind} and {source} is {other}; make a manifest of each"
            )
    return kind


def _check_choices(choices: Choices, kind: str) -> None:
    if kind != FOLDER and (choices.ids != "stem" or choices.views):
        raise ManifestError(f"--ids and --views are for folders of images; got {kind}")
    if kind != TABLE and (choices.id_column or choices.path_column):
        raise ManifestError(f"--id-column and --path-column are for tables; got {kind}")


def _root(sources: Sequence[Path], kind: str, images: str | None) -> str:
    """Return the root: a URL, or an absolute path in which links are kept as they are named."""
    if images is not None:
        if is_url(images):
            return absolute_root(images)
        if not Path(images).is_dir():
            raise ManifestError(f"--images {images} is no folder; give the one paths start from")
        return os.path.abspath(images)  # noqa: PTH100
    if kind == TABLE and len(sources) == 1 and sources[0].suffix.lower() == ".parquet":
        return recorded_root(sources[0])
    folders = (source if source.is_dir() else source.absolute().parent for source in sources)
    return os.path.commonpath(map(os.path.abspath, folders))


def _below(root: str, source: Path) -> str:
    """Return the path that leads from the root to a source."""
    try:
        return Path(os.path.abspath(source)).relative_to(root).as_posix()  # noqa: PTH100
    except ValueError:
        raise ManifestError(f"{source} is not in --images {root}; give a folder above it") from None


def _shards(files: Mapping[Path, Sequence[str]], root: str) -> Iterable[tuple[str, str]]:
    """Yield each tar file with its path from the root."""
    for source, names in files.items():
        tars = [source / name for name in names if suffix(name) == ".tar"]
        for tar in tars or [source]:
            yield str(tar), _below(root, tar)


def _listed(
    sources: Sequence[Path], kind: str, root: str, choices: Choices, say: Say
) -> list[Image]:
    if kind == TABLE:
        listings = [
            table_listing(source, choices.id_column, choices.path_column) for source in sources
        ]
    else:
        read = {source: annotation_listing(source, say) for source in sources}
        _one_kind({source: name for source, (name, _) in read.items()})
        listings = [listing for _, listing in read.values()]
    return [image for listing in listings for image in located(listing, root, say)]


def _measured(images: list[Image], root: str, source: Path) -> list[Image]:
    """Return the images with sizes, from the headers where no list has said them."""
    images = list(checked(images))  # before any file is opened
    unknown = [k for k, image in enumerate(images) if not (image.width and image.height)]
    sizes = read_sizes(root, [images[k].path for k in unknown]) if unknown else []
    for k, (width, height) in zip(unknown, sizes, strict=True):
        images[k] = images[k]._replace(width=width, height=height)
    if not any(image.width for image in images):
        raise ManifestError(
            f"{source}: none of its {len(images)} image files can be read as an image, "
            f"{printable(images[0].path)} for one; check the files"
        )
    return images
