"""clipfeat compare: how much better one run is than another, and how certain this is."""

from pathlib import Path

import click

from ..base.errors import needs_extra
from .options import LocalPath, as_json, show


@click.command()
@click.argument("runs", metavar="RUN RUN...", nargs=-1, type=LocalPath())
@as_json
def compare(*, runs: tuple[Path, ...], as_json: bool) -> None:
    """Compare runs of one task with the first RUN, on the examples that all of them were scored on.

    Prints each run's score, its difference from the first, and the 95% bootstrap interval of that
    difference. Images are resampled with all of their questions, which are not independent.

    \b
    $ clipfeat compare runs/rn50 runs/rn50x4
    """
    with needs_extra("train"):
        from ..train.compare import compare as compare_runs
        from ..train.compare import format_table, to_json
    compared = compare_runs(runs)
    show(to_json(compared), format_table(compared), as_json=as_json)
