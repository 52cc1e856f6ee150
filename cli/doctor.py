"""clipfeat doctor: the machine, its devices, and whether they compute the right features."""

import sys
from pathlib import Path

import click

from ..base.text import tell
from .options import LocalPath, as_json, show_json

MODELS = ("ViT-S-32", "RN50")  # one of each kind of tower, both fast enough for a CPU


@click.command()
@click.option(
    "--folder",
    type=LocalPath(exists=True, file_okay=False),
    default=Path(),
    metavar="DIR",
    help="Where stores are going to be written: its disk is measured.  [default: this folder]",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    default=MODELS,
    show_default=True,
    help="Name of a model to test, of open_clip or timm, with random weights. May be repeated.",
)
@click.option(
    "--weights",
    default="",
    metavar="FILE|openai",
    help="Compare OpenAI's ViT-B/32 with published values: the file, or openai to download it.",
)
@click.option(
    "--image",
    type=LocalPath(exists=True, dir_okay=False),
    metavar="FILE",
    help="000000039769.jpg of COCO val2017, for --weights.  [default: download it]",
)
@as_json
def doctor(
    *, folder: Path, models: tuple[str, ...], weights: str, image: Path | None, as_json: bool
) -> None:
    """Report this machine, and test that each device computes the right features.

    Run it first on a new machine, and send its output with a bug report. A line says PASS or FAIL;
    a dash marks a fact. It takes about half a minute for each device, and exits with 1 if a check
    failed. Temporary files are deleted.

    \b
    $ clipfeat doctor
    $ clipfeat doctor --json > doctor.json
    """
    from ..extract.doctor import diagnose, is_good, report, summary

    checks = []
    for check in diagnose(folder, models, weights=weights, image=image):
        checks.append(check)
        if not as_json:
            tell(check.line())
            sys.stdout.flush()
    if as_json:
        show_json(report(checks))
    else:
        tell(summary(checks))
    sys.exit(0 if is_good(checks) else 1)
