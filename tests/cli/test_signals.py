"""Signals that come when a command has done its work."""

import signal
import subprocess
import sys

import pytest

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
