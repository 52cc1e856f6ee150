"""Size, time of change and hash of an image's files."""

import hashlib
import os

from ...manifests import ManifestError, read_content, view_files
from ...manifests.contents import disk_path, split_archive, unescaped

NO_STAMP = (-1, -1)  # size and time of a file that does not exist, or is not on a disk


def file_stamp(root: str, path: str, views: int | None) -> tuple[int, int]:
    """Return size and time of the file `path` under the folder `root`, NO_STAMP if it is missing.

    In bytes, and nanoseconds since 1970. Of an image in a tar file they are the tar file's; of a
    viewpoint, the sum of the sizes of its views and the latest of their times.
    """
    try:
        stats = [_status(root, unescaped(name)) for name in _paths(root, path, views)]
    except (OSError, ManifestError):
        return NO_STAMP
    return sum(each.st_size for each in stats), max(each.st_mtime_ns for each in stats)


def file_sha256(root: str, path: str, views: int | None) -> str:
    """Return the sha256 of a file as the index has it, "" where it cannot be read.

    Of a viewpoint, it is taken over all views in order.
    """
    digest = hashlib.sha256()
    try:
        for name in _paths(root, path, views):
            digest.update(read_content(root, name))
    except (OSError, ManifestError):
        return ""
    return digest.hexdigest()


def _paths(root: str, path: str, views: int | None) -> list[str]:
    return [path] if views is None else view_files(root, path)


def _status(root: str, path: str) -> os.stat_result:
    """Return the system's record of the file `path`, without escapes, or of the tar it is in."""
    try:
        return os.stat(disk_path(root, path))  # noqa: PTH116
    except NotADirectoryError:
        return os.stat(disk_path(root, split_archive(root, path)[0]))  # noqa: PTH116
