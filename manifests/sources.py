"""From what a user has, of whatever kind, to a manifest."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import ManifestError
from ..base.text import is_url, printable
from .annotations import annotation_listing
from .contents import absolute_root, from_disk, to_disk
from .folder import Folder, Say, folder_images, look_into
from .headers import Size, read_sizes
from .listing import Located, located
from .manifest import Image, Manifest, recorded_root, same_id
from .table import table_listing
from .views import view_images
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
    folders = {source: look_into(source, say) for source in sources if source.is_dir()}
    kind = _one_kind({source: _kind(source, folders) for source in sources})
    _check_choices(choices, kind)
    root = _root(sources, kind, images, say)
    if kind in (TABLE, JSON):
        found = _listed(sources, kind, root, choices, say)
        _require_distinct((image for image, _ in found), by_stem=False)
        return Manifest.of(root, _with_sizes(found, root, say))
    if is_url(root):
        raise ManifestError(
            f"--images {root}: a URL goes with a table or JSON that lists the images; got {kind}"
        )
    images_found: list[Image] = []
    if kind == TAR:
        images_found += shard_images(root, _shards(sources, folders, root), say)
    for source, folder in folders.items() if kind == FOLDER else ():
        prefix = f"{_below(root, source)}/".removeprefix("./")
        if choices.views:
            images_found += view_images(source, folder.images, prefix, say)
        else:
            images_found += folder_images(source, folder, prefix, choices.ids, say)
    _require_distinct(images_found, by_stem=kind == FOLDER and choices.ids == "stem")
    if choices.views:  # whose sizes are those of their first view
        return Manifest.of(root, images_found)
    unknown = [Located(image, is_open=not image.width) for image in images_found]
    return Manifest.of(root, _with_sizes(unknown, root, say))


def folder_manifest(folder: Path, ids: str = "stem", *, say: Say = lambda line: None) -> Manifest:
    """Return the manifest of every image file in `folder` and below, ids being file stems.

    With `ids` "path", they are the paths, without the ending. A folder that holds no image file
    but tar files is listed as these. `say` takes remarks. Raises ManifestError for a folder
    without an image, or with none whose header can be read, or with two of one id.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder} is not a folder; give the folder that holds the images")
    return make_manifest([folder], choices=Choices(ids), say=say)


def _kind(source: Path, folders: Mapping[Path, Folder]) -> str:
    ending = source.suffix.lower()
    if source in folders:
        return TAR if folders[source].tars else FOLDER
    if not source.is_file():
        raise ManifestError(f"{source} is neither a folder nor a file; give what lists the images")
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


def _root(sources: Sequence[Path], kind: str, images: str | None, say: Say) -> str:
    """Return the root: a URL, or an absolute path in which links are kept as they are named.

    A table may name any root; `say` is told, before anything there is read.
    """
    if images is not None:
        if is_url(images):
            return absolute_root(images)
        if not Path(images).is_dir():
            raise ManifestError(f"--images {images} is not a folder; give the one paths start from")
        return from_disk(os.path.abspath(images))  # noqa: PTH100
    if kind == TABLE and len(sources) == 1 and sources[0].suffix.lower() == ".parquet":
        root = recorded_root(sources[0])
        if root != from_disk(os.path.abspath(sources[0].parent)):  # noqa: PTH100
            say(f"{sources[0]}: names {printable(root)} as what its paths start from")
        return root
    places = (source if source.is_dir() else source.absolute().parent for source in sources)
    return from_disk(os.path.commonpath(map(os.path.abspath, places)))


def _below(root: str, source: Path) -> str:
    """Return the path that leads from the root to a source."""
    try:
        below = Path(os.path.abspath(source)).relative_to(to_disk(root))  # noqa: PTH100
    except ValueError:
        raise ManifestError(f"{source} is not in --images {root}; give a folder above it") from None
    return from_disk(below.as_posix())


def _shards(sources: Sequence[Path], folders: Mapping[Path, Folder], root: str) -> Iterator[str]:
    """Yield the path of each tar file from the root."""
    for source in sources:
        below = _below(root, source)
        if source in folders:
            yield from (f"{below}/{tar}".removeprefix("./") for tar in folders[source].tars)
        else:
            yield below


def _listed(
    sources: Sequence[Path], kind: str, root: str, choices: Choices, say: Say
) -> list[Located]:
    if kind == TABLE:
        listings = [
            table_listing(source, choices.id_column, choices.path_column) for source in sources
        ]
    else:
        read = {source: annotation_listing(source, say) for source in sources}
        _one_kind({source: name for source, (name, _) in read.items()})
        listings = [listing for _, listing in read.values()]
    return [image for listing in listings for image in located(listing, root, say)]


def _require_distinct(images: Iterable[Image], *, by_stem: bool) -> None:
    """Raise ManifestError for two images of one id, before any header is read."""
    seen: dict[str, Image] = {}
    for image in images:
        other = seen.setdefault(image.image_id, image)
        if other is not image:
            folders = {each.path.rpartition("/")[0] for each in (other, image)}
            apart = "pass --ids path, which tells files of different folders apart"
            raise same_id(other, image, apart if by_stem and len(folders) == 2 else "")


def _with_sizes(located: Sequence[Located], root: str, say: Say) -> list[Image]:
    """Return the images with the sizes that the headers of those that are open say.

    A list may say another size: the header's is the one that extraction will find.
    """
    images = [image for image, _ in located]
    read = [k for k, (_, is_open) in enumerate(located) if is_open]
    wrong: list[tuple[Image, Size]] = []
    for k, size in zip(read, read_sizes(root, [images[k].path for k in read]), strict=True):
        image_id, path, *said = images[k]
        if any(size) and size != tuple(said):
            if all(said):
                wrong.append((images[k], size))
            images[k] = Image(image_id, path, *size)
    if wrong:
        image, (width, height) = wrong[0]
        say(
            f"sizes that are not those of the files' headers, which are taken: {len(wrong):,}, such "
            f"as {image.width}x{image.height} of {printable(image.path)}, which has {width}x{height}"
        )
    if not any(image.width for image in images):
        raise ManifestError(
            f"{printable(root)}: none of its {len(images)} image files can be read as an image, "
            f"such as {printable(images[0].path)}; check the files"
        )
    return images
