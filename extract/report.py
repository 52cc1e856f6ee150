"""What an extraction came to, for a person, a script and the file beside the store."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..base.files import write_atomically
from ..featstore import FeatureStore, IndexRow
from ..featstore.refused import reasons, reasons_text
from .profile import Spent


@dataclass(frozen=True)
class Report:
    """What an extraction came to."""

    store: FeatureStore
    refused: tuple[IndexRow, ...]
    images: int  # extracted by this run
    bytes: int  # of features, written by this run
    seconds: float  # from the first image's file to the finished store
    spent: Spent

    def to_json(self) -> dict[str, Any]:
        """Return the same for scripts; rates are None if nothing was left to do."""
        return {
            "store": str(self.store.path),
            "digest": self.store.digest,
            "counts": self.store.card["counts"],
            "refused": reasons(self.refused),
            "images": self.images,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "images_per_second": self.images / self.seconds if self.images else None,
            "device_waited": self.spent.waited if self.images else None,
            "stage_seconds": asdict(self.spent),
        }

    def text(self) -> str:
        """Return lines for a person."""
        n = len(self.store)
        speed = (
            f", {self.images / self.seconds:.1f} images/s, device waited {100 * self.spent.waited:.0f} %"
            if self.images
            else ""
        )
        lines = [f"{self.store.path}: {n} records{speed}, digest {self.store.digest[:16]}..."]
        if self.refused:
            lines.append(f"{len(self.refused)} images gave no record: {reasons_text(self.refused)}")
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Write the figures to `path`."""
        write_atomically(path, json.dumps(self.to_json(), indent=2).encode())


def run_file(store: Path) -> Path:
    """Return where the figures of a store's last run lie: beside it, since they are no part of it.

    >>> run_file(Path("coco.clipfeat"))
    PosixPath('coco.run.json')
    """
    return store.with_name(f"{store.name.removesuffix('.clipfeat')}.run.json")
