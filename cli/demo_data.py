"""clipfeat demo-data: draw a small picture dataset with annotations in the official formats."""

from pathlib import Path

import click

from .options import LocalPath, tell


@click.command("demo-data")
@click.argument("folder", metavar="DIR", type=LocalPath())
@click.option("--images", default=1200, show_default=True, help="How many scenes to draw.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def demo_data(*, folder: Path, images: int, seed: int) -> None:
    """Draw scenes of coloured shapes into DIR, with questions, captions and statements.

    images/ holds JPEG files with COCO's names, one in five held out. vqa/ is in the format of
    VQA v2, captions/ in COCO's and Karpathy's, snli_ve/ in SNLI-VE's.

    \b
    $ clipfeat demo-data demo --images 1200 --seed 0
    """
    from ..demo import write_demo_data

    data = write_demo_data(folder, images, seed)
    tell(f"{data.folder}: {data.images} scenes, {data.held_out} of them held out")
    tell(f"{data.questions} questions in vqa/; captions/ and snli_ve/ beside them")
    tell(f"next: clipfeat manifest {data.folder}/images -o images.parquet")
