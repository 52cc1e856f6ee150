"""Kill an import or an export at steps that change the disk; then run it to its end.

Run as a process of its own: killed_exchange.py OPERATION FOLDER TIMES. Prints a line of JSON with the
outcome of an undisturbed run, then one for each kill; see killed_derivation.py.
"""

import contextlib
import json
import shutil
import signal
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import dask.blockwise
import dask.delayed
import dask.threaded  # noqa: F401
import numpy as np
from kill_steps import Steps, Tell, end, start, told_by
from published_tables import some_regions, write_bottom_up

from clipfeat.featstore import Depth, FeatureStore, StoreError, verify
from clipfeat.featstore.exchange import export_features, import_features, open_reader

with contextlib.suppress(ImportError):  # dask imports it, where it is installed: not in each child
    import distributed  # noqa: F401

NAMES = {"export": "bottom-up-tsv", "lineidx": "vinvl-tsv"}


def run(operation: str, folder: Path) -> None:
    if operation == "import":
        reader = open_reader("bottom-up-tsv", [folder / "source.tsv"])
        import_features(reader, folder / "out", shard_size=3)
        return
    store = FeatureStore.open(folder / "source")
    export_features(store, folder / "out.tsv", format=NAMES[operation])


def outcome(operation: str, folder: Path) -> Any:
    """Return what there is in the end: a digest, or names and hashes of files."""
    if operation == "import":
        problems = [problem.text() for problem in verify(folder / "out", Depth.DEEP)]
        return [FeatureStore.open(folder / "out").digest, *problems]
    return sorted((p.name, sha256(p.read_bytes()).hexdigest()) for p in folder.glob("out*"))


def is_finished(operation: str, folder: Path) -> bool:
    """Return whether what there is looks finished."""
    if operation != "import":
        return (folder / "out.tsv").exists()
    with contextlib.suppress(StoreError):
        return bool(FeatureStore.open(folder / "out").digest)
    return False


def run_counted(operation: str, folder: Path, last: int | None, tell: Tell) -> None:
    Steps(last, lambda *step: tell(step), all_threads=True).install()
    run(operation, folder)


def look_and_redo(operation: str, folder: Path) -> dict[str, Any]:
    was_finished = is_finished(operation, folder)
    before = (folder / "out.tsv").read_bytes() if was_finished and operation != "import" else b""
    run(operation, folder)
    outcomes = outcome(operation, folder)
    was_whole = not before or before == (folder / "out.tsv").read_bytes()
    return {"outcome": outcomes, "was_whole": was_whole}


def clear(folder: Path) -> None:
    for path in folder.glob("out*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def main(operation: str, folder: Path, times: int) -> None:
    images = some_regions(map(str, range(8)), dim=512, most=2)
    write_bottom_up(folder / "source.tsv", images)
    reader = open_reader("bottom-up-tsv", [folder / "source.tsv"])
    import_features(reader, folder / "source")
    code, steps = end(*start(lambda tell: run_counted(operation, folder, None, tell)))
    assert code == 0, code
    print(json.dumps({"outcome": outcome(operation, folder), "steps": len(steps)}))
    for last in np.linspace(0, len(steps) - 1, times).astype(int).tolist():
        clear(folder)
        code, told = end(*start(lambda tell, n=last: run_counted(operation, folder, n, tell)))
        assert code == -signal.SIGKILL, code
        found = told_by(lambda tell: tell(look_and_redo(operation, folder)))
        print(json.dumps({"step": told[-1][0], **found}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
