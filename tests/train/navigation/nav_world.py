"""Small houses whose instructions name the colours of the rooms on the way.

A house has 3 x 3 rooms of different colours, 4 m apart. The view in which a neighbour is seen has the
neighbour's colour, all others have noise. So an agent that sees can follow, and a blind one cannot.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nav_files import write_r2r, write_rxr
from scans import connectivity, write_scan
from stores import make_store

from clipfeat.train.navigation.candidates import find_candidates
from clipfeat.train.navigation.graphs import Scan, read_scan
from clipfeat.train.settings import load_settings
from clipfeat.train.tasks.navigation.settings import NavigationSettings
from clipfeat.train.tasks.navigation.training import train_stages

COLOURS = ("red", "blue", "green", "white", "black", "brown", "pink", "grey", "gold")
SIDE, SPACING, DIM = 3, 4.0, 12
FAST = (
    *("updates=20", "batch_size=16", "eval_every=10", "log_every=1", "checkpoint_every=6"),
    *("min_count=1", "optimizer=adamw", "lr=3e-3", "max_actions=6", "max_tokens=16"),
    "model={name='envdrop', word=16, hidden=32, action=8, angle_repeats=2, dropout=0.1, "
    "feature_dropout=0.0}",
)


def write_house(folder: Path, name: str, rng: np.random.Generator) -> Scan:
    """Write the connectivity file of a house; its viewpoints are named by their colours."""
    rooms = [(x, y) for x in range(SIDE) for y in range(SIDE)]
    places = [(SPACING * x, SPACING * y, 1.5) for x, y in rooms + rng.normal(0, 0.05, (9, 2))]
    edges = [
        (a, b)
        for a, (x, y) in enumerate(rooms)
        for b, (u, v) in enumerate(rooms[:a])
        if abs(x - u) + abs(y - v) == 1
    ]
    panoramas = connectivity(places, edges)
    for panorama, colour in zip(panoramas, rng.permutation(COLOURS), strict=True):
        panorama["image_id"] = str(colour)
    return read_scan(write_scan(folder, name, panoramas))


def features_of(scan: Scan, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the record of each viewpoint."""
    candidates = find_candidates(scan)
    records = {}
    for number, viewpoint in enumerate(scan.viewpoints):
        views = rng.normal(0, 0.1, (36, 1, DIM))
        for row in range(candidates.starts[number], candidates.starts[number + 1]):
            colour = COLOURS.index(scan.viewpoints[candidates.viewpoints[row]])
            views[candidates.views[row], 0, colour] += 2
        records[f"{scan.name}_{viewpoint}"] = views.astype(np.float16)
    return records


def paths_of(scan: Scan) -> list[list[str]]:
    """Return the shortest paths of three and four viewpoints."""
    pairs = np.argwhere(np.isfinite(scan.distances)).tolist()
    paths = [scan.path(a, b) for a, b in pairs]
    return [[scan.viewpoints[n] for n in path] for path in paths if len(path) in (3, 4)]


def text_of(path: Sequence[str]) -> str:
    return f"Go to the {' room, then the '.join(path[1:])} room."


def r2r_record(scan: Scan, path_id: int, path: list[str]) -> dict[str, Any]:
    return {
        "scan": scan.name,
        "path_id": path_id,
        "path": path,
        "heading": 0.5 * (path_id % 12),
        "instructions": [text_of(path)],
    }


def rxr_record(scan: Scan, number: int, path: list[str], language: str) -> dict[str, Any]:
    record = r2r_record(scan, number, path)
    text = record.pop("instructions")[0]
    return {**record, "instruction_id": number, "instruction": text, "language": language}


def make_nav_world(folder: Path, *, houses: int = 4, unseen: int = 1, languages: str = "") -> Path:
    """Write R2R, R2R/connectivity and a store under `folder`; RxR with `languages`, joined by +."""
    rng = np.random.default_rng(7)
    data = folder / "data"
    data.mkdir(parents=True)
    scans = [write_house(data / "connectivity", f"house{n}", rng) for n in range(houses)]
    records = {key: value for scan in scans for key, value in features_of(scan, rng).items()}
    make_store(folder / "views.clipfeat", records, shard_size=16)
    paths = [(scan, path) for scan in scans for path in paths_of(scan)]
    numbered = [
        (number, scan, path, "val_unseen" if scan in scans[houses - unseen :] else kind)
        for number, (scan, path) in enumerate(paths)
        for kind in ["val_seen" if number % 10 == 0 else "train"]
    ]
    for split in ("train", "val_seen", "val_unseen"):
        chosen = [each[:3] for each in numbered if each[3] == split]
        if languages:
            spoken = languages.split("+")
            lines = [
                rxr_record(scan, number, path, spoken[place % len(spoken)])
                for place, (number, scan, path) in enumerate(chosen)
            ]
            write_rxr(data, split, lines)
        else:
            write_r2r(data, split, [r2r_record(s, n, p) for n, s, p in chosen])
    return folder


def nav_settings(*changes: str) -> NavigationSettings:
    return load_settings(NavigationSettings, config=None, assignments=[*FAST, *changes])


def train_nav(
    world: Path, out: Path, *changes: str, stages: tuple[str, ...] = ("follower",)
) -> dict[str, Any]:
    """Train on a world; return the result of each stage."""
    results, _ = train_stages(
        nav_settings(*changes),
        out,
        stages=stages,
        store=world / "views.clipfeat",
        data=world / "data",
        device="cpu",
    )
    return results


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())
