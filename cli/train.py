"""clipfeat train: train a task on a feature store."""

from pathlib import Path

import click

from ..base.errors import missing_extra
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

    from ..train.settings import find_config, load_settings
    from ..train.vqa.settings import PRESETS, VqaSettings

    path = None if config is None else find_config(config, PRESETS)
    if skip_missing is not None:
        assignments = (*assignments, f"skip_missing={skip_missing}")
    settings = load_settings(VqaSettings, config=path, assignments=assignments)
    try:
        from ..train.vqa.task import describe, train_vqa
    except ModuleNotFoundError as error:
        raise missing_extra("train", str(error.name)) from None
    result = train_vqa(settings, store=store, data=data, out=out, device=device)
    click.echo(json.dumps(result, indent=1) if as_json else describe(result))
