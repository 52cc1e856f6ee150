"""Standard output of commands that print a lot, or texts from elsewhere."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator

import click

from ..base.text import printable_lines


def show(record: object, lines: str, *, as_json: bool) -> None:
    """Print a result: `record` as JSON for scripts, or `lines` for people.

    Names in it may come from anywhere; what a terminal would act on is printed as its escape.
    """
    click.echo(json.dumps(record, indent=1) if as_json else printable_lines(lines))


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
