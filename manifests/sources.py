"""From folders, archives and lists of images to a manifest."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import ManifestError, reason_of
from ..base.text import is_url, printable
from .archives import archive_ending, archive_format
from .contents import absolute_root, escaped, from_disk, to_disk
from .folder import FolderContents, folder_images, scan_folder
from .headers import Size, read_sizes
from .listings import read_listing
from .locate import LocatedImage, locate_images
from .manifest import Image, Manifest, duplicate_id, recorded_root
from .members import image_column, parquet_rows, tar_images, zip_images
from .records import TableOptions
from .views import view_images

logger = logging.getLogger(__name__)

TABLE_SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".txt")
FOLDER, TAR, ZIP, PARQUET = "a folder of images", "tar files", "zip files", "Parquet with images"
TABLE, JSON = "a table", "JSON"
ARCHIVES = {".tar": TAR, ".tar.gz": TAR, ".tgz": TAR, ".zip": ZIP, ".parquet": PARQUET}


@dataclass(frozen=True)
class SourceOptions:
    """What a user may choose; each option is for one kind of source."""

    ids: str = "stem"  # of files without ids: "stem" of the name, or "path" without the ending
    id_column: str | None = None  # of tables; None stands for one of the usual names
    path_column: str | None = None
    views: bool = False  # folders contain Matterport3D's views
    upright: bool = False  # sizes are those of images turned as their EXIF orientation says


def make_manifest(
    sources: Sequence[str | Path], root: str | None = None, options: SourceOptions | None = None
) -> Manifest:
    """Return the manifest of the images in `sources`, which are all of one kind.

    A source is a folder of images, an archive (tar, zip, Parquet with images), a folder of
    archives, a JSON file of annotations or a table; the kind is detected. `root` is the folder or
    the URL that paths start from; by default it is the folder that contains the sources. For lists
    it may be an archive, whose members they name; the root of the manifest is then its folder. What
    is skipped or looks wrong is logged.

    Raises ManifestError for sources and options from which no manifest can be made.
    """
    sources = [Path(source) for source in sources]
    options = options or SourceOptions()
    folders = {source: scan_folder(source) for source in sources if source.is_dir()}
    kind = _require_one_kind({source: _kind(source, folders, options) for source in sources})
    _check_options(options, kind)
    archive = ""
    if root and kind in (TABLE, JSON) and archive_ending(root) and Path(root).is_file():
        _check_archive(root)
        root, archive = os.path.split(os.path.abspath(root))  # noqa: PTH100
        archive = f"{escaped(from_disk(archive))}/"
    root = _root(sources, kind, root)
    if kind in (TABLE, JSON):
        located = _listed_images(sources, root, archive, options)
        return Manifest.of(root, _with_sizes(located, root, options), upright=options.upright)
    if is_url(root):
        raise ManifestError(
            f"--images {root}: a URL needs a table or JSON that lists the images; got {kind}",
            code="E-MANIFEST-ROOT",
        )
    if kind == TAR:
        images = tar_images(root, _archives(sources, folders, root))
    elif kind == ZIP:
        images = zip_images(root, _archives(sources, folders, root), options.ids)
    elif kind == PARQUET:
        images = parquet_rows(root, _archives(sources, folders, root), _table_options(options))
    else:
        images = _folder_images(folders, root, options)
    _require_distinct(images, by_stem=kind in (FOLDER, ZIP) and options.ids == "stem")
    if options.views:  # their sizes are those of their first view
        return Manifest.of(root, images)
    located = [LocatedImage(image, not image.width) for image in images]
    return Manifest.of(root, _with_sizes(located, root, options), upright=options.upright)


def folder_manifest(folder: str | Path, ids: str = "stem", *, upright: bool = False) -> Manifest:
    """Return the manifest of every image file in `folder` and below.

    `ids` is "stem", so that ids are file names without the ending, or "path", so that they are
    paths without the ending. With `upright`, for a recipe with this step, sizes are those of images
    that are turned as their EXIF orientation says. The images in archives of one kind are listed if
    the folder has no others. What is skipped is logged. Raises ManifestError if `folder` is not a
    folder or contains no image that can be read, and for two images with one id.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ManifestError(
            f"{folder} is not a folder; pass the folder that contains the images with --images",
            code="E-MANIFEST-SOURCE",
        )
    return make_manifest([folder], options=SourceOptions(ids, upright=upright))


def _kind(source: Path, folders: Mapping[Path, FolderContents], options: SourceOptions) -> str:
    if source in folders:
        archives = folders[source].archives
        return ARCHIVES[archive_ending(archives[0])] if archives else FOLDER
    if not source.is_file():
        raise ManifestError(
            f"{source} is neither a folder nor a file; pass a source of images",
            code="E-MANIFEST-SOURCE",
        )
    if source.suffix.lower() == ".parquet":
        return PARQUET if image_column(source, _table_options(options)) else TABLE
    kinds = {".tar": TAR, ".json": JSON, **dict.fromkeys(TABLE_SUFFIXES, TABLE), **ARCHIVES}
    if kind := kinds.get(archive_ending(source.name) or source.suffix.lower()):
        return kind
    raise ManifestError(
        f"{source}: expected a folder, or a file that ends in one of {', '.join(kinds)}",
        code="E-MANIFEST-SOURCE",
    )


def _require_one_kind(kinds: Mapping[Path, str]) -> str:
    (first, kind), *others = kinds.items()
    for source, other in others:
        if other != kind:
            raise ManifestError(
                f"{first} is {kind} and {source} is {other}; make a manifest of each",
                code="E-MANIFEST-KINDS",
            )
    return kind


def _check_options(options: SourceOptions, kind: str) -> None:
    if options.views and options.upright:
        raise ManifestError(
            "--views and --upright exclude each other: views have no orientation; drop one",
            code="E-MANIFEST-OPTION",
        )
    if options.views and kind != FOLDER:
        raise ManifestError(
            f"--ids and --views are for folders of images; got {kind}", code="E-MANIFEST-OPTION"
        )
    if options.ids != "stem" and kind == TAR:
        raise ManifestError(
            f"--ids is for folders and for lists without ids; got {kind}", code="E-MANIFEST-OPTION"
        )
    if kind not in (TABLE, PARQUET) and (options.id_column or options.path_column):
        raise ManifestError(
            f"--id-column and --path-column are for tables; got {kind}", code="E-MANIFEST-OPTION"
        )


def _root(sources: Sequence[Path], kind: str, root: str | None) -> str:
    """Return the root: a URL, or an absolute path in which symbolic links are kept.

    A table may name any root; this is logged before anything there is read.
    """
    if root is not None:
        if is_url(root):
            return absolute_root(root)
        if not Path(root).is_dir():
            raise ManifestError(
                f"--images {root} is not a folder; pass the folder that paths start from",
                code="E-MANIFEST-ROOT",
            )
        return from_disk(os.path.abspath(root))  # noqa: PTH100
    if kind == TABLE and len(sources) == 1 and sources[0].suffix.lower() == ".parquet":
        root = recorded_root(sources[0])
        if root != from_disk(os.path.abspath(sources[0].parent)):  # noqa: PTH100
            logger.info(f"{sources[0]}: its paths start from {printable(root)}")
        return root
    folders = (source if source.is_dir() else source.absolute().parent for source in sources)
    return from_disk(os.path.commonpath(map(os.path.abspath, folders)))


def _check_archive(path: str) -> None:
    """Raise ManifestError for a damaged archive; its members would only seem to be missing."""
    try:
        archive_format(path).names(path)
    except OSError as error:
        raise ManifestError(
            f"--images {path}: {reason_of(error)}; copy it again", code="E-MANIFEST-ROOT"
        ) from None


def _below(root: str, source: Path) -> str:
    """Return the path that leads from the root to a source."""
    try:
        below = Path(os.path.abspath(source)).relative_to(to_disk(root))  # noqa: PTH100
    except ValueError:
        raise ManifestError(
            f"{source} is not in --images {root}; pass a folder above it", code="E-MANIFEST-ROOT"
        ) from None
    return from_disk(below.as_posix())


def _archives(
    sources: Sequence[Path], folders: Mapping[Path, FolderContents], root: str
) -> list[str]:
    """Return the path of each archive from the root."""
    archives: list[str] = []
    for source in sources:
        below = _below(root, source)
        if source in folders:
            archives += (f"{below}/{name}".removeprefix("./") for name in folders[source].archives)
        else:
            archives.append(below)
    return archives


def _table_options(options: SourceOptions) -> TableOptions:
    return TableOptions(options.id_column, options.path_column, options.ids)


def _folder_images(
    folders: Mapping[Path, FolderContents], root: str, options: SourceOptions
) -> list[Image]:
    images: list[Image] = []
    for folder, contents in folders.items():
        prefix = f"{_below(root, folder)}/".removeprefix("./")
        if options.views:
            images += view_images(folder, contents.images, prefix)
        else:
            images += folder_images(folder, contents, prefix, options.ids)
    return images


def _listed_images(
    sources: Sequence[Path], root: str, archive: str, options: SourceOptions
) -> list[LocatedImage]:
    table = _table_options(options)
    listings = {source: read_listing(source, table) for source in sources}
    _require_one_kind({source: listing.kind for source, listing in listings.items()})
    located = [
        image for listing in listings.values() for image in locate_images(listing, root, archive)
    ]
    # One image may be in several lists of texts; in annotations that would be an error.
    repeats = any(listing.repeats for listing in listings.values())
    located = list(dict.fromkeys(located)) if repeats else located
    _require_distinct((image for image, _ in located), by_stem=repeats and options.ids == "stem")
    return located


def _require_distinct(images: Iterable[Image], *, by_stem: bool) -> None:
    """Raise ManifestError for two images with one id, before any header is read."""
    seen: dict[str, Image] = {}
    for image in images:
        other = seen.setdefault(image.image_id, image)
        if other is not image:
            folders = {each.path.rpartition("/")[0] for each in (other, image)}
            remedy = "pass --ids path, which distinguishes files of different folders"
            raise duplicate_id(other, image, remedy if by_stem and len(folders) == 2 else "")


def _with_sizes(located: Sequence[LocatedImage], root: str, options: SourceOptions) -> list[Image]:
    """Return the images, with the sizes in their headers where these are to be read.

    A list may state another size: extraction will find the one in the header. Whether an image is
    turned, only its header says.
    """
    images = [image for image, _ in located]
    positions = [k for k, (_, read) in enumerate(located) if read or options.upright]
    sizes = read_sizes(root, [images[k].path for k in positions], upright=options.upright)
    wrong: list[tuple[Image, Size]] = []
    for k, size in zip(positions, sizes, strict=True):
        stated = images[k]
        if any(size) and size != (stated.width, stated.height):
            if stated.width and stated.height:
                wrong.append((stated, size))
            images[k] = Image(stated.image_id, stated.path, *size)
    if wrong:
        image, (width, height) = wrong[0]
        logger.warning(
            "sizes in the list that differ from those in the files, which are used: "
            f"{len(wrong):,}, such as {image.width}x{image.height} of {printable(image.path)}, "
            f"which has {width}x{height}"
        )
    if not any(image.width for image in images):
        raise ManifestError(
            f"{printable(root)}: no file can be read as an image; files listed: {len(images):,}, "
            f"such as {printable(images[0].path)}; check the files",
            code="E-MANIFEST-EMPTY",
        )
    return images
