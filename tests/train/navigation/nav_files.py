"""Files of R2R, RxR and connectivity as others write them, for a house of five viewpoints.

A(0,0) B(2,0) C(5,0) D(5,4) E(2,4), edges AB 2 m, BC 3, CD 4, BE 4, ED 3: the worked cases of
test_walk_scores.py. Viewpoint X is excluded, and Y has no edge.
"""

import gzip
import json
from pathlib import Path
from typing import Any

PLACES = {"A": (0, 0), "B": (2, 0), "C": (5, 0), "D": (5, 4), "E": (2, 4), "X": (1, 1), "Y": (9, 9)}
EDGES = ("AB", "BC", "CD", "BE", "ED", "AX")


def write_graph(folder: Path, scan: str) -> None:
    """Write SCAN_connectivity.json; the viewpoints' names begin with the scan's."""
    folder.mkdir(parents=True, exist_ok=True)
    panoramas = [
        {
            "image_id": f"{scan}-{name}",
            "pose": [1, 0, 0, x, 0, 1, 0, y, 0, 0, 1, 1.5, 0, 0, 0, 1],
            "included": name != "X",
            "visible": [True] * len(PLACES),
            "unobstructed": [name + other in EDGES or other + name in EDGES for other in PLACES],
            "height": 1.5,
        }
        for name, (x, y) in PLACES.items()
    ]
    (folder / f"{scan}_connectivity.json").write_text(json.dumps(panoramas))


def path(names: str, scan: str = "house") -> list[str]:
    return [f"{scan}-{name}" for name in names]


def r2r(path_id: int, names: str = "ABCD", **changes: Any) -> dict[str, Any]:
    record = {
        "distance": 9.0,
        "scan": "house",
        "path_id": path_id,
        "path": path(names),
        "heading": 1.5,
        "instructions": [
            "Walk past the table.",
            "Go to the end, and turn left.",
            "Wait by the door.",
        ],
    }
    return record | changes


def rxr(instruction_id: int, names: str = "ABCD", **changes: Any) -> dict[str, Any]:
    record = {
        "split": "val_unseen",
        "instruction_id": instruction_id,
        "annotator_id": 7,
        "language": "en-IN",
        "path_id": instruction_id // 3,
        "scan": "house",
        "path": path(names),
        "heading": 0.25,
        "instruction": "You are facing a door. Turn around.",
        "timed_instruction": [{"word": "You", "start_time": 0.1, "end_time": 0.4}],
        "edit_distance": 0.1,
    }
    return record | changes


def write_r2r(folder: Path, split: str, records: list[Any]) -> Path:
    file = folder / f"R2R_{split}.json"
    file.write_text(json.dumps(records))
    return file


def write_rxr(folder: Path, split: str, records: list[Any], *, packed: bool = False) -> Path:
    content = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    file = folder / f"rxr_{split}_guide.jsonl{'.gz' if packed else ''}"
    file.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    return file
