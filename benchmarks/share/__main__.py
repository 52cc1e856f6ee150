"""What sharing costs, as ratios that are measured in one run.

make bench-share                              # all phases but vqa, at small sizes
make bench-share BENCH="--phases pull --gb 2"
make bench-share BENCH="--phases open --ids 10000000"
make bench-share BENCH="--phases batch --gb 20"
make bench-share BENCH="--phases vqa"         # needs the store of make demo; about half an hour

The store is made: 14x14x2048 grids with two thirds zeros. Servers are on loopback, nginx if it is
installed; a slow one is simulated by a program that passes the bytes on. Trust the ratios, not the rates.
"""

import argparse
import tempfile
from pathlib import Path

from .deriving import answering, deriving
from .made import Setting
from .reading import copying, opening, random_reads
from .training import epochs, first_batch

PHASES = {
    "pull": copying,
    "reads": random_reads,
    "open": opening,
    "batch": first_batch,
    "epoch": epochs,
    "derive": deriving,
    "vqa": answering,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = [name for name in PHASES if name != "vqa"]
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=every)
    parser.add_argument("--gb", type=float, default=0.2, help="size of the store")
    parser.add_argument("--images", type=int, default=100, help="that an epoch of training sees")
    parser.add_argument("--records", type=int, default=128, help="of the store to derive from")
    parser.add_argument("--ids", type=int, default=1_000_000, help="of the store to open")
    parser.add_argument("--rate", type=float, default=100, help="MB/s of the slow server")
    parser.add_argument("--latency", type=float, default=40, help="ms a request when opening")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way to do a thing")
    parser.add_argument("--folder", type=Path, default=Path(), help="where files go for a while")
    parser.add_argument("--demo", type=Path, default=Path("demo-out"), help="folder of make demo")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        setting = Setting(
            folder=Path(folder).resolve(),
            bytes=arguments.gb * 1e9,
            images=arguments.images,
            records=arguments.records,
            ids=arguments.ids,
            rate=arguments.rate * 1e6,
            latency=arguments.latency / 1e3,
            rounds=arguments.rounds,
            demo=arguments.demo,
        )
        for name in arguments.phases:
            PHASES[name](setting)
            print(flush=True)


if __name__ == "__main__":
    main()
