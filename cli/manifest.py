"""clipfeat manifest: make a manifest of images, and summarize one."""

from pathlib import Path
from typing import Any

import click

from ..base.errors import UsageError
from ..base.text import counted, tell
from .options import LocalPath, as_json, file_ids, patient_stdout, show

URL_REMEDY = "pass a table or JSON on this machine, and the URL as --images"


class SourcesGroup(click.Group):
    """A group in which all words but the name of a command are sources of images."""

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


@click.command(epilog="To summarize a manifest: clipfeat manifest show images.parquet")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=LocalPath(URL_REMEDY))
@click.option(
    "-o",
    "--out",
    type=LocalPath(dir_okay=False),
    required=True,
    help="Manifest to write, a .parquet file.",
)
@click.option(
    "--images",
    metavar="ROOT",
    help="Folder or URL that paths start from; for a list also an archive.  [default: the folder of "
    "SOURCE]",
)
@file_ids
@click.option(
    "--upright",
    is_flag=True,
    help="Sizes of images turned as their EXIF orientation says, for clipfeat extract --upright.",
)
@click.option("--views", is_flag=True, help="SOURCE has folders SCAN/VIEWPOINT with 36 views each.")
@click.option(
    "--id-column", metavar="NAME", help="Column of ids in a table.  [default: image_id or id]"
)
@click.option(
    "--path-column",
    metavar="NAME",
    help="Column of paths in a table.  [default: path, file_name, filename, "
    "file, filepath or image]",
)
def make(
    *,
    sources: tuple[Path, ...],
    out: Path,
    images: str | None,
    ids: str,
    upright: bool,
    views: bool,
    id_column: str | None,
    path_column: str | None,
) -> None:
    """List the images of SOURCE and their sizes in a manifest.

    SOURCE is a folder of images, a JSON file of COCO, Karpathy's splits, Visual Genome or texts with
    the key image, a table (.parquet, .csv, .tsv, .jsonl), a .txt file with a path a line, an archive
    (.tar, .tar.gz, .zip, .parquet with images) or a folder of them. Several sources of one kind are
    merged; an id that occurs twice is an error. Sizes come from the files' headers; for files
    behind a URL, from the JSON or the table if it has them. docs/datasets.md has the command for
    each well-known data set.

    \b
    $ clipfeat manifest images/ -o images.parquet
    $ clipfeat manifest annotations/instances_*2014.json --images coco/ -o coco.parquet
    """
    from ..manifests import SourceOptions, make_manifest, write_manifest
    from ..manifests.manifest import check_writable

    if out.exists() and any(source.exists() and out.samefile(source) for source in sources):
        raise UsageError(
            f"-o {out} is a source and would be overwritten; pass another file",
            code="E-MANIFEST-WRITE",
        )
    check_writable(out)
    options = SourceOptions(ids, id_column, path_column, views, upright)
    listed = make_manifest(sources, images, options)
    write_manifest(listed, out)
    unreadable = sum(1 for image in listed.images if not image.width)
    note = f", {unreadable} without a readable header" if unreadable else ""
    tell(f"{out}: {counted(len(listed.images), 'image')}{note}")


@click.group(cls=SourcesGroup, help=make.help)
def manifest() -> None:
    pass


@manifest.command("show")
@click.argument("path", metavar="MANIFEST", type=LocalPath())
@as_json
def show_manifest(*, path: Path, as_json: bool) -> None:
    """Summarize MANIFEST: number, sizes and kinds of images, and the form of ids.

    \b
    $ clipfeat manifest show images.parquet
    """
    from ..manifests import read_manifest, summarize_manifest

    summary = summarize_manifest(read_manifest(path), path)
    with patient_stdout():
        show(summary.to_json(), summary.text(), as_json=as_json)
