"""Standard output of commands: all of it, since names and texts in it may come from anywhere."""

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

    What a terminal would act on is printed as its escape, in JSON too.
    """
    click.echo(json.dumps(record, indent=1) if as_json else printable_lines(lines))


def tell(lines: str) -> None:
    """Print lines for people, made printable."""
    click.echo(printable_lines(lines))


def json_text(record: object, indent: int | None = None) -> str:
    """Return JSON in which letters of any script stay; what a terminal acts on is escaped."""
    text = json.dumps(record, ensure_ascii=False, indent=indent)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


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
