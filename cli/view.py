"""clipfeat view: look at stores, images and runs in a browser."""

import contextlib
import sys
from pathlib import Path

import click

from ..base.errors import needs_extra
from ..base.text import counted, size_text, tell
from .options import LocalPath, StorePath, cache, ema, model_config


@click.command()
@click.argument("stores", metavar="STORE...", nargs=-1, required=True, type=StorePath())
@click.option(
    "--images",
    metavar="DIR|URL",
    help="Root of the images: the folder that they were extracted from.",
)
@click.option(
    "--run",
    "runs",
    multiple=True,
    type=LocalPath(),
    metavar="RUN",
    help="A run of vqa, ve or caption, trained on the features of a STORE. May be repeated.",
)
@click.option(
    "--pretrained",
    metavar="PATH",
    help="Weights of a store whose weights came from a file, for texts.",
)
@model_config
@ema
@click.option(
    "--export",
    "out",
    type=LocalPath(file_okay=False),
    metavar="DIR",
    help="Write a static page of a sample to DIR instead, for any web server.",
)
@click.option(
    "--sample",
    type=click.IntRange(1, 500),
    default=24,
    show_default=True,
    help="With --export: number of ids.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8787,
    show_default=True,
    help="Port to listen on; 0 is any free one.",
)
@click.option("--no-browser", is_flag=True, help="Print the address, and open no browser.")
@cache
def view(
    *,
    stores: tuple[str | Path, ...],
    images: str | None,
    runs: tuple[Path, ...],
    pretrained: str | None,
    model_config: str | None,
    ema: bool,
    out: Path | None,
    sample: int,
    port: int,
    no_browser: bool,
) -> None:
    """Look at the grids of STORE in a browser, beside the images.

    Serves a page for this machine alone, prints its address, and opens it. The address has a token,
    and nobody without it sees anything. Several stores are shown side by side. Ctrl-C ends it. Needs
    [view]; texts need [extract] too, runs [train].

    \b
    $ clipfeat view coco.clipfeat --images coco/
    $ clipfeat view coco.clipfeat --images coco/ --run run --run blind
    $ clipfeat view ours.clipfeat theirs.clipfeat
    $ clipfeat view coco.clipfeat --no-browser --port 9000
    $ clipfeat view coco.clipfeat --images coco/ --export site
    """
    with needs_extra("view"):
        from ..view.export import export
        from ..view.open import open_explorer
        from ..view.server import listen, serve
        from ..view.texts import WeightFiles
    weights = WeightFiles(pretrained, model_config, ema)
    if out is not None:
        done = export(open_explorer(stores, images=images, weights=weights), out, sample)
        left_out = f", {counted(done['corrupt'], 'corrupt record')} left out"
        tell(
            f"{out}: {counted(done['records'], 'record')}, {counted(done['images'], 'image')}, "
            f"{size_text(done['bytes'])}{left_out if done['corrupt'] else ''}"
        )
        return
    listener = listen(port)  # before the stores are read, which may take a while

    def say(address: str) -> None:
        tell(address)
        sys.stdout.flush()

    # It ends when it is told to, so neither Ctrl-C nor SIGTERM is a failure.
    with contextlib.suppress(KeyboardInterrupt), listener:
        explorer = open_explorer(stores, images=images, runs=runs, weights=weights)
        serve(explorer, listener, browser=not no_browser, tell=say)
