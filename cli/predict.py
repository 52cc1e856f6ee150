"""clipfeat predict: ask a trained run about one image, or have images captioned."""

import logging
import sys
from pathlib import Path
from typing import Any

import click

from ..base.errors import needs_extra
from .options import LocalPath, as_json, patient_stdout, show, show_json
from .options import device as device_option

logger = logging.getLogger(__name__)


@click.group()
def predict() -> None:
    """Ask the best checkpoint of a run about images that no file of answers is about.

    \b
    $ clipfeat predict vqa run --image-id COCO_val2014_000000000042 --question "What is this?"
    $ clipfeat predict caption run COCO_val2014_000000000042
    """


@predict.command()
@click.argument("run", type=LocalPath())
@click.option("--image-id", required=True, help="An id of the store: clipfeat store ls STORE.")
@click.option("--question", required=True, help="In quotation marks.")
@click.option(
    "--image",
    type=LocalPath(),
    metavar="FILE",
    help="The image itself, for the picture; without it, the grid's features as colors.",
)
@click.option("--store", type=LocalPath(), help="Default: the store of the run.")
@click.option(
    "--out",
    type=LocalPath(),
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
    with needs_extra("train"):
        from ..train.tasks.vqa_predict import ask, format_answer
    found = ask(
        run,
        image_id=image_id,
        question=question,
        image=image,
        store=store,
        out=out,
        device=device,
    )
    show(found, format_answer(found), as_json=as_json)


@predict.command()
@click.argument("run", type=LocalPath())
@click.argument("image_ids", nargs=-1, metavar="[IMAGE_ID]...")
@click.option(
    "--list",
    "listed",
    type=LocalPath(),
    metavar="JSON",
    help="Caption the images of a file in COCO's format, such as image_info_test2014.json.",
)
@click.option(
    "--out",
    type=LocalPath(),
    metavar="JSON",
    help="Write the first caption of each image here, as COCO's server takes them.",
)
@click.option(
    "--captions",
    type=click.IntRange(1, 512),
    default=1,
    show_default=True,
    help="Of each image, at most: groups of beams may come to the same one.",
)
@click.option("--beam", type=click.IntRange(1, 512), help="Default: that of the run.")
@click.option(
    "--groups",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Diverse beam search: into so many groups the beams are parted.",
)
@click.option(
    "--diversity", type=click.FloatRange(min=0), help="Between the groups.  [default: 0.5]"
)
@click.option("--no-repeat", type=click.IntRange(min=0), help="Default: that of the run.")
@click.option(
    "--nucleus",
    type=click.FloatRange(0, 1, min_open=True),
    help="Draw captions by chance, from the likeliest words with so much probability.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0, min_open=True),
    help="Of drawing; below 1 it is less bold.  [default: 1]",
)
@click.option(
    "--seed", type=click.IntRange(-(1 << 63), (1 << 64) - 1), help="Of drawing.  [default: 0]"
)
@click.option("--store", type=LocalPath(), help="Default: the store of the run.")
@device_option
@as_json
def caption(
    *,
    run: Path,
    image_ids: tuple[str, ...],
    listed: Path | None,
    out: Path | None,
    store: Path | None,
    device: str | None,
    as_json: bool,
    **request: Any,
) -> None:
    """Caption images of a store; nobody need have captioned them before.

    Prints image, log-probability and caption, with tabs between.

    \b
    $ clipfeat predict caption run COCO_val2014_000000000042
    $ clipfeat predict caption run COCO_val2014_000000000042 --captions 5 --groups 5
    $ clipfeat predict caption run COCO_val2014_000000000042 --captions 5 --nucleus 0.9
    $ clipfeat predict caption run --list image_info_test2014.json --store test2014.clipfeat \\
          --beam 5 --out captions_test2014_mine_results.json
    """
    with needs_extra("train"):
        from ..train.tasks.captioning.predict import (
            CaptionRequest,
            format_captions,
            predict_captions,
        )
    found = predict_captions(
        run,
        image_ids,
        CaptionRequest(**request),
        listed=listed,
        out=out,
        store=store,
        device=device,
    )
    with patient_stdout():
        if as_json:
            show_json([image._asdict() for image in found])
        else:
            sys.stdout.write(f"{format_captions(found)}\n")  # printable, but for the tabs in it
