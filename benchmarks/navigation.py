"""The navigation environment: steps a second, beside plain Python, and preparing 90 scans.

python -m benchmarks.navigation [--scans 90] [--dim 512] [--batch 64] [--device cpu]

The scans are made: as many, as large and as dense as those of Matterport3D, with files of that size. Features
are random. A step is what an agent needs for one action of each episode: views, candidates, angles,
the teacher's action, the distance to the goal, and the move. Plain Python does it for one agent after
the other: by the walk through 36 views, as the published code does at a viewpoint that it sees for the
first time, and with the candidates kept, as it does from then on. The aim is 50 times as many steps as
with the walk. Without features, of which one channel is left, the graphs alone are measured. Then an
update of the follower (follower.py).
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import follower
from benchmarks.plain_simulator import Candidate, PlainSimulator, move_to, walk_views
from clipfeat.train.navigation.candidates import find_candidates
from clipfeat.train.navigation.environment import Environment, Episodes, State
from clipfeat.train.navigation.graphs import SUFFIX, Scan, read_scans
from clipfeat.train.navigation.views import HEADINGS, VIEW_ELEVATIONS, VIEW_HEADINGS, VIEWS, angle4

SIZES = (8, 348)  # viewpoints of the smallest and the largest scan of Matterport3D
NEAREST = 3  # neighbours that each is linked to; both ways, that gives a mean degree of about 4
NODES = range(4, 8)  # viewpoints of R2R's paths
STEPS = 10  # of an episode
SECONDS = 3  # for each measure
ANGLES = 32  # times that published agents repeat an angle's four numbers
MAX_SECONDS = 20  # of preparing: the aim


def sizes(scans: int) -> np.ndarray:
    """Return how many viewpoints each scan has: from the smallest to the largest, with their mean."""
    spread = np.linspace(0, 1, scans) ** 2.12
    return (SIZES[0] + spread * (SIZES[1] - SIZES[0])).round().astype(int)


def write_scans(folder: Path, scans: int) -> None:
    """Write connectivity files of houses whose viewpoints lie on floors at random."""
    rng = np.random.default_rng(0)
    for number, n in enumerate(sizes(scans)):
        side = np.sqrt(n) * 2
        floors = rng.integers(0, 3, n)
        places = np.column_stack([rng.uniform(0, side, (n, 2)), floors * 3 + rng.normal(0, 0.1, n)])
        apart = np.linalg.norm(places[:, None] - places, axis=-1) + np.eye(n) * 1e9
        linked = np.zeros((n, n), bool)
        for a, row in enumerate(np.argsort(apart, axis=1)[:, :NEAREST]):
            linked[a, row] = linked[row, a] = True
        panoramas = [
            {
                "image_id": f"{number:02}{a:030}",
                "pose": [1, 0, 0, x, 0, 1, 0, y, 0, 0, 1, z, 0, 0, 0, 1],
                "included": True,
                "visible": links,
                "unobstructed": links,
                "height": 1.5,
            }
            for a, ((x, y, z), links) in enumerate(
                zip(places.tolist(), linked.tolist(), strict=True)
            )
        ]
        (folder / f"house{number:02}{SUFFIX}").write_text(json.dumps(panoramas))


def per_second(call: Callable[[], int]) -> float:
    """Return how many steps a second are taken; `call` takes some and says how many."""
    call()
    steps, start = 0, time.perf_counter()
    while (took := time.perf_counter() - start) < SECONDS:
        steps += call()
    return steps / took


def in_batches(environment: Environment, episodes: Episodes, device: torch.device) -> int:
    """Take STEPS steps of all episodes towards their goals; who arrives starts again."""
    state = episodes.start
    for _ in range(STEPS):
        environment.observe(state)
        environment.distances(state.viewpoints, episodes.goals)
        actions = environment.shortest_actions(state, episodes.goals)
        state = environment.step(state, actions.clamp(min=0))
        state = State(
            torch.where(state.has_stopped, episodes.start.viewpoints, state.viewpoints),
            state.views,
            torch.zeros_like(state.has_stopped),
        )
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return STEPS * len(episodes)


class PlainAgent:
    """An agent of the published kind: one simulator, dictionaries and numpy."""

    def __init__(self, scan: Scan, first: int, features: np.ndarray, start: int, goal: int):
        self._scan, self._features, self._first = scan, features, first
        self._start, self._goal = start, goal
        neighbours = dict(enumerate(scan.neighbours))
        self._simulator = PlainSimulator(scan.positions.tolist(), neighbours)
        self._simulator.new_episode(start, 0, 0)
        self._kept: dict[int, list[Candidate]] = {}

    def candidates(self, *, keep: bool) -> list[Candidate]:
        """Return the candidates by the walk; with `keep`, walk at each viewpoint once."""
        here = self._simulator.viewpoint
        if keep and here in self._kept:
            return self._kept[here]
        heading, elevation = self._simulator.heading, self._simulator.elevation
        self._kept[here] = walk_views(self._simulator)
        self._simulator.new_episode(here, heading, elevation)
        return self._kept[here]

    def step(self, *, keep: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return the views and the candidates, and move to the next viewpoint of the shortest path."""
        candidates = self.candidates(keep=keep)
        here, base = self._simulator.viewpoint, self._simulator.heading
        views = self._features[self._first + here].astype(np.float32)
        rows = [with_angle(views[c.view], c.heading - base, c.elevation) for c in candidates]
        angles = PANORAMA_ANGLES[self._simulator.view % HEADINGS]
        following = self._scan.next_hop[here, self._goal]
        if following == here:
            self._simulator.new_episode(self._start, 0, 0)
        else:
            move_to(self._simulator, next(c for c in candidates if c.viewpoint == following))
        observed = np.stack([*rows, np.zeros(views.shape[1] + 4 * ANGLES, np.float32)])
        return np.concatenate([views, angles], axis=1), observed


def with_angle(view: np.ndarray, heading: float, elevation: float) -> np.ndarray:
    """Return a candidate's row as the published agents have it."""
    angles = [np.sin(heading), np.cos(heading), np.sin(elevation), np.cos(elevation)]
    return np.concatenate([view, np.array(angles * ANGLES, np.float32)])


PANORAMA_ANGLES = np.tile(
    angle4(VIEW_HEADINGS - VIEW_HEADINGS[:HEADINGS, None], VIEW_ELEVATIONS), ANGLES
).astype(np.float32)


def prepare(folder: Path, dim: int) -> tuple[dict[str, Scan], torch.Tensor]:
    """Print how long the parts of the preparation take; return the scans, and random features."""
    start = time.perf_counter()
    scans = read_scans(folder)
    read = time.perf_counter()
    for scan in scans.values():
        find_candidates(scan)
    found = time.perf_counter()
    n = sum(len(scan.viewpoints) for scan in scans.values())
    features = torch.rand(n, VIEWS, dim).half()
    made = time.perf_counter()
    Environment(scans, features)
    done = time.perf_counter()
    links = sum(len(row) for scan in scans.values() for row in scan.neighbours)
    megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"{len(scans)} scans, {n:,} viewpoints, mean degree {links / n:.2f}, {megabytes:.1f} MB")
    print(f"files and shortest paths   {read - start:8.2f} s")
    print(f"candidates alone           {found - read:8.2f} s")
    print(f"environment, candidates in it {done - made:5.2f} s")
    print(f"preparing in all           {read - start + done - made:8.2f} s (aim: {MAX_SECONDS})")
    return scans, features


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=90)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_scans(Path(folder), options.scans)
        scans, features = prepare(Path(folder), options.dim)
    names, paths = random_paths(scans, options.batch)
    device = torch.device(options.device)
    named = by_name(scans, names, paths)
    for what, numbers in (("graphs alone", features[..., :1].clone()), ("with features", features)):
        environment = Environment(scans, numbers.to(device))
        episodes = environment.episodes(names, named, [0.0] * len(names))
        ours = per_second(partial(in_batches, environment, episodes, device))
        counts = (len(scan.viewpoints) for scan in scans.values())
        firsts = dict(zip(scans, itertools.accumulate(counts, initial=0), strict=False))
        agents = [
            PlainAgent(scans[name], firsts[name], numbers.numpy(), path[0], path[-1])
            for name, path in zip(names, paths, strict=True)
        ]
        print(f"{what}, {len(agents)} agents on {device}, {torch.get_num_threads()} threads")
        print(
            f"  environment         {ours:9,.0f} steps/s, {len(agents) / ours * 1e3:.2f} ms a batch"
        )
        for name, keep in (("walks", False), ("keeps candidates", True)):
            plain = per_second(partial(all_agents, agents, keep=keep))
            print(f"  plain, {name:<17}{plain:8,.0f} steps/s: {ours / plain:,.0f} times as many")
    follower.measure(
        scans, features.to(device), partial(random_episodes, scans, 2 * options.batch, NODES)
    )


def random_paths(
    scans: Mapping[str, Scan], count: int, nodes: Collection[int] = range(2, 1000)
) -> tuple[list[str], list[list[int]]]:
    """Return shortest paths of so many viewpoints each, of one scan after the other."""
    rng = np.random.default_rng(0)
    names, paths = [], []
    for name in itertools.cycle(scans):
        scan = scans[name]
        path = scan.path(*rng.integers(0, len(scan.viewpoints), 2).tolist())
        if len(path) in nodes:
            names.append(name)
            paths.append(path)
        if len(names) == count:
            break
    return names, paths


def by_name(
    scans: Mapping[str, Scan], names: Sequence[str], paths: Sequence[Sequence[int]]
) -> list[list[str]]:
    """Return paths with the names of their viewpoints."""
    return [[scans[n].viewpoints[k] for k in path] for n, path in zip(names, paths, strict=True)]


def random_episodes(
    scans: Mapping[str, Scan], count: int, nodes: Collection[int], environment: Environment
) -> Episodes:
    """Return episodes along shortest paths."""
    names, paths = random_paths(scans, count, nodes)
    return environment.episodes(names, by_name(scans, names, paths), [0.0] * count)


def all_agents(agents: Sequence[PlainAgent], *, keep: bool) -> int:
    """Take a step of each agent, and put what they see together."""
    views, candidates = zip(*[agent.step(keep=keep) for agent in agents], strict=True)
    np.stack(views)
    padded = np.zeros((len(agents), max(map(len, candidates)), views[0].shape[1]), np.float32)
    for row, rows in zip(padded, candidates, strict=True):
        row[: len(rows)] = rows
    return len(agents)


if __name__ == "__main__":
    main()
