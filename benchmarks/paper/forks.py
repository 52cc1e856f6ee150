"""Command lines without the seconds that each would import torch: forks of a process that has it.

As a script this is that process. It reads a command line as JSON from each line of stdin, runs it
to its end in a fork, and writes the exit code.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, Self


class Forks:
    """Runs `clipfeat` command lines one after another; use as a context manager."""

    def __enter__(self) -> Self:
        self._server: Any = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PATH": ""},  # no java: METEOR would take up to a minute
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()

    def __call__(self, words: list[str]) -> tuple[int, str]:
        """Return the exit code of a command line, and what it has printed."""
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "output"
            self._server.stdin.write(json.dumps([str(output), *words]) + "\n")
            self._server.stdin.flush()
            code = int(self._server.stdout.readline())
            return code, output.read_text()


def _serve() -> None:
    import open_clip
    import torch

    import clipfeat.cli.main
    import clipfeat.extract.api
    import clipfeat.train.engine
    import clipfeat.train.tasks.captioning.training
    import clipfeat.train.tasks.navigation.training
    import clipfeat.train.tasks.pretraining.task
    import clipfeat.train.tasks.vqa

    assert open_clip
    assert torch
    assert clipfeat
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the command line, then this
    for line in sys.stdin:
        output, *words = json.loads(line)
        child = os.fork()
        if not child:
            _run(output, words)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(output: str, words: list[str]) -> None:
    """Run a command line in this process, and never return."""
    from clipfeat.cli.main import main

    code: Any = 1
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        printed = os.open(output, os.O_WRONLY | os.O_CREAT, 0o600)
        for number in (1, 2):
            os.dup2(printed, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.argv = words
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    _serve()
