"""Standard output of commands that print a lot, or texts from elsewhere."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def patient_stdout() -> Iterator[None]:
    """Let a block print to a pipe whose reader may leave (`| head`), in any alphabet.

    Once the reader has left, the block ends there, quietly. A character that stdout's encoding
    lacks is printed as its escape.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more as it exits; what is left must go somewhere.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
