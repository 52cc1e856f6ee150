"""Every VQA model at its demo size against its blind twin, on the demo's store.

make bench-vqa                 # or: BENCH="--presets demo_mcan"

Trains each in turn as the command line does, one thread each, and prints the table and what
`clipfeat compare` says of each pair. Finished runs are not trained again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from .command import clipfeat

PRESETS = ["default", "demo_pythia", "demo_mcan", "demo_movie_mcan"]
AIM = 25.0  # points that the features must be worth


def train(demo: Path, preset: str, *, blind: bool) -> Path:
    """Return the run folder of a preset, trained if it is not there yet."""
    run = demo / "models" / f"{preset}{'-blind' if blind else ''}"
    paths = ("--store", demo / "scenes.clipfeat", "--data", demo / "data" / "vqa", "--out", run)
    twin = ("--set", "blind=true") if blind else ()
    clipfeat("train", "vqa", preset, *paths, *twin, "--device", "cpu", "--profile", "--json")
    return run


def result(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    arguments = parser.parse_args()
    rows = []
    for preset in arguments.presets:
        blind, sighted = (train(arguments.demo, preset, blind=b) for b in (True, False))
        (_, found) = json.loads(clipfeat("compare", blind, sighted, "--json"))
        low, high = found["interval"]
        gain = found["difference"]
        rows.append(
            f"| {preset} | {result(sighted)['overall']:.1f} | {result(blind)['overall']:.1f} | "
            f"{gain:+.1f} [{low:+.1f}, {high:+.1f}] | {'met' if gain >= AIM else '**missed**'} |"
        )
    print(f"| preset | accuracy | blind twin | features are worth [95 %] | aim {AIM:g} |")
    print("|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
