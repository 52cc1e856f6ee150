"""The `clipfeat` command group; it imports no heavy package, so that --help is instant."""

import os
import sys
from importlib.metadata import version

import click

from ..base.errors import ClipfeatError
from .demo_data import demo_data
from .eval import eval_
from .extract import extract
from .manifest import manifest
from .store import store
from .train import train

INTERRUPTED = 130  # the shell's exit code for Ctrl-C


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("clipfeat"), prog_name="clipfeat")
def clipfeat() -> None:
    """Frozen CLIP grid features: extract once, verify, share, train.

    \b
    $ clipfeat extract --model RN50x4 --gpus 8     # ./images -> a feature store
    $ clipfeat train vqa --store images-RN50x4-caption448.clipfeat --data vqa/ --out run
    """


for command in (manifest, extract, store, train, eval_, demo_data):
    clipfeat.add_command(command)


def main() -> None:
    """Run the command line: what a user can mend becomes one line on stderr, and an exit code."""
    # torch's threads spin while they wait for each other. Where another process wants the cores
    # too, that makes training 15 times slower; sleeping costs a fifth at most (docs/log.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        sys.exit(clipfeat.main(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("Interrupted; the same command goes on from here", err=True)
        sys.exit(INTERRUPTED)
    except ClipfeatError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a folder without permission
        click.echo(f"Error: {error.strerror or error}: {error.filename or ''}", err=True)
        sys.exit(1)
