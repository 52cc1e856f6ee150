"""What commands share: options, and how results are printed."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from ..base.errors import UsageError
from ..base.files import COPY_IT, local_path
from ..base.text import is_url, tell

REFUSED = ("missing", "undecodable", "too_large", "unsupported", "failed")


class StatusList(click.ParamType):
    """Statuses of ids that have no record, separated by commas; and those in `more`."""

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
    """A path on this machine; a URL is an error, and `remedy` says what to do instead."""

    def __init__(self, remedy: str = COPY_IT, **options: Any):
        super().__init__(path_type=Path, **options)
        self._remedy = remedy

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str):
            local_path(value, remedy=self._remedy)
        return super().convert(value, param, ctx)


class StorePath(LocalPath):
    """A store: a folder on this machine, or a URL, which stays a text."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and is_url(value):
            return value
        return super().convert(value, param, ctx)


def _use_cache(_ctx: click.Context, _parameter: click.Parameter, folder: Path | None) -> None:
    """Set the folder of the cache for this process and those that it starts."""
    if folder is not None:
        os.environ["CLIPFEAT_CACHE"] = str(folder.absolute())


cache = click.option(
    "--cache",
    type=LocalPath(file_okay=False),
    expose_value=False,
    callback=_use_cache,
    metavar="DIR",
    help="Folder for what is fetched of a store at a URL.  [default: ~/.cache/clipfeat]",
)
model_config = click.option(
    "--model-config",
    metavar="FILE",
    help="An architecture of your own: JSON in open_clip's format (docs/backbones.md).",
)
ema = click.option("--ema", is_flag=True, help="Use the averaged weights of a checkpoint.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
break_lock = click.option(
    "--break-lock", is_flag=True, help="Take over the lock of a dead process on another host."
)
skip_missing = click.option(
    "--skip-missing",
    type=click.IntRange(min=0),
    metavar="N",
    help="Tolerate up to N texts of a split whose image has no features.",
)
device = click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    help="Where to compute.  [default: a GPU if there is one]",
)
file_ids = click.option(
    "--ids",
    type=click.Choice(["stem", "path"]),
    default="stem",
    show_default=True,
    help="Ids of files in a folder, or in a list without ids: name or path, without the ending.",
)
from_run = click.option(
    "--init",
    type=LocalPath(),
    metavar="RUN",
    help="Run to start from; it determines the model. vqa and ve start from a run of pre-training or "
    "of either, caption and pretrain from one of their own; nav's model map takes the text encoder of a "
    "run of pre-training.",
)
list_settings = click.option(
    "--settings",
    "list_settings",
    is_flag=True,
    is_eager=True,
    help="Print every setting with its meaning, as a TOML file, and exit.",
)


class InputOption(click.Option):
    """A required option, but not with --settings, which reads nothing."""

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        if ctx.params.get("list_settings") and self.value_is_missing(value):
            return None
        return super().process_value(ctx, value)


Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def with_options(*options: Decorator) -> Decorator:
    """Return a decorator that gives a command several options, in the order of its help."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def training(data_help: str) -> Decorator:
    """Return a decorator that gives a command of `clipfeat train` its options."""
    return with_options(
        click.argument("config", required=False),
        training_inputs(data_help, "Change a setting, such as --set epochs=3. May be repeated."),
        from_run,
        skip_missing,
        list_settings,
        as_json,
    )


def training_inputs(data_help: str, set_help: str) -> Decorator:
    """Return a decorator that gives a command that trains what `cli.train.run_training` reads."""
    a_path = LocalPath()
    return with_options(
        click.option(
            "--store",
            cls=InputOption,
            required=True,
            type=StorePath(),
            help="Feature store to read, or its URL.",
        ),
        cache,
        click.option(
            "--pull-first",
            type=LocalPath(file_okay=False),
            metavar="DIR",
            help="Copy the store from its URL to DIR first, and train on the copy.",
        ),
        click.option("--data", cls=InputOption, required=True, type=a_path, help=data_help),
        click.option(
            "--out",
            cls=InputOption,
            required=True,
            type=a_path,
            help="Folder of the run. An interrupted run resumes.",
        ),
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="KEY=VALUE",
            help=set_help,
        ),
        click.option(
            "--gpus",
            metavar="N|0,3|3,",
            help="GPUs to train on: a count (8), their numbers (0,3), or one number (3,).",
        ),
        click.option(
            "--profile", is_flag=True, help="Print where the time went, with waiting for data."
        ),
        device,
    )


# What, with a split, makes an `EvalRequest`.
scored_on = with_options(
    click.option(
        "--store", type=StorePath(), help="Feature store, or its URL.  [default: that of the run]"
    ),
    cache,
    click.option(
        "--data", type=LocalPath(), help="Folder of the data.  [default: that of the run]"
    ),
    skip_missing,
    device,
)


def refuse(options: dict[str, Any], given: str) -> None:
    """Raise UsageError if one of `options`, which do not go with `given`, was passed."""
    for name, value in options.items():
        if value is not None and value is not False:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{given} and {option} exclude each other; drop one of them",
                code="E-OPTION-EXCLUDES",
            )


def show(record: object, lines: str, *, as_json: bool) -> None:
    """Print a result: `record` as JSON for scripts, or `lines` for people.

    Characters that a terminal would act on are printed as escapes, in JSON too.
    """
    if as_json:
        show_json(record)
    else:
        tell(lines)


def show_json(record: object) -> None:
    """Print a result for scripts."""
    print(json_text(record, indent=1))


def json_text(record: object, indent: int | None = None) -> str:
    """Return JSON with the letters of all scripts; what a terminal would act on is escaped.

    If stdout is not UTF-8, everything but ASCII is escaped: stdout's own escapes are not JSON.
    """
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(record, ensure_ascii=not utf8, indent=indent)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


@contextlib.contextmanager
def patient_stdout() -> Iterator[None]:
    """End a block without an error when the reader of its output leaves, as `| head` does."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout again when it exits; what is left must go somewhere.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
