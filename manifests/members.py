"""The images in tar files, zip files and Parquet files; whatever is skipped is counted and logged."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false
# pyarrow has no types.

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from ..base import tars
from ..base.errors import ManifestError, reason_of
from ..base.parquet import read_columns, read_schema
from ..base.text import IMAGE_SUFFIXES, printable, suffix
from . import parquet_images, zips
from .contents import as_utf8, disk_path, escaped
from .folder import (
    HIDDEN,
    NO_IMAGES,
    OTHER_SUFFIXES,
    FolderContents,
    SkippedFiles,
    folder_images,
    images_by_content,
    is_hidden,
    log_odd_names,
    storable,
)
from .manifest import Image
from .parquet_images import ImageColumn, image_columns
from .records import Record
from .tables import ID_COLUMNS, PATH_COLUMNS, TableOptions, id_of

logger = logging.getLogger(__name__)

SPECIAL = "symbolic links, devices and sparse files"
UNREADABLE = "links, and members that are encrypted or compressed in rare ways"
DOTTED = "images with more than one dot in their name, which belong to a sample with an image"
# A member's key in webdataset: its folders and its name up to the first dot, then the rest. A name
# that begins with a dot has no key; webdataset would take the folder's name as its key.
SAMPLE_NAME = re.compile(r"((?:.*/)?[^/.]+)\.([^/]*)", re.DOTALL)


def tar_images(root: str, paths: Sequence[str]) -> list[Image]:
    """Return the images in tar files as webdataset writes them; a member's key is the image's id.

    `paths` are those of the tar files below the local folder `root`. Most images have the size (0,
    0) so far. The texts and numbers of a sample are not images. A name with several dots is a part
    of the sample named before the first one, if that sample has an image; otherwise its id ends at
    its last dot. A member with an unknown ending is opened: if it is an image, its whole name is
    its id. Raises ManifestError for a file that is not a complete tar, or a compressed one that is
    too large (E-TAR-READ), and if no member is an image (E-MANIFEST-EMPTY).
    """
    images: list[Image] = []
    skipped = SkippedFiles()
    unknown: dict[str, str] = {}  # path below the root -> name in its tar
    for tar in paths:
        location = disk_path(root, tar)
        try:
            names, unreadable = tars.members(location), tars.others(location)
        except OSError as error:
            raise ManifestError(
                f"{location}: {reason_of(error)}; pack it again, uncompressed", code="E-TAR-READ"
            ) from None
        log_odd_names(location, names)
        for name in unreadable:
            skipped.add(HIDDEN if _is_hidden_member(name) else SPECIAL, f"{tar}/{name}")
        keys = {key for name in names if (key := _image_key(name)) is not None}
        dotted: list[str] = []
        for name in names:
            path = f"{tar}/{name}"
            if _is_hidden_member(name):
                skipped.add(HIDDEN, path)
            elif (key := _image_key(name)) is not None:
                images.append(Image(as_utf8(key), escaped(path), 0, 0))
            elif (ending := suffix(name)) in IMAGE_SUFFIXES:
                sample = SAMPLE_NAME.fullmatch(name)
                if sample and sample[1] in keys:
                    skipped.add(DOTTED, path)
                else:
                    dotted.append(path)
                    images.append(Image(as_utf8(name[: -len(ending)]), escaped(path), 0, 0))
            elif ending not in OTHER_SUFFIXES:
                unknown[path] = name
        if dotted:
            logger.info(
                f"{tar}: images whose ids end at the last of several dots in their names: "
                f"{len(dotted):,}, such as {printable(as_utf8(dotted[0])):.200}"
            )
    by_content = images_by_content(root, list(unknown))
    for path, name in unknown.items():
        if path in by_content:
            images.append(Image(as_utf8(name), escaped(path), *by_content[path]))
        else:
            skipped.add(NO_IMAGES, path)
    images = storable(images, skipped)
    skipped.log(", ".join(map(printable, paths[:3])))
    if not images:
        raise ManifestError(
            f"{', '.join(paths):.200}: no member is an image; expected names of KEY and one of "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}",
            code="E-MANIFEST-EMPTY",
        )
    return images


def _image_key(name: str) -> str | None:
    """Return the key of a member that is named by its key and the ending of an image, else None."""
    sample = SAMPLE_NAME.fullmatch(name)
    return sample[1] if sample and f".{sample[2].lower()}" in IMAGE_SUFFIXES else None


def _is_hidden_member(name: str) -> bool:
    if "/" not in name:
        return is_hidden(name)
    return any(is_hidden(part) for part in name.split("/") if part not in (".", ".."))


def zip_images(root: str, paths: Sequence[str], ids: str) -> list[Image]:
    """Return the images in zip files, with ids as in folders; most have the size (0, 0) so far.

    `paths` lead from the local folder `root` to the zips. Raises ManifestError for a file that is
    not a complete zip (E-ZIP-READ), and for one without an image (E-MANIFEST-EMPTY).
    """
    images: list[Image] = []
    for path in paths:
        location = disk_path(root, path)
        try:
            names, unreadable = zips.members(location), zips.others(location)
        except OSError as error:
            raise ManifestError(
                f"{location}: {reason_of(error)}; copy it again, or unpack it", code="E-ZIP-READ"
            ) from None
        skipped = SkippedFiles()
        for name in unreadable:
            skipped.add(UNREADABLE, f"{path}/{name}")
        by_name: list[str] = []
        unknown: list[str] = []
        for name in sorted(names):
            if _is_hidden_member(name):
                skipped.add(HIDDEN, f"{path}/{name}")
            elif (ending := suffix(name)) in IMAGE_SUFFIXES:
                by_name.append(name)
            elif ending in OTHER_SUFFIXES:
                skipped.add(NO_IMAGES, f"{path}/{name}")
            else:
                unknown.append(name)
        found = images_by_content(root, [f"{path}/{name}" for name in unknown])
        by_content = {name: found[at] for name in unknown if (at := f"{path}/{name}") in found}
        for name in unknown:
            if name not in by_content:
                skipped.add(NO_IMAGES, f"{path}/{name}")
        skipped.log(location)
        contents = FolderContents(tuple(by_name), by_content, ())
        images += folder_images(location, contents, f"{path}/", ids, ids_from="")
    return images


def image_column(path: Path, options: TableOptions) -> ImageColumn | None:
    """Return the column of images in a Parquet file; None for one that lists paths.

    Raises ManifestError (E-MANIFEST-COLUMN) if there are several that could be meant, and
    (E-MANIFEST-READ) for a file that is not Parquet.
    """

    def refuse(reason: str) -> ManifestError:
        return ManifestError(f"{path}: {reason}", code="E-MANIFEST-READ")

    schema = read_schema(path, refuse)
    columns = image_columns(schema)
    if options.path_column:
        return next((column for column in columns if column.name == options.path_column), None)
    structs = [column for column in columns if column.leaf != column.name]
    texts = [name for name in PATH_COLUMNS if name in schema.names]
    if not structs and any(name not in [column.name for column in columns] for name in texts):
        return None
    candidates = structs or columns
    named = [column for column in candidates if column.name == "image"]
    if len(named or candidates) > 1:
        listed = printable(", ".join(column.name for column in candidates))
        raise ManifestError(
            f"{path} has several columns of images: {listed:.200}; choose one with --path-column",
            code="E-MANIFEST-COLUMN",
        )
    return (named or candidates or [None])[0]


def parquet_rows(root: str, paths: Sequence[str], options: TableOptions) -> list[Image]:
    """Return the images in Parquet files, with the size (0, 0) so far.

    Ids are those of a column, or else the names of the files that the images were made from, or
    else the name of the Parquet file and the number of the row. Rows that repeat an id, as those of
    several questions about an image do, are skipped.

    Raises ManifestError for a file without images (E-MANIFEST-COLUMN), with a row group that is too
    large (E-PARQUET-GROUP), and one that cannot be read (E-MANIFEST-READ).
    """
    images: dict[str, Image] = {}
    repeated = ""
    count = 0
    skipped = SkippedFiles()
    for path in paths:
        location = Path(disk_path(root, path))
        column = image_column(location, options)
        if column is None:
            raise ManifestError(
                f"{location} has no column of images; pass files with images alone",
                code="E-MANIFEST-COLUMN",
            )
        if size := parquet_images.large_group(location, column):
            raise ManifestError(
                f"{location}: a row group holds {size:,} bytes of images, and one is read as a "
                f"whole; at most {parquet_images.MAX_GROUP:,} are read: write it with fewer rows a "
                f"group, such as row_group_size=100",
                code="E-PARQUET-GROUP",
            )
        rows = storable(
            (
                Image(as_utf8(image_id), escaped(f"{path}/{column.name}/{row}"), 0, 0)
                for row, image_id in enumerate(_row_ids(location, column, options))
            ),
            skipped,
        )
        for image in rows:
            if image.image_id in images:
                repeated, count = repeated or image.path, count + 1
            else:
                images[image.image_id] = image
    skipped.log(", ".join(map(printable, paths[:3])))
    if count:
        logger.info(
            f"rows that repeat the id of an earlier row, whose image is used: {count:,}, such as "
            f"{printable(repeated)}"
        )
    if not images:
        raise ManifestError(
            f"{', '.join(paths):.200}: no row has an image", code="E-MANIFEST-EMPTY"
        )
    return list(images.values())


def _row_ids(path: Path, column: ImageColumn, options: TableOptions) -> list[str]:
    """Return the id of each row."""

    def refuse(reason: str) -> ManifestError:
        return ManifestError(f"{path}: {reason}", code="E-MANIFEST-READ")

    names = read_schema(path, refuse).names
    chosen = options.id_column or next((name for name in ID_COLUMNS if name in names), None)
    if chosen and chosen not in names:
        raise ManifestError(
            f"{path} has no column {printable(chosen)}; its columns are "
            f"{printable(', '.join(names)):.200}; choose one with --id-column",
            code="E-MANIFEST-COLUMN",
        )
    if chosen:
        values = read_columns(path, [chosen], refuse)
        return [
            Record(f"{path} row {row}", {chosen: value}).image_id(chosen, texts=True)
            for row, (value,) in enumerate(values)
        ]
    try:
        files = parquet_images.image_paths(path, column)
    except OSError as error:
        raise refuse(reason_of(error)) from None
    if all(files):
        return [id_of(file, options.ids) for file in files]
    return [f"{path.stem}-{row:06}" for row in range(len(files))]
