"""Options that several commands share: --json, statuses, --break-lock, those of the trainers."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from ..base.files import local_path
from ..base.text import printable_lines

REFUSED = ("missing", "undecodable", "too_large", "unsupported", "failed")


class StatusList(click.ParamType):
    """Statuses of ids, with commas between them; `ok` only where it makes sense."""

    name = "status"

    def __init__(self, *more: str):
        self._allowed = (*more, *REFUSED)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        statuses = tuple(value.split(",")) if isinstance(value, str) else tuple(value)
        for status in statuses:
            if status not in self._allowed:
                self.fail(f"{status!r} is not one of {', '.join(self._allowed)}", param, ctx)
        return statuses


class LocalPath(click.Path):
    """A path on this machine. A URL is refused as it was typed: a Path would lose a slash of it.

    `remedy` says what to do instead.
    """

    def __init__(self, remedy: str = "give a path on this machine", **choices: Any):
        super().__init__(path_type=Path, **choices)
        self._remedy = remedy

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str):
            local_path(value, remedy=self._remedy)
        return super().convert(value, param, ctx)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
break_lock = click.option(
    "--break-lock", is_flag=True, help="Take over from a dead process on another host."
)
skip_missing = click.option(
    "--skip-missing",
    type=click.IntRange(min=0),
    metavar="N",
    help="Go on where at most N texts of a split are about images without features.",
)
device = click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), help="Default: a GPU where there is one."
)
file_ids = click.option(
    "--ids",
    type=click.Choice(["stem", "path"]),
    default="stem",
    show_default=True,
    help="Ids of the files in a folder: name or path, without the ending.",
)
from_pretraining = click.option(
    "--init", metavar="RUN", help="Pre-training run to start from; it says what the model is."
)


def training(
    data_help: str, *, init: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the decorator that gives a command of `clipfeat train` its options.

    `init` says whether the task can start from a pre-training run.
    """
    a_path = LocalPath()
    options = (
        click.argument("config", required=False),
        click.option("--store", required=True, type=a_path, help="Feature store to read."),
        click.option("--data", required=True, type=a_path, help=data_help),
        click.option(
            "--out",
            required=True,
            type=a_path,
            help="Run folder. A run that was killed goes on where it was.",
        ),
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="KEY=VALUE",
            help="Change one setting, such as --set epochs=3. May be repeated.",
        ),
        *((from_pretraining,) if init else ()),
        click.option(
            "--gpus",
            help="Train on several GPUs: a count (8), their numbers (0,3), or one with a comma (3,).",
        ),
        click.option(
            "--profile", is_flag=True, help="Say where the time went, waiting for data too."
        ),
        skip_missing,
        device,
        as_json,
    )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


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
