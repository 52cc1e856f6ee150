"""clipfeat demo-data: draw a small data set, with annotations in the official formats."""

from pathlib import Path

import click

from ..base.text import counted, tell
from .options import LocalPath


@click.command("demo-data")
@click.argument("folder", metavar="DIR", type=LocalPath())
@click.option("--images", default=1200, show_default=True, help="Number of scenes.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the scenes.")
def demo_data(*, folder: Path, images: int, seed: int) -> None:
    """Draw scenes of coloured shapes, with questions, captions and statements about them.

    DIR/images contains JPEG files with COCO's names; every fifth is held out. DIR/vqa has the
    format of VQA v2, DIR/captions those of COCO and of Karpathy's splits, DIR/snli_ve that of
    SNLI-VE.

    \b
    $ clipfeat demo-data demo --images 1200 --seed 0
    """
    from ..demo import write_demo_data

    data = write_demo_data(folder, images, seed)
    tell(f"{data.folder}: {counted(data.images, 'scene')}, {data.held_out} of them held out")
    tell(f"{counted(data.questions, 'question')} in vqa/; captions/ and snli_ve/ beside it")
    tell(f"next: clipfeat manifest {data.folder}/images -o images.parquet")
