"""Write a part of a store of 15 shards, or all of it, printing and pausing after each shard.

Run as a process of its own: part_process.py STORE K/N|whole PAUSE [NAME OF THE RECIPE]. It prints
`ready`, and begins when it reads a line.
"""

import sys
import time
from pathlib import Path

from interrupted_writer import RECORDS
from stores import encoded_records, make_identity, write_shard

from clipfeat.featstore import GridShape, StoreError
from clipfeat.featstore.layout import Grids, Part, lay_out
from clipfeat.featstore.writing.writer import StoreWriter

IDENTITY = make_identity(16)
SHAPES = dict.fromkeys(RECORDS, GridShape(2, 3))
LAYOUT = lay_out(Grids.of(SHAPES), 4)
ENCODED = encoded_records(IDENTITY, RECORDS)


def writer_of(path: Path, what: str, name: str = "test") -> StoreWriter:
    """Return the writer of a part ("3/4"), or of the whole store ("whole")."""
    identity = make_identity(16, recipe={"name": name})
    part = None if what == "whole" else Part.parse(what)
    return StoreWriter(path, identity, LAYOUT, part=part)


def main(path: Path, what: str, pause: float, *name: str) -> None:
    print("ready", flush=True)
    sys.stdin.readline()
    with writer_of(path, what, *name) as writer:
        for shard in writer.pending:
            write_shard(path, IDENTITY, LAYOUT, shard, ENCODED)
            print(shard.number, flush=True)
            time.sleep(pause)
        if what == "whole":
            writer.commit()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), *sys.argv[4:])
    except StoreError as error:
        sys.exit(f"{error} ({error.code})")
