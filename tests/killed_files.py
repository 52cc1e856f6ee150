"""Kill an export to files at steps that change the disk; then run it to its end.

Run as a process of its own: killed_files.py FORMAT FOLDER TIMES. Prints a line of JSON with the
outcome of an undisturbed run, then one for each kill; see killed_derivation.py.
"""

import json
import shutil
import signal
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import h5py
import lmdb
import numpy as np
from kill_steps import Steps, Tell, end, start, told_by
from published_files import read_mmf_lmdb, read_tars, write_mmf_npy
from published_tables import some_regions

from clipfeat.featstore import FeatureStore
from clipfeat.featstore.exchange import (
    destination,
    export_features,
    gridfeats,
    import_features,
    lmdbs,
    m2,
    npyfolders,
    open_reader,
    webdataset,
)

MODULES = h5py, lmdb, gridfeats, m2, npyfolders  # imported here, and not in each child


def run(name: str, folder: Path) -> None:
    destination.BATCH, lmdbs.BATCH_BYTES, webdataset.SHARD_SAMPLES = 3, 15_000, 3
    export_features(FeatureStore.open(folder / "source"), folder / "out", format=name)


def outcome(name: str, folder: Path) -> Any:
    """Return names and hashes of all files; of containers, of what is in them."""
    out = folder / "out"
    if name == "mmf-lmdb":  # where its pages lie depends on its transactions
        found = {key: repr(value).encode() for key, value in read_mmf_lmdb(out).items()}
    elif name == "webdataset":
        found = {f"{k}.{e}": c for k, s in read_tars(out).items() for e, c in s.items()}
        found["names"] = repr(sorted(path.suffix for path in out.iterdir())).encode()
    elif name == "m2-hdf5":
        with h5py.File(out) as file:
            found = {key: file[key][()].tobytes() for key in file}  # pyright: ignore
    else:
        found = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    beside = sorted(path.name for path in folder.glob("out*"))
    return [beside, sorted((key, sha256(value).hexdigest()) for key, value in found.items())]


def run_counted(name: str, folder: Path, last: int | None, tell: Tell) -> None:
    steps = Steps(last, lambda *step: tell(step), all_threads=True)
    steps.install()
    commit = lmdbs.LmdbWriter._commit

    def counted(writer: lmdbs.LmdbWriter) -> None:  # LMDB's own writes are no steps of Python's
        steps.before("commit", folder / "out")
        commit(writer)
        steps.before("committed", folder / "out")

    lmdbs.LmdbWriter._commit = counted  # pyright: ignore
    run(name, folder)


def redo(name: str, folder: Path) -> dict[str, Any]:
    run(name, folder)
    return {"outcome": outcome(name, folder)}


def clear(folder: Path) -> None:
    for path in folder.glob("out*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def main(name: str, folder: Path, times: int) -> None:
    write_mmf_npy(folder / "files", some_regions(map(str, range(8)), dim=512, most=4))
    import_features(open_reader("mmf-npy", [folder / "files"]), folder / "source")
    code, steps = end(*start(lambda tell: run_counted(name, folder, None, tell)))
    assert code == 0, code
    print(json.dumps({"outcome": outcome(name, folder), "steps": len(steps)}))
    for last in np.linspace(0, len(steps) - 1, times).astype(int).tolist():
        clear(folder)
        code, _ = end(*start(lambda tell, n=last: run_counted(name, folder, n, tell)))
        assert code == -signal.SIGKILL, code
        print(json.dumps({"step": last, **told_by(lambda tell: tell(redo(name, folder)))}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
