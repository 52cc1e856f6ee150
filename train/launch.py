"""Run a command once for each GPU, as the processes of one group."""

import contextlib
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO

from ..base.machine import usable_cores

logger = logging.getLogger(__name__)

POLL = 0.05  # seconds between looks at the processes
SETTLE = 10.0  # seconds that the first process gets to fail too, if another one failed
GRACE = 30.0  # seconds between SIGTERM and SIGKILL


def in_group() -> bool:
    """Return whether this process is one of a group already, of torchrun's or of `launch`."""
    return "LOCAL_RANK" in os.environ


def is_first() -> bool:
    """Return whether this process is the first of its group, or has no group."""
    return os.environ.get("RANK", "0") == "0"


def launch(command: Sequence[str], processes: int, **environment: str) -> int:
    """Run `command` in so many processes that form a group; return the group's exit code.

    Only the output of the first one is shown, and that of another one if it fails alone or is
    ended by a signal. If one fails, the others are terminated, since they would wait for it. They
    are also terminated if this process ends.
    """
    group = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")
        or str(max(1, usable_cores() // processes)),
        **environment,
    }
    outputs = [tempfile.TemporaryFile() for _ in range(1, processes)]  # noqa: SIM115
    children: list[subprocess.Popen[bytes]] = []
    try:
        for rank, output in enumerate([None, *outputs]):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            children.append(
                subprocess.Popen(
                    command, env=os.environ | group | place, stdout=output, stderr=output
                )
            )
        failed = _wait(children)
        if failed is None:
            return 0
        code = children[failed].returncode
        if failed and (code < 0 or children[0].poll() is None):
            _show(outputs[failed - 1])
        if code < 0:
            logger.info(f"process {failed} of {processes} was ended by signal {-code}")
        return code if code > 0 else 128 - code  # as a shell counts a signal
    finally:
        _end(children)
        for file in outputs:
            file.close()


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Return the rank of the first process that fails, None once all have ended well."""
    while True:
        codes = [child.poll() for child in children]
        failed = [rank for rank, code in enumerate(codes) if code]
        killed = [rank for rank in failed if children[rank].returncode < 0]
        if killed:
            return killed[0]  # the others fail because of it
        if failed:  # mostly all fail for the same reason, which the first one shows
            with contextlib.suppress(subprocess.TimeoutExpired):
                children[0].wait(SETTLE)
            return 0 if children[0].poll() else failed[0]
        if None not in codes:
            return None
        time.sleep(POLL)


def _show(output: IO[bytes]) -> None:
    output.seek(0)
    sys.stderr.write(output.read().decode(errors="replace"))


def _end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    for child in children:
        child.terminate()
    deadline = time.monotonic() + GRACE
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
