"""What self-critical training gives on the demo, over seeds, and what the features are worth.

make bench-caption                 # or: BENCH="--seeds 0"

For each seed the `demo` preset, both stages; for the first seed the blind twin of the first stage, too.
All as the command line does, one thread each; CIDEr of greedy captions of the test split, as the
library computes it, times 100. Finished runs are not trained again.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from .command import clipfeat


def train(demo: Path, name: str, *more: object) -> Path:
    """Return the run folder of a training, which goes on where it was cut off."""
    run = demo / "captions" / name
    paths = ("--store", demo / "scenes.clipfeat", "--data", demo / "data/captions", "--out", run)
    clipfeat("train", "caption", "demo", *paths, *more, "--device", "cpu", "--json")
    return run


def cider(stage: Path) -> float:
    """Return the CIDEr of a stage's captions of the test split, times 100."""
    told = clipfeat("eval", "caption", stage, "--split", "test", "--device", "cpu", "--json")
    return 100 * json.loads(told)["CIDEr"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        run = train(arguments.demo, f"seed-{seed}", "--set", f"seed={seed}")
        rows.append((cider(run / "xe"), cider(run / "scst")))
    first = arguments.seeds[0]
    sets = ("--set", f"seed={first}", "--set", "blind=true", "--stage", "xe")
    blind = cider(train(arguments.demo, f"blind-{first}", *sets) / "xe")
    print("| seed | `xe` | `scst` | gain |")
    print("|---|---|---|---|")
    for seed, (xe, scst) in zip(arguments.seeds, rows, strict=True):
        print(f"| {seed} | {xe:.1f} | {scst:.1f} | {scst - xe:+.1f} |")
    gains = np.array([scst - xe for xe, scst in rows])
    print(f"mean gain {gains.mean():+.1f}; blind twin of `xe` {blind:.1f}, ", end="")
    print(f"features are worth {rows[0][0] / blind:.1f} times that")


if __name__ == "__main__":
    main()
