"""The ids of a store that have no record, and why; remarks on those that have one."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from ..base.text import printable
from .format import IndexRow, Status

VIEW = re.compile(r"view \d+: ")  # of a panorama: before what is said of it


def refused_rows(rows: Iterable[IndexRow]) -> tuple[IndexRow, ...]:
    """Return the rows of ids that have no record."""
    return tuple(row for row in rows if row.status != Status.OK)


def reasons(refused: Sequence[IndexRow], most: int = 5) -> list[dict[str, Any]]:
    """Return the most frequent reasons of refusal, each with its number and an id."""
    counts = Counter((row.status, row.reason) for row in refused)
    example = {(row.status, row.reason): row.image_id for row in reversed(refused)}
    return [
        {"images": n, "status": str(why[0]), "reason": why[1], "example": example[why]}
        for why, n in counts.most_common(most)
    ]


def reasons_text(refused: Sequence[IndexRow]) -> str:
    """Return `reasons` for a person's terminal, and how many images have other ones."""
    shown = reasons(refused)
    texts = [
        printable("{images} {status} ({reason}; such as {example})".format_map(why))
        for why in shown
    ]
    others = len(refused) - sum(why["images"] for why in shown)
    return "; ".join(texts + ([f"{others} for other reasons"] if others else []))


def remarks(rows: Iterable[IndexRow], most: int = 10) -> list[dict[str, Any]]:
    """Return the most frequent remarks on images that have a record: number of images, an id.

    An image may have several, parted by semicolons; it counts once for each.
    """
    counts: Counter[str] = Counter()
    example: dict[str, str] = {}
    for row in rows:
        if row.reason and row.status == Status.OK:
            for remark in {VIEW.sub("", text) for text in row.reason.split("; ")}:
                counts[remark] += 1
                example.setdefault(remark, row.image_id)
    return [
        {"images": n, "remark": remark, "example": example[remark]}
        for remark, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
    ]


def remarks_text(found: Sequence[dict[str, Any]]) -> str:
    """Return `remarks` for a person's terminal."""
    return "; ".join(
        printable("{images}: {remark} (such as {example})".format_map(each)) for each in found
    )
