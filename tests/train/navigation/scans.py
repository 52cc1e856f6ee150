"""Connectivity files and scans for tests, written without clipfeat's own functions."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.plain_simulator import PlainSimulator
from clipfeat.train.navigation.graphs import Scan, make_scan

TURNED = (0, -1, 0, 1, 0, 0, 0, 0, 1)  # a rotation that a scanner might have had


def panorama(name: str, position: Sequence[float], linked: Sequence[bool], **changes: Any) -> dict:
    """Return an object of a connectivity file."""
    x, y, z = position
    r = TURNED
    return {
        "image_id": name,
        "pose": [*r[:3], x, *r[3:6], y, *r[6:], z, 0, 0, 0, 1],
        "included": True,
        "visible": [True] * len(linked),
        "unobstructed": list(linked),
        "height": 1.5,
        **changes,
    }


def connectivity(
    positions: Sequence[Sequence[float]], edges: Iterable[tuple[int, int]], names: str | None = None
) -> list[dict]:
    """Return the objects of a file: viewpoints v0, v1, ..., or one for each letter of `names`."""
    n = len(positions)
    linked = [[False] * n for _ in range(n)]
    for a, b in edges:
        linked[a][b] = linked[b][a] = True
    called = names or [f"v{k}" for k in range(n)]
    return [panorama(*each) for each in zip(called, positions, linked, strict=True)]


def write_scan(folder: Path, name: str, panoramas: Any) -> Path:
    """Write a connectivity file."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}_connectivity.json"
    path.write_text(json.dumps(panoramas))
    return path


def random_scan(rng: np.random.Generator, n: int, name: str = "random") -> Scan:
    """Return a scan of n viewpoints, each linked to its nearest and some to any other."""
    positions = rng.normal(size=(n, 3)) * (4, 4, 1)
    far = np.linalg.norm(positions[:, None] - positions, axis=-1) + np.eye(n) * 1e9
    edges = [(a, int(b)) for a in range(n) for b in np.argsort(far[a])[:3]]
    edges += [(int(a), int(b)) for a, b in rng.integers(0, n, (n // 2, 2)) if a != b]
    return make_scan(name, [f"{name}{k}" for k in range(n)], positions, edges)


def simulator(scan: Scan) -> PlainSimulator:
    """Return the plain simulator of a scan."""
    return PlainSimulator(scan.positions.tolist(), dict(enumerate(scan.neighbours)))
