"""Kill a derivation of a small store at steps that change the disk; then run it to its end.

Run as a process of its own: killed_derivation.py OPERATION FOLDER TIMES. The operation `receive` is
a subset of a store that this process serves. Prints a line of JSON with
the digest of an undisturbed run, then one for each kill: the step, what a reader saw, the digest in
the end and the problems of the store. Steps are those of kill_steps, of all threads; they are spread
evenly over the run, and their order differs from run to run.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import dask.blockwise
import dask.delayed
import dask.threaded  # noqa: F401
import numpy as np
from kill_steps import Steps, Tell, end, start, told_by
from stores import make_store

from clipfeat.featstore import (
    Depth,
    FeatureStore,
    GridShape,
    StoreError,
    convert,
    pool,
    reshard,
    subset,
    verify,
)
from clipfeat.featstore.sharing.serve import StoreServer

with contextlib.suppress(ImportError):  # dask imports it, where it is installed: not in each child
    import distributed  # noqa: F401

IDS = [f"i{k}" for k in range(8)]
OPERATIONS: dict[str, Any] = {
    "subset": lambda source, out: subset(source, out, ids=IDS[::2]),
    "receive": lambda source, out: subset(source, out, ids=IDS[::2]),
    "reshard": lambda source, out: reshard(source, out, 3),
    "convert": lambda source, out: convert(source, out, dtype="uint8"),
    "pool": lambda source, out: pool(source, out, GridShape(1, 2)),
}


urls: dict[str, str] = {}  # of the source, by operation


def run(operation: str, folder: Path) -> str:
    source = FeatureStore.open(urls.get(operation, folder / "source"))
    return OPERATIONS[operation](source, folder / "out").digest


def run_counted(operation: str, folder: Path, last: int | None, tell: Tell) -> None:
    Steps(last, lambda *step: tell(step), all_threads=True).install()
    run(operation, folder)


def look_and_redo(operation: str, folder: Path) -> dict[str, Any]:
    out = folder / "out"
    try:
        seen = FeatureStore.open(out).digest
    except StoreError:
        seen = None
    digest = run(operation, folder)
    loss = FeatureStore.open(out).metadata.loss is not None
    problems = [problem.text() for problem in verify(out, Depth.DEEP)]
    return {"seen": seen, "digest": digest, "loss": loss, "problems": problems}


def main(operation: str, folder: Path, times: int) -> None:
    rng = np.random.default_rng(0)
    grids = {k: rng.standard_normal((2, 2, 4)).astype(np.float16) for k in IDS}
    make_store(folder / "source", {**grids, "gone": None}, shard_size=3)
    if operation == "receive":
        server = StoreServer(folder / "source", "127.0.0.1", 0)
        Thread(target=server.serve_forever, daemon=True).start()
        urls[operation] = f"{server.url}/source"
        os.environ["CLIPFEAT_CACHE"] = str(folder / "cache")
    code, steps = end(*start(lambda tell: run_counted(operation, folder, None, tell)))
    assert code == 0, code
    digest = FeatureStore.open(folder / "out").digest
    print(json.dumps({"digest": digest}))
    for last in np.linspace(0, len(steps) - 2, times).astype(int).tolist():
        for name in ("out", "cache"):
            shutil.rmtree(folder / name, ignore_errors=True)
        code, told = end(*start(lambda tell, n=last: run_counted(operation, folder, n, tell)))
        assert code == -signal.SIGKILL, code
        found = told_by(lambda tell: tell(look_and_redo(operation, folder)))
        print(json.dumps({"step": told[-1][0], **found}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
