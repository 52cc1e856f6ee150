"""Signals that come when a command has done its work."""

import signal
import subprocess
import sys

import pytest
from stores import ONE_CELL, make_identity

from clipfeat.featstore import write_store

LATE = """
import atexit, os, sys
from clipfeat.cli.main import main

atexit.register(os.kill, os.getpid(), int(sys.argv.pop()))
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_the_very_end_shows_no_traceback(number):
    command = [sys.executable, "-c", LATE, "--version", str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.startswith("clipfeat, version")
    assert (done.returncode, done.stderr) == (-number, "")


def test_a_closed_stdout_shows_no_traceback(tmp_path):
    """As the shell's >&- does; what would have been printed is lost."""
    write_store(tmp_path / "s", make_identity(4), {"a": ONE_CELL}, lambda _: None)
    code = "import os; os.close(1); os.execvp(os.sys.executable, os.sys.argv[1:])"
    command = ["-m", "clipfeat.cli", "store", "info", str(tmp_path / "s")]
    done = subprocess.run(
        [sys.executable, "-c", code, sys.executable, *command], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
