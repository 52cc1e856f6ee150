"""clipfeat eval: score a trained run on a split."""

from pathlib import Path

import click

from ..base.errors import missing_extra
from .options import as_json
from .options import device as device_option


@click.group("eval")
def eval_() -> None:
    """Score the best checkpoint of a run.

    \b
    $ clipfeat eval vqa run --split val --json
    """


@eval_.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--split", required=True, help="Split to answer, such as val or test-dev.")
@click.option("--store", type=click.Path(path_type=Path), help="Default: the store of the run.")
@click.option("--data", type=click.Path(path_type=Path), help="Default: the data of the run.")
@device_option
@as_json
def vqa(
    *,
    run: Path,
    split: str,
    store: Path | None,
    data: Path | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Answer every question of a split; the answers go to RUN/predictions_<split>.json.

    Prints the official VQA accuracy in percent, where the split has annotations.

    \b
    $ clipfeat eval vqa run --split test-dev --data vqa/
    """
    import json

    try:
        from ..train.vqa.task import describe, eval_vqa
    except ModuleNotFoundError as error:
        raise missing_extra("train", str(error.name)) from None
    result = eval_vqa(run, split=split, store=store, data=data, device=device)
    if result["overall"] is None:
        click.echo(f"split {split} has no annotations: predictions only, nothing scored", err=True)
    click.echo(json.dumps(result, indent=1) if as_json else describe(result))
