"""clipfeat rerun: train what another lab has trained, and compare the scores."""

import functools
import sys
from pathlib import Path
from typing import Any

import click

from ..base.errors import needs_extra
from .options import LocalPath, as_json, show, training_inputs
from .train import run_training


@click.command()
@click.argument("run", type=LocalPath())
@training_inputs(
    "Folder of the annotations that the run was trained on.",
    "Change a path or the use of memory, such as --set cache=none. May be repeated.",
)
@as_json
def rerun(*, run: Path, as_json: bool, **options: Any) -> None:
    """Train the settings of RUN again, and compare the scores.

    The store must have the digest that RUN cites. Prints both scores, their difference and its 95%
    bootstrap interval, as clipfeat compare does. Exits with 1 if the interval excludes 0.

    \b
    $ clipfeat rerun theirs --store https://lab.example.org/coco.clipfeat --data vqa/ --out ours
    """
    with needs_extra("train"):
        from ..train.compare import compare, format_table, to_json
        from ..train.tasks.rerun import format_rerun, last_stage, require_store_of
        from ..train.tasks.rerun import rerun as train_again
    require_store_of(run, options["store"])  # before it is copied
    again = functools.partial(train_again, run, assignments=options["assignments"])
    if run_training(again, options) is None:  # another process of the group compares
        return
    compared = compare([last_stage(run), last_stage(options["out"])])
    is_same = not compared[1].is_sure
    record = {"reproduced": is_same, "runs": to_json(compared)}
    show(record, format_rerun(compared, format_table(compared)), as_json=as_json)
    sys.exit(0 if is_same else 1)
