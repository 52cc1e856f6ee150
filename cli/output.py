"""Standard output of commands: all of it, since names and texts in it may come from anywhere.

`print` and not click's `echo`, which writes UTF-8 to a terminal that says it has ASCII alone.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator

from ..base.text import printable_lines


def show(record: object, lines: str, *, as_json: bool) -> None:
    """Print a result: `record` as JSON for scripts, or `lines` for people.

    What a terminal would act on is printed as its escape, in JSON too.
    """
    print(json.dumps(record, indent=1) if as_json else printable_lines(lines))


def tell(lines: str) -> None:
    """Print lines for people, made printable."""
    print(printable_lines(lines))


def json_text(record: object, indent: int | None = None) -> str:
    """Return JSON in which letters of any script stay; what a terminal acts on is escaped."""
    text = json.dumps(record, ensure_ascii=False, indent=indent)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


@contextlib.contextmanager
def patient_stdout() -> Iterator[None]:
    """Let a block print to a pipe whose reader may leave (`| head`): it ends there, quietly."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more as it exits; what is left must go somewhere.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
