"""What the base install does where Linux's own names are missing, as on macOS and Windows.

Run as a process of its own: other_system.py STORE... The libraries are imported first, since they
are ported by others; then the names are taken away, and clipfeat is imported. Prints as JSON what
came of it.
"""

import contextlib
import io
import json
import mmap
import os
import signal
import sys
from typing import Any

import click
import dask.base
import dask.delayed
import numcodecs
import numpy as np
import pyarrow.parquet
import tqdm

assert all((click, dask.base, dask.delayed, numcodecs, pyarrow.parquet, tqdm))

MODULES = ("fcntl", "resource", "pwd", "grp", "termios")
DEPTHS = ("--quick", "--deep")
EXTRAS = ("distributed", "torch", "PIL")  # that the base install does not bring
NAMES = {
    os: (
        *("sched_getaffinity", "sched_setaffinity", "register_at_fork", "memfd_create"),
        *("posix_fadvise", "POSIX_FADV_DONTNEED", "posix_fallocate", "copy_file_range", "sendfile"),
        *("pread", "preadv", "pwrite", "pwritev", "readv", "writev"),
        *("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "O_SYNC", "O_TMPFILE"),
        *("fchmod", "fchown", "chown", "fork", "forkpty", "getuid", "geteuid", "getpgid", "killpg"),
        *("setsid", "uname", "statvfs", "mkfifo", "pidfd_open", "WNOHANG", "waitid", "sysconf"),
    ),
    signal: ("SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGCHLD", "pthread_sigmask", "alarm"),
    mmap: ("MAP_SHARED", "MAP_PRIVATE", "MAP_ANONYMOUS", "PROT_READ", "PROT_WRITE", "MADV_RANDOM"),
}


def main(paths: list[str]) -> None:
    for module, names in NAMES.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    for name in (*MODULES, *EXTRAS):
        sys.modules[name] = None  # pyright: ignore[reportArgumentType]  importing it fails now

    import clipfeat.manifests
    import clipfeat.train.run
    from clipfeat.base.errors import UsageError
    from clipfeat.base.files import try_lock
    from clipfeat.base.machine import usable_cores
    from clipfeat.featstore.audit import repair, verify
    from clipfeat.featstore.writing import lock, writer

    assert all((clipfeat.manifests, clipfeat.train.run, repair, verify, lock, writer))

    found = {"cores": usable_cores(), "stores": [outcome(path) for path in paths]}
    with open(__file__) as file:  # noqa: PTH123 - Path may not be ported
        try:
            try_lock(file.fileno())
        except UsageError as error:
            found["lock"] = error.code
    print(json.dumps(found))


def outcome(path: str) -> dict[str, Any]:
    """Return what reading and every reading command make of a store."""
    from clipfeat.cli.main import clipfeat as command
    from clipfeat.featstore import FeatureStore, lookup

    def said(*words: str) -> str:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            command.main(["store", *words, path], standalone_mode=False)
        return out.getvalue()

    found = {}
    for how, limit in (("read", lookup.READ_BYTES), ("mapped", 0)):
        lookup.READ_BYTES = limit
        store = FeatureStore.open(path)
        batch = store.read(store)
        assert batch.pooled is not None
        arrays = (batch.features, batch.pooled, store[store.ids[0]])
        found[how] = [array.astype(np.float64).tolist() for array in arrays]
    for name in ("info", "ls", "stats", "digest"):
        found[name] = json.loads(said(name, "--json"))
    found["verify"] = [json.loads(said("verify", depth, "--json"))["ok"] for depth in DEPTHS]
    found["text"] = said("info") + said("ls") + said("stats") + said("verify")
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
