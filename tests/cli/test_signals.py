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


EARLY = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, *_):
        if name == "clipfeat.cli.main":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
from clipfeat.cli.__main__ import main
main()
"""
INTERRUPTED = """
import os, signal, sys
from clipfeat.cli.main import clipfeat, main

def interrupt(*_):
    os.kill(os.getpid(), signal.SIGINT)

clipfeat.commands["store"].commands[sys.argv[2]].callback = lambda **_: interrupt()
main()
"""


def test_a_signal_before_the_command_line_is_imported_shows_no_traceback():
    done = subprocess.run(
        [sys.executable, "-c", EARLY, "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("stats", ["s"], "Interrupted"),
        ("pull", ["https://host/s", "t"], "Interrupted; run the same command again to resume"),
    ],
)
def test_only_what_resumes_says_so(name, arguments, text):
    command = [sys.executable, "-c", INTERRUPTED, "store", name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (130, text)


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
