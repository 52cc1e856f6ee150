"""clipfeat train: train a task on a feature store."""

import sys
from pathlib import Path
from typing import NoReturn

import click

from ..base.errors import UsageError, missing_extra
from .options import as_json, skip_missing
from .options import device as device_option


@click.group()
def train() -> None:
    """Train a task on the features of a store.

    \b
    $ clipfeat train vqa --store coco.clipfeat --data vqa/ --out run
    """


@train.command()
@click.argument("config", required=False)
@click.option(
    "--store", required=True, type=click.Path(path_type=Path), help="Feature store to read."
)
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of the JSON files of VQA v2, Visual Genome or GQA; docs/vqa.md names them.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Run folder. A run that was killed goes on where it was.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one setting, such as --set epochs=3. May be repeated.",
)
@click.option("--gpus", help="Train on several GPUs: a count (8) or their numbers (0,3).")
@click.option("--profile", is_flag=True, help="Say where the time went, waiting for data too.")
@skip_missing
@device_option
@as_json
def vqa(
    *,
    config: str | None,
    store: Path,
    data: Path,
    out: Path,
    assignments: tuple[str, ...],
    gpus: str | None,
    profile: bool,
    skip_missing: int | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Visual question answering on the files of VQA v2, Visual Genome or GQA.

    CONFIG is a TOML file of settings, or the name of one that comes with clipfeat.

    \b
    $ clipfeat train vqa --store coco.clipfeat --data vqa/ --out run
    $ clipfeat train vqa --store coco.clipfeat --data vqa/ --out blind --set blind=true
    """
    import json

    from ..train.launch import in_group, is_first
    from ..train.settings import find_config, load_settings
    from ..train.vqa.settings import PRESETS, VqaSettings

    path = None if config is None else find_config(config, PRESETS)
    if skip_missing is not None:
        assignments = (*assignments, f"skip_missing={skip_missing}")
    settings = load_settings(VqaSettings, config=path, assignments=assignments)
    try:
        from ..train.vqa.evaluation import describe
        from ..train.vqa.task import train_vqa
    except ModuleNotFoundError as error:
        raise missing_extra("train", str(error.name)) from None
    if gpus is not None and not in_group():
        _train_on(gpus, device)
    result, times = train_vqa(settings, store=store, data=data, out=out, device=device)
    if not is_first():
        return
    if profile:
        click.echo(times.table(), err=True)
    click.echo(json.dumps(result, indent=1) if as_json else describe(result))


def _train_on(gpus: str, device: str | None) -> NoReturn:
    """Run this very command once for each GPU, and exit as they do."""
    import torch

    from ..train.launch import launch, require_gpus, visible_gpus

    if device == "cpu":
        raise UsageError("--gpus and --device cpu exclude each other; drop one")
    chosen = visible_gpus(gpus)
    require_gpus(chosen, torch.cuda.device_count())
    command = [sys.executable, "-m", "clipfeat.cli", *sys.argv[1:]]
    sys.exit(launch(command, len(chosen), CUDA_VISIBLE_DEVICES=",".join(chosen)))
