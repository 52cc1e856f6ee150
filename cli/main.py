"""The `clipfeat` command group; it imports no heavy package, so that --help is instant."""

import io
import logging
import os
import signal
import sys
from typing import Any

import click

from ..base import clipfeat_version
from ..base.errors import ClipfeatError
from ..base.text import log_to_terminal
from .compare import compare
from .corpus import corpus
from .demo_data import demo_data
from .eval import eval_
from .extract import extract
from .manifest import manifest
from .predict import predict
from .store import store
from .train import train

logger = logging.getLogger(__name__)

INTERRUPTED, TERMINATED = 130, 143  # the shell's exit codes for Ctrl-C and SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM, which a scheduler sends: what Ctrl-C does, and another exit code."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(clipfeat_version(), prog_name="clipfeat")
def clipfeat() -> None:
    """Frozen CLIP grid features: extract once, verify, share, train.

    \b
    $ clipfeat extract --model RN50x4 --gpus 8     # ./images -> a feature store
    $ clipfeat train vqa --store images-RN50x4-caption448.clipfeat --data vqa/ --out run
    """


for command in (manifest, extract, store, corpus, train, eval_, predict, compare, demo_data):
    clipfeat.add_command(command)


def main() -> None:
    """Run the command line: what a user can mend becomes one line on stderr, and an exit code."""
    # torch's threads spin while they wait for each other. Where another process wants the cores
    # too, that makes training 15 times slower; sleeping costs a fifth at most (docs/log.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    log_to_terminal()
    signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a character that its encoding lacks is escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.exit(clipfeat.main(standalone_mode=False))
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        logger.info(shown.getvalue().rstrip())
        sys.exit(error.exit_code)
    except click.Abort as abort:
        terminated = isinstance(abort.__cause__, Terminated)
        what = "Terminated" if terminated else "Interrupted"
        logger.info(f"{what}; the same command goes on from here")
        sys.exit(TERMINATED if terminated else INTERRUPTED)
    except ClipfeatError as error:
        code = f" [{error.code}]" if error.code else ""
        logger.info(f"Error: {error}{code}")
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a folder without permission
        logger.info(f"Error: {describe(error)}")
        sys.exit(1)
    finally:  # a signal while Python tears itself down ends it, without a traceback
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)


def describe(error: OSError) -> str:
    """Return what went wrong with which file, which is named once.

    The system's own reasons have the file behind them; ours, like "is a folder", before them.
    """
    why, name = error.strerror or str(error), error.filename
    if name is None or isinstance(name, int) or os.fsdecode(name) in why:
        return why
    is_systems = error.errno is not None and why == os.strerror(error.errno)
    return f"{why}: {os.fsdecode(name)}" if is_systems else f"{os.fsdecode(name)} {why}"


def _terminate(*_: Any) -> None:
    raise Terminated
