"""The endings of image files, which say that a file is an image and are no part of an image's id."""

import os

# Those of what Pillow reads for us. A file of such a name is an image until extraction finds that
# it is not.
IMAGES = (
    ".apng .avif .avifs .bmp .gif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jps .jpx .mpo "
    ".pbm .pfm .pgm .pjp .pjpeg .png .pnm .ppm .tif .tiff .webp"
)
SUFFIXES = frozenset(IMAGES.split())


def suffix(path: str) -> str:
    """Return the ending of a file's name, in lower case.

    >>> suffix("a.b/c.tar.GZ"), suffix(".hidden")
    ('.gz', '')
    """
    return os.path.splitext(path)[1].lower()  # noqa: PTH122
