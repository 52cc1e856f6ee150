"""clipfeat manifest: list the images of a folder."""

from pathlib import Path

import click


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The manifest to write.",
)
def manifest(*, folder: Path, out: Path) -> None:
    """List the images in DIR and below, with their sizes, as a Parquet manifest.

    Ids are file names without their ending; two files with the same one are an error. Sizes
    come from the headers alone.

    \b
    $ clipfeat manifest images/ -o images.parquet
    """
    from ..manifests import folder_manifest, write_manifest

    images = folder_manifest(folder)
    write_manifest(images, out)
    unreadable = sum(1 for image in images.images if not image.width)
    note = f", {unreadable} without a readable header" if unreadable else ""
    click.echo(f"{out}: {len(images.images)} images{note}")
