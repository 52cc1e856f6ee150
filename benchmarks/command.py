"""The command line, as benchmarks call it."""

import os
import subprocess
import sys


def clipfeat(*words: object) -> str:
    """Run a command of clipfeat in one thread, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "clipfeat.cli", *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout
