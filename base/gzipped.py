"""Lines of a text file that gzip has compressed, of bounded length and number."""

import errno
import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from .files import naming, open_plain

MAX_INFLATED = 1 << 33  # bytes of a file; the largest of RxR has less than 1 GB


def gzip_lines(path: Path, longest: int, limit: int = MAX_INFLATED) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, text without its end) of each line of a compressed text file.

    This is `text_lines` of files.py for such files. Raises OSError for a file that cannot be
    opened, is not gzip data, is cut off or damaged, is not UTF-8, or has a line of more than
    `longest` bytes; and where more than `limit` bytes come out of it.
    """
    with (
        os.fdopen(open_plain(path, follow=True), "rb") as packed,
        gzip.GzipFile(fileobj=packed) as file,
        naming(path),
    ):
        number = inflated = 0
        try:
            while line := file.readline(longest + 1):
                number += 1
                inflated += len(line)
                if len(line) > longest:
                    raise OSError(errno.EFBIG, f"line {number} has more than {longest:,} bytes")
                if inflated > limit:
                    raise OSError(errno.EFBIG, f"holds more than {limit:,} bytes")
                text = line.removesuffix(b"\n").removesuffix(b"\r")
                yield number, text.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise OSError(errno.EILSEQ, f"is not UTF-8 text (line {number})") from None
        except EOFError:
            raise OSError(errno.EILSEQ, f"is cut off after line {number}") from None
        except (gzip.BadGzipFile, zlib.error):
            raise OSError(
                errno.EILSEQ, f"is not gzip data, or damaged, after line {number}"
            ) from None
