"""The ids of a store, as lines or as JSON, one at a time: there may be millions."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from ..base.text import printable
from ..featstore import IndexRow, Status

HEADING = ("image id", "status", "grid", "image size", "reason")
WIDTHS = (24, 11, 7, 11)  # of the columns on a terminal; the first grows with the ids
UNKNOWN = "-"


def as_lines(rows: Iterable[IndexRow], *, terminal: bool) -> Iterator[str]:
    """Yield a line for each row: id, status, grid shape, width x height of the image, reason.

    On a terminal the columns are padded and have a heading; elsewhere tabs part them, for
    `cut` and awk. What is not known, or not there, is a dash.
    """
    if not terminal:
        yield from ("\t".join(_columns(row)) + "\n" for row in rows)
        return
    first, *others = WIDTHS
    for image_id, *rest, reason in chain([HEADING], map(_columns, rows)):
        first = max(first, len(image_id))
        padded = (f"{text:<{width}}" for text, width in zip(rest, others, strict=True))
        yield f"{image_id:<{first}}  {'  '.join(padded)}  {reason}\n"


def _columns(row: IndexRow) -> tuple[str, ...]:
    found = facts(row)
    size = f"{row.width}x{row.height}" if row.width else UNKNOWN
    texts = (found["shape"], size, found["reason"])
    return printable(row.image_id), row.status, *(printable(text or UNKNOWN) for text in texts)


def as_array(rows: Iterable[IndexRow]) -> Iterator[str]:
    """Yield the pieces of a JSON array of `facts`, an object a line."""
    before = "[\n"
    for row in rows:
        yield before + json.dumps(facts(row))
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def facts(row: IndexRow) -> dict[str, Any]:
    """Return what `store ls --json` says of an id; null is what is not known, or not there."""
    return {
        "image_id": row.image_id,
        "status": row.status,
        "reason": row.reason or None,
        # The index has a shape for ids without a record too: the one that was planned.
        "shape": row.shape if row.status == Status.OK else None,
        "width": row.width or None,
        "height": row.height or None,
        "source": row.source or None,
    }
