"""clipfeat corpus, demo-data and demo-houses: the commands that write training data."""

import logging
from pathlib import Path

import click

from ..base.text import counted, tell
from .options import LocalPath, as_json, show

logger = logging.getLogger(__name__)

A_FOLDER = LocalPath(file_okay=False, exists=True)


@click.command()
@click.option("--captions", type=A_FOLDER, help="Folder of COCO's captions_{train,val}2014.json.")
@click.option(
    "--vqa", type=A_FOLDER, help="Folder of VQA v2's questions and annotations of train and val."
)
@click.option(
    "--visual-genome",
    type=A_FOLDER,
    help="Folder of image_data.json, question_answers.json and region_descriptions.json.",
)
@click.option("--gqa", type=A_FOLDER, help="Folder of GQA's {train,val}_balanced_questions.json.")
@click.option(
    "--held-out",
    metavar="FILE",
    type=LocalPath(dir_okay=False, exists=True),
    help="COCO images to hold out: a list of numbers or names, also as JSON, or JSON with img_id.  "
    "[default: an eighth of val2014, at most 5000]",
)
@click.option(
    "--out", required=True, type=LocalPath(), help="Folder for the files that are written."
)
@as_json
def corpus(
    *,
    captions: Path | None,
    vqa: Path | None,
    visual_genome: Path | None,
    gqa: Path | None,
    held_out: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    """Collect captions and questions for pre-training.

    Writes, in LXMERT's format, mscoco_train.json, mscoco_nominival.json, mscoco_minival.json and
    vgnococo.json. Texts about held-out images are only in mscoco_minival.json, whichever data set
    they come from.

    \b
    $ clipfeat corpus --captions annotations/ --vqa vqa/ --visual-genome vg/ --gqa gqa/ \\
          --out corpus/
    """
    from ..train.data.corpus import format_notes, format_table, to_json, write_corpus
    from ..train.data.corpus_sources import Sources

    written = write_corpus(Sources(captions, vqa, visual_genome, gqa), out, held_out)
    for note in format_notes(written):
        logger.info(note)
    show(to_json(written), format_table(written), as_json=as_json)


@click.command("demo-data")
@click.argument("folder", metavar="DIR", type=LocalPath())
@click.option("--images", default=1200, show_default=True, help="Number of scenes.")
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of the random scenes.",
)
def demo_data(*, folder: Path, images: int, seed: int) -> None:
    """Draw scenes of coloured shapes, with texts about them.

    DIR/images contains JPEG files with COCO's names; every fifth is held out. DIR/vqa has the
    format of VQA v2, DIR/captions those of COCO and of Karpathy's splits, DIR/snli_ve that of
    SNLI-VE. DIR/regions.tsv has what a detector of objects might find in the pictures, in the
    format of bottom-up attention.

    \b
    $ clipfeat demo-data demo --images 1200 --seed 0
    """
    from ..demo import write_demo_data

    data = write_demo_data(folder, images, seed)
    tell(f"{data.folder}: {counted(data.images, 'scene')}, {data.held_out} of them held out")
    tell(
        f"{counted(data.questions, 'question')} in vqa/; captions/, snli_ve/ and regions.tsv beside it"
    )
    tell(f"next: clipfeat manifest {data.folder}/images -o {data.folder}/images.parquet")


@click.command("demo-houses")
@click.argument("folder", metavar="DIR", type=LocalPath())
@click.option(
    "--houses",
    default=25,
    show_default=True,
    help="Their number; a fifth of them are val_unseen's.",
)
@click.option(
    "--rooms", default=3, show_default=True, help="Rooms along a side of a house, 3 to 6."
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of the random houses.",
)
def demo_houses(*, folder: Path, houses: int, rooms: int, seed: int) -> None:
    """Draw houses of coloured rooms, for navigation, with paths and instructions.

    DIR/views contains the 36 views of each viewpoint, DIR/connectivity the graphs in the format of
    the Matterport3D simulator, DIR/r2r the splits train, val_seen and val_unseen in the format of
    R2R. val_seen has other paths of the houses of train, val_unseen other houses. Instructions name
    colours and things, and no directions: an agent that does not see cannot follow them.
    DIR/encoder.json is the architecture of a small ViT for extract --model-config.

    \b
    $ clipfeat demo-houses houses --houses 25 --seed 0
    """
    from ..demo import write_houses

    written = write_houses(folder, houses, rooms, seed)
    tell(
        f"{written.folder}: {counted(written.houses, 'house')}, {written.unseen} of them unseen in "
        f"training; {counted(written.viewpoints, 'viewpoint')}"
    )
    counts = ", ".join(f"{count:,} {split}" for split, count in written.instructions.items())
    tell(f"instructions: {counts}")
    tell(
        f"next: clipfeat manifest --views {written.folder}/views -o {written.folder}/views.parquet"
    )
