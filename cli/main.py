"""The `clipfeat` command; it imports no heavy package, so that --help is instant."""

import io
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..base import clipfeat_version
from ..base.errors import ClipfeatError, reason_of
from ..base.interruption import interrupt
from ..base.text import log_to_terminal
from .card import card
from .data import corpus, demo_data, demo_houses
from .derive import convert, merge, pool, reshard, subset
from .doctor import doctor
from .eval import compare, eval_
from .eval_nav import nav as eval_nav
from .exchange import export, import_
from .extract import extract
from .manifest import manifest
from .nav import nav
from .predict import predict
from .rerun import rerun
from .sharing import diff, pull, push, serve, sign
from .store import store
from .train import train
from .view import view

logger = logging.getLogger(__name__)

INTERRUPTED, TERMINATED = 130, 143  # the shell's exit codes for Ctrl-C and SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM, which schedulers send; it acts like Ctrl-C, with another exit code."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(clipfeat_version(), prog_name="clipfeat")
def clipfeat() -> None:
    """Frozen CLIP grid features: extract them once, verify, share, train.

    \b
    $ clipfeat extract --model RN50x4 --gpus 8     # ./images -> a feature store
    $ clipfeat train vqa --store images-RN50x4-caption448.clipfeat --data vqa/ --out run
    """


for command in (
    doctor, manifest, extract, store, corpus, train, eval_, predict, compare, rerun,
    import_, export, nav, view, demo_data, demo_houses,
):  # fmt: skip
    clipfeat.add_command(command)
for command in (
    card, serve, pull, push, sign, diff, subset, merge, convert, pool, reshard,
):  # fmt: skip
    store.add_command(command)
eval_.add_command(eval_nav)
# Of an interrupted one, the same command line continues where it stopped.
RESUMED = (
    extract, rerun, *train.commands.values(), pull, push, subset, merge, convert, pool, reshard,
    import_, export,
)  # fmt: skip


def main() -> None:
    """Run the command line; an error that a user can fix becomes one line on stderr."""
    # torch's threads spin while they wait for each other. If other processes need the cores, this
    # makes training 15 times slower; sleeping costs at most a fifth (docs/log.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in ("stdout", "stderr"):  # Python has None where the shell closed one: >&-
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - until the process ends
    log_to_terminal()
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell may have it ignored
        signal.signal(signal.SIGINT, _interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):  # characters that it cannot encode are escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.exit(clipfeat.main(standalone_mode=False))
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        logger.error(shown.getvalue().rstrip())
        sys.exit(error.exit_code)
    except click.Abort as abort:
        terminated = isinstance(abort.__cause__, Terminated)
        event = "Terminated" if terminated else "Interrupted"
        is_resumed = called_command(sys.argv[1:]) in RESUMED
        logger.error(event + ("; run the same command again to resume" if is_resumed else ""))
        sys.exit(TERMINATED if terminated else INTERRUPTED)
    except ClipfeatError as error:
        code = f" [{error.code}]" if error.code else ""
        logger.error(f"Error: {error}{code}")
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a folder without permission
        logger.error(f"Error: {format_os_error(error)}")
        sys.exit(1)
    finally:  # a signal while Python exits ends it without a traceback
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)


def called_command(arguments: Sequence[str]) -> click.Command:
    """Return the command that a command line calls; groups have no options before its name."""
    command: click.Command = clipfeat
    for name in arguments:
        if not isinstance(command, click.Group) or name not in command.commands:
            break
        command = command.commands[name]
    return command


def format_os_error(error: OSError) -> str:
    """Return what went wrong with which file, which is named once.

    The system's reasons are followed by the file's name; it precedes ours, like "is a folder".
    """
    reason, file = reason_of(error), error.filename
    if file is None or isinstance(file, int) or os.fsdecode(file) in reason:
        return reason
    is_systems = error.errno is not None and reason == os.strerror(error.errno)
    return f"{reason}: {os.fsdecode(file)}" if is_systems else f"{os.fsdecode(file)} {reason}"


def _interrupt(*_: Any) -> None:
    interrupt()  # the threads that the main thread waits for
    raise KeyboardInterrupt


def _terminate(*_: Any) -> None:
    interrupt()
    raise Terminated
