"""clipfeat predict: answer a question about an image, or caption images."""

import logging
import sys
from pathlib import Path
from typing import Any

import click

from ..base.errors import needs_extra
from .options import LocalPath, StorePath, as_json, cache, patient_stdout, show, show_json
from .options import device as device_option

logger = logging.getLogger(__name__)


@click.group()
def predict() -> None:
    """Apply the best checkpoint of a run to images of a store.

    \b
    $ clipfeat predict vqa run --image-id COCO_val2014_000000000042 --question "What is this?"
    $ clipfeat predict caption run COCO_val2014_000000000042
    """


@predict.command()
@click.argument("run", type=LocalPath())
@click.option(
    "--image-id", required=True, help="Id in the store; clipfeat store ls STORE lists them."
)
@click.option("--question", required=True, help="The question, in quotation marks.")
@click.option(
    "--image",
    type=LocalPath(),
    metavar="FILE",
    help="Image file, for the picture.  [default: the features as colors]",
)
@click.option(
    "--store", type=StorePath(), help="Feature store, or its URL.  [default: that of the run]"
)
@cache
@click.option(
    "--out",
    type=LocalPath(),
    metavar="PNG",
    help="Picture to write.  [default: RUN/answer.png]",
)
@device_option
@as_json
def vqa(*, run: Path, as_json: bool, **options: Any) -> None:
    """Answer a question about an image and draw the attention.

    Prints the five best answers with the accuracy that the model expects of each. The picture
    assumes that the grid covers the whole image, which is wrong for recipes that crop.

    \b
    $ clipfeat predict vqa run --image-id COCO_val2014_000000000042 \\
          --question "What color is the cat?" --image coco/COCO_val2014_000000000042.jpg
    """
    with needs_extra("train"):
        from ..train.tasks.vqa_predict import ask, format_answer
    answered = ask(run, **options)
    show(answered, format_answer(answered), as_json=as_json)


@predict.command()
@click.argument("run", type=LocalPath())
@click.argument("image_ids", nargs=-1, metavar="[IMAGE_ID]...")
@click.option(
    "--list",
    "listed",
    type=LocalPath(),
    metavar="JSON",
    help="Caption the images in a file of COCO's format, such as image_info_test2014.json.",
)
@click.option(
    "--out",
    type=LocalPath(),
    metavar="JSON",
    help="Write the first caption of each image to this file, in the format of COCO's server.",
)
@click.option(
    "--captions",
    type=click.IntRange(1, 512),
    default=1,
    show_default=True,
    help="Maximum number of captions per image; groups of beams may find the same one.",
)
@click.option("--beam", type=click.IntRange(1, 512), help="Beam size.  [default: that of the run]")
@click.option(
    "--groups",
    type=click.IntRange(min=1),
    help="Diverse beam search: number of groups of beams.  [default: that of the run]",
)
@click.option(
    "--diversity",
    type=click.FloatRange(min=0),
    help="Penalty for words of other groups.  [default: that of the run]",
)
@click.option(
    "--no-repeat",
    type=click.IntRange(min=0),
    help="Length of word sequences that may not repeat.  [default: that of the run]",
)
@click.option(
    "--nucleus",
    type=click.FloatRange(0, 1, min_open=True),
    help="Sample captions, from the most probable words with this total probability.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0, min_open=True),
    help="Of sampling; below 1, probable words are preferred more.  [default: that of the run]",
)
@click.option(
    "--seed", type=click.IntRange(-(1 << 63), (1 << 64) - 1), help="Of sampling.  [default: 0]"
)
@click.option(
    "--store", type=StorePath(), help="Feature store, or its URL.  [default: that of the run]"
)
@cache
@device_option
@as_json
def caption(
    *,
    run: Path,
    image_ids: tuple[str, ...],
    listed: Path | None,
    out: Path | None,
    store: str | Path | None,
    device: str | None,
    as_json: bool,
    **request: Any,
) -> None:
    """Caption images of a store; no data set is needed.

    Prints id, log-probability and caption, separated by tabs.

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
    captioned = predict_captions(
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
            show_json([image._asdict() for image in captioned])
        else:
            sys.stdout.write(f"{format_captions(captioned)}\n")  # printable, except its tabs
