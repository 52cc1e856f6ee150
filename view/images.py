"""The image behind a record, where its file can be had."""

import errno
import os

from ..base.errors import MissingRecordError, StoreError, UsageError, reason_of
from ..base.text import is_url, printable
from ..manifests import Image
from ..manifests.contents import absolute_root, disk_path, open_content, require_driver
from ..manifests.manifest import broken_rule
from .ids import Entry

MAX_BYTES = 1 << 26  # of an image file that is sent to the browser
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif")  # tried for an id without a path


class ImageFiles:
    """Reads images below a root, a folder or a URL, and nothing else.

    The store says where each image is, and may come from anywhere: a path that leads out of the root
    is not followed, and only a file with the content of a JPEG, PNG, WebP or GIF is given out.
    """

    def __init__(self, root: str):
        """Take a folder or a URL; UsageError (E-VIEW-IMAGES) where it is neither."""
        require_driver(root)
        self._root = absolute_root(root)
        if not is_url(self._root) and not os.path.isdir(disk_path(self._root, "")):  # noqa: PTH112
            raise UsageError(
                f"--images {root} is not a folder; pass the folder that the images were extracted "
                f"from",
                code="E-VIEW-IMAGES",
            )

    def has(self, entry: Entry) -> bool:
        """Return whether there is probably an image of an id; at a URL it is not asked."""
        paths = _paths(entry)
        if is_url(self._root):
            return bool(paths)
        for path in paths:
            try:
                with open_content(self._root, path):
                    return True
            except (OSError, UsageError):
                continue
        return False

    def read(self, entry: Entry) -> tuple[bytes, str]:
        """Return the bytes of an id's image and their media type.

        Raises MissingRecordError (E-VIEW-NO-IMAGE) where there is no file, StoreError for a file of
        more than MAX_BYTES (E-VIEW-IMAGE-SIZE) and one that a browser cannot show (E-VIEW-IMAGE-KIND).
        """
        problem = "the store does not say where it is"
        for path in _paths(entry):
            try:
                with open_content(self._root, path) as file:
                    content = file.read(MAX_BYTES + 1)
            except OSError as error:
                missing = error.errno == errno.ENOENT or isinstance(error, FileNotFoundError)
                problem = "no such file" if missing else reason_of(error)
                continue
            if len(content) > MAX_BYTES:
                raise StoreError(
                    f"the image of id {entry.image_id!r:.100} has more than {MAX_BYTES:,} bytes, and "
                    f"is not shown",
                    code="E-VIEW-IMAGE-SIZE",
                )
            kind = media_type(content)
            if kind is None:
                raise StoreError(
                    f"the file of image id {entry.image_id!r:.100} is not a JPEG, PNG, WebP or GIF, "
                    f"and is not shown",
                    code="E-VIEW-IMAGE-KIND",
                )
            return content, kind
        raise MissingRecordError(
            f"there is no image of id {entry.image_id!r:.100} in {printable(self._root)}: {problem}; "
            f"pass the folder that the images were extracted from: --images DIR",
            code="E-VIEW-NO-IMAGE",
        )


def _paths(entry: Entry) -> list[str]:
    """Return where the image of an id may be below the root: where the store says, or by its id."""
    named = [entry.source, *(entry.image_id + ending for ending in ENDINGS)]
    return [path for path in named if broken_rule(Image(entry.image_id, path, 0, 0)) is None]


def media_type(content: bytes) -> str | None:
    """Return the media type of an image that all browsers show, by its first bytes.

    >>> media_type(b"GIF89a"), media_type(b"<svg")
    ('image/gif', None)
    """
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "image/webp"
    return None
