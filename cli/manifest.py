"""clipfeat manifest: list images, whatever lists them now, and sum a manifest up."""

import logging
from pathlib import Path
from typing import Any

import click

from .options import LocalPath, as_json, file_ids, patient_stdout, show, tell

logger = logging.getLogger(__name__)

LISTS = "a table or JSON on this machine lists the images, and --images is the URL"


class SourcesGroup(click.Group):
    """A group in which everything but the name of a command is a source of images."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        if args and args[0] in self.commands:
            return super().make_context(info_name, args, parent, **extra)
        return make.make_context(info_name, args, parent, **extra)


@click.command(epilog="To sum up a manifest: clipfeat manifest show images.parquet")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=LocalPath(LISTS))
@click.option(
    "-o",
    "--out",
    type=LocalPath(dir_okay=False),
    required=True,
    help="The manifest to write.",
)
@click.option(
    "--images",
    metavar="ROOT",
    help="The folder or URL that paths start from.  [default: where SOURCE is]",
)
@file_ids
@click.option("--views", is_flag=True, help="SOURCE/SCAN/VIEWPOINT holds 36 views each.")
@click.option("--id-column", metavar="NAME", help="Of a table.  [default: image_id or id]")
@click.option(
    "--path-column",
    metavar="NAME",
    help="Of a table.  [default: path, file_name, filename or file]",
)
def make(
    *,
    sources: tuple[Path, ...],
    out: Path,
    images: str | None,
    ids: str,
    views: bool,
    id_column: str | None,
    path_column: str | None,
) -> None:
    """List the images of SOURCE, with their sizes, as a Parquet manifest.

    SOURCE is a folder, a JSON file of COCO's, Karpathy's or Visual Genome's, a table (.parquet,
    .csv, .jsonl), tar shards, or a folder of them; several of one kind are merged. An id that
    comes twice is an error. Sizes come from the files' headers; under a URL, from the JSON or the
    table where these have them.

    \b
    $ clipfeat manifest images/ -o images.parquet
    $ clipfeat manifest annotations/instances_*2014.json --images coco/ -o coco.parquet
    """
    from ..manifests import SourceOptions, make_manifest, write_manifest

    if out.exists() and any(source.exists() and out.samefile(source) for source in sources):
        raise click.UsageError(f"-o {out} is a source, and would be overwritten; name another file")
    listed = make_manifest(sources, images, SourceOptions(ids, id_column, path_column, views))
    write_manifest(listed, out)
    unreadable = sum(1 for image in listed.images if not image.width)
    note = f", {unreadable} without a header that can be read" if unreadable else ""
    tell(f"{out}: {len(listed.images)} images{note}")


@click.group(cls=SourcesGroup, help=make.help)
def manifest() -> None:
    pass


@manifest.command("show")
@click.argument("path", metavar="MANIFEST", type=LocalPath())
@as_json
def show_manifest(*, path: Path, as_json: bool) -> None:
    """Sum up MANIFEST: how many images, of which sizes and kinds, and what ids look like.

    \b
    $ clipfeat manifest show images.parquet
    """
    from ..manifests import read_manifest, summarize_manifest

    summary = summarize_manifest(read_manifest(path), path)
    with patient_stdout():
        show(summary.to_json(), summary.text(), as_json=as_json)
