"""Run `clipfeat` command lines as processes that can be stopped, without waiting for torch.

A process that has torch imported and runs no thread forks one for each command line. As a
script this is that process: it reads a request a line on stdin and answers with a line on
stdout. A command line leads a process group of its own, as one that is typed into a shell does.
"""

import contextlib
import ctypes
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from unittest import mock

from clipfeat.cli.main import main


def run_here(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `clipfeat ARGUMENTS...` in this process, which saves starting one, to its end."""
    words = ["clipfeat", *map(str, arguments)]
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with (
        contextlib.chdir(cwd or "."),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch("sys.argv", words),
    ):
        code: str | int | None = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    printed = (stream.buffer.getvalue().decode() for stream in (out, err))
    return subprocess.CompletedProcess(words, int(code or 0), *printed)


class CommandLines:
    """Starts command lines; use as a context manager."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._count = 0

    def __enter__(self) -> Self:
        command = [sys.executable, __file__]
        self._server: Any = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()

    def start(self, *arguments: object, **conditions: Any) -> "CommandLine":
        """Start `clipfeat ARGUMENTS...`.

        Conditions: `largest_file` in bytes from the first shard on: what a full disk looks like;
        `largest_file_at_finish`, the same once every shard is down; `unprivileged=True` to be
        bound by the permissions of files even as root; `python_path`, a folder that comes first
        on the path of the processes that it starts.
        """
        self._count += 1
        output = self._folder / f"output-{self._count}"
        arguments = tuple(map(str, arguments))
        pid = self.ask({"arguments": arguments, "output": str(output), **conditions})
        return CommandLine(pid, output, lambda: self.ask({"wait": pid}))

    def run(self, *arguments: object, **conditions: Any) -> "CommandLine":
        """Run a command line to its end."""
        line = self.start(*arguments, **conditions)
        line.wait()
        return line

    def ask(self, request: dict[str, Any]) -> Any:
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


class CommandLine:
    """A command line that is running or has ended."""

    def __init__(self, pid: int, output: Path, wait: Callable[[], int]):
        self.pid = pid
        self.code: int | None = None
        self._output = output
        self._wait = wait

    def wait(self) -> int:
        """Return the exit code once it has ended; minus the signal if it was killed."""
        if self.code is None:
            self.code = self._wait()
        return self.code

    def end(self, number: signal.Signals, *, group: bool = False) -> int:
        """Send a signal, to all its processes with `group`, and return the exit code."""
        (os.killpg if group else os.kill)(self.pid, number)
        return self.wait()

    def wait_for(self, glob: str, folder: Path) -> None:
        """Wait until a file of this name is there; fail if the command ends before."""
        while not list(folder.glob(glob)):
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
            assert state != "Z", self.errors
            time.sleep(0.001)

    @property
    def text(self) -> str:
        return self._output.with_suffix(".out").read_text()

    @property
    def errors(self) -> str:
        return self._output.with_suffix(".err").read_text()


def _serve() -> None:
    import open_clip
    import pyarrow as pa
    import torch

    import clipfeat.cli.extract
    import clipfeat.extract.api
    import clipfeat.extract.backbones.weights
    import clipfeat.extract.executors.processes

    pa.array([0])  # imports pandas, where it is installed: not in each child
    assert open_clip
    assert torch
    assert clipfeat
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork()
            if not answer:
                _child(**request)
        print(json.dumps(answer), flush=True)


def _child(
    arguments: list[str],
    output: str,
    *,
    largest_file: int | None = None,
    largest_file_at_finish: int | None = None,
    unprivileged: bool = False,
    python_path: str | None = None,
) -> None:
    """Run a command line, and never return."""
    from clipfeat.featstore.writing.writer import ShardTransaction, StoreWriter

    os.setpgid(0, 0)
    # As for a command in the foreground: a test run in the background ignores Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, suffix in ((1, ".out"), (2, ".err")):
        name = str(Path(output).with_suffix(suffix))
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), descriptor)
    if python_path is not None:
        paths = (python_path, os.environ.get("PYTHONPATH"))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    if unprivileged:
        drop_capabilities()
    if largest_file is not None:
        begin = ShardTransaction.__init__

        def limited_from_here(*args: Any, **kwargs: Any) -> None:
            _limit(largest_file)  # not before: the memory of the decoders counts as a file
            begin(*args, **kwargs)

        ShardTransaction.__init__ = limited_from_here
    if largest_file_at_finish is not None:
        commit = StoreWriter.commit

        def limited(*args: Any, **kwargs: Any) -> Any:
            _limit(largest_file_at_finish)
            return commit(*args, **kwargs)

        StoreWriter.commit = limited
    sys.argv = ["clipfeat", *arguments]
    code: Any = 1
    try:
        main()
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def drop_capabilities() -> None:
    """Give up what lets root pass over permissions (capset(2), with its version 3 header)."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, nothing) == 0


def _limit(largest_file: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))


if __name__ == "__main__":
    _serve()
