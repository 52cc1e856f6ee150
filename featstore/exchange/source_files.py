"""The bytes of a source: their hashes, and whether they have changed."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...base.files import sha256_file
from .progress import Progress

FEW_FILES = 16  # of a source, whose contents are hashed; of more, names and sizes


def source_hashes(files: Sequence[Path]) -> dict[str, Any]:
    """Return what names the bytes of a source.

    `source_sha256`: the sha256 of the file, or of each of a few. Of more than FEW_FILES files,
    `listing_sha256`: that of a line of name and size for each, sorted; the index then has the hash
    of each item.
    """
    if len(files) > FEW_FILES:
        root = os.path.commonpath([path.parent for path in files])
        lines = sorted(
            f"{path.relative_to(root).as_posix()}\t{path.stat().st_size}\n" for path in files
        )
        text = "".join(lines).encode(errors="surrogateescape")
        return {"files": len(files), "listing_sha256": hashlib.sha256(text).hexdigest()}
    total = sum(path.stat().st_size for path in files)
    with Progress("hash", total, unit="B") as progress:
        hashes = [sha256_file(path, progress.add) for path in files]
    return {"source_sha256": hashes[0] if len(hashes) == 1 else hashes}


def stamps_of(files: Sequence[Path]) -> list[tuple[int, int]]:
    """Return the size and the time of the last change of each file."""
    stamps: list[tuple[int, int]] = []
    for path in files:
        try:
            status = path.stat()
            stamps.append((status.st_size, status.st_mtime_ns))
        except OSError:  # it is gone
            stamps.append((-1, -1))
    return stamps
