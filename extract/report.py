"""What an extraction came to, for a person, a script and the file beside the store."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..base.files import write_atomically
from ..featstore import FeatureStore, IndexRow
from ..featstore.refused import reasons, reasons_text, remarks_text
from ..featstore.writing.part import Part
from .running.profile import Spent


@dataclass(frozen=True)
class Report:
    """What an extraction, or one part of it, came to."""

    path: Path  # of the store
    part: Part | None
    finished: FeatureStore | None  # None: a part is down, and other parts may be missing
    refused: tuple[IndexRow, ...]
    images: int  # extracted by this run
    bytes: int  # of features, written by this run
    seconds: float  # from the first image's file to the finished store
    spent: Spent
    remarks: Sequence[dict[str, Any]] = ()  # on images that have a record, counted

    @property
    def store(self) -> FeatureStore:
        """Return the store; a part has none."""
        assert self.finished is not None, "a part of a store is not a store"
        return self.finished

    def to_json(self) -> dict[str, Any]:
        """Return the same for scripts; rates are None if nothing was left to do."""
        return {
            "store": str(self.path),
            "part": str(self.part) if self.part else None,
            "digest": self.store.digest if self.finished else None,
            "counts": self.store.card["counts"] if self.finished else None,
            "refused": reasons(self.refused, most=100),
            "remarks": list(self.remarks),
            "images": self.images,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "images_per_second": self.images / self.seconds if self.images else None,
            "device_waited": self.spent.waited if self.images else None,
            "stage_seconds": asdict(self.spent),
        }

    def text(self) -> str:
        """Return lines for a person."""
        speed = ""
        if self.images:
            rate, waited = self.images / self.seconds, 100 * self.spent.waited
            speed = f", {rate:.1f} images/s, device waited {waited:.0f} %"
        if self.finished is None:
            line = f"{self.path}: part {self.part} is written{speed}; when all parts are, type: "
            line += f"clipfeat store finish {self.path}"
        else:
            digest = self.store.digest[:16]
            line = f"{self.path}: {len(self.store)} records{speed}, digest {digest}..."
        lines = [line]
        if n := len(self.refused):
            lines.append(f"{n} image{'s' * (n != 1)} gave no record: {reasons_text(self.refused)}")
        if self.remarks:
            lines.append(f"extracted, with a remark: {remarks_text(self.remarks)}")
        return "\n".join(lines)

    def write(self) -> None:
        """Write the figures beside the store: they are no part of it."""
        write_atomically(
            run_file(self.path, self.part), json.dumps(self.to_json(), indent=2).encode()
        )


def run_file(store: Path, part: Part | None) -> Path:
    """Return where the figures of a store's last run lie."""
    return beside(store, "run", part, "json")


def beside(store: Path, kind: str, part: Part | None, ending: str) -> Path:
    """Return where a file lies that belongs to a store, or one part of it, and is not in it.

    >>> beside(Path("a.clipfeat"), "run", None, "json").name
    'a.run.json'
    >>> beside(Path("a.clipfeat"), "run", Part(3, 16), "json").name
    'a.run-3-of-16.json'
    """
    which = f"-{part.number}-of-{part.of}" if part else ""
    return store.with_name(f"{store.name.removesuffix('.clipfeat')}.{kind}{which}.{ending}")
