"""Standard output of commands, made printable: names and texts in it may come from anywhere.

`store ls` and `predict caption` write lines themselves: tabs between columns that are printable.

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
    if as_json:
        show_json(record)
    else:
        tell(lines)


def tell(lines: str) -> None:
    """Print lines for people, made printable."""
    print(printable_lines(lines))


def show_json(record: object) -> None:
    """Print a result for scripts."""
    print(json_text(record, indent=1))


def json_text(record: object, indent: int | None = None) -> str:
    """Return JSON in which letters of any script stay; what a terminal acts on is escaped.

    Where stdout is not UTF-8 all but ASCII is: its own escapes would not be JSON's.
    """
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(record, ensure_ascii=not utf8, indent=indent)
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
