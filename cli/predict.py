"""clipfeat predict: ask a trained run about one image."""

from pathlib import Path

import click

from ..base.errors import missing_extra
from .options import as_json
from .options import device as device_option


@click.group()
def predict() -> None:
    """Ask the best checkpoint of a run about one image.

    \b
    $ clipfeat predict vqa run --image-id COCO_val2014_000000000042 --question "What is this?"
    """


@predict.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--image-id", required=True, help="An id of the store: clipfeat store ls STORE.")
@click.option("--question", required=True, help="In quotation marks.")
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The image itself, for the picture; without it, the grid's features as colors.",
)
@click.option("--store", type=click.Path(path_type=Path), help="Default: the store of the run.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="PNG",
    help="The picture to write.  [default: RUN/answer.png]",
)
@device_option
@as_json
def vqa(
    *,
    run: Path,
    image_id: str,
    question: str,
    image: Path | None,
    store: Path | None,
    out: Path | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Answer one question, and draw where the model looks.

    Prints the five likeliest answers with the accuracy that the model expects of each. The
    picture takes the image to cover the grid, which is not so for recipes that crop.

    \b
    $ clipfeat predict vqa run --image-id COCO_val2014_000000000042 \\
          --question "What color is the cat?" --image coco/COCO_val2014_000000000042.jpg
    """
    import json

    try:
        from ..train.vqa.ask import ask, describe
    except ModuleNotFoundError as error:
        raise missing_extra("train", str(error.name)) from None
    found = ask(
        run,
        image_id=image_id,
        question=question,
        image=image,
        store=store,
        out=out,
        device=device,
        say=lambda line: click.echo(line, err=True),
    )
    click.echo(json.dumps(found, ensure_ascii=False) if as_json else describe(found))
