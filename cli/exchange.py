"""clipfeat import and export: features of other programs to a store, and a store to theirs."""

import sys
from pathlib import Path
from typing import Any

import click

from .options import LocalPath, as_json, show
from .store import readable_store

# Those of featstore/exchange/formats.py, which would import numpy for --help; a test compares.
FORMATS = (
    *("bottom-up-tsv", "lxmert-tsv", "vinvl-tsv", "vln-tsv"),
    *("mmf-npy", "mmf-lmdb", "grid-feats", "captioning-npz", "openvqa-npz", "bua-npz"),
    *("m2-hdf5", "uniter-lmdb", "clip-retrieval", "webdataset"),
)

as_format = click.option(
    "--as",
    "name",
    required=True,
    type=click.Choice(FORMATS),
    help="The format of the other program (docs/interop.md).",
)
layout = click.option(
    "--layout",
    metavar="NAME",
    help="How the arrays lie, for formats whose files do not say it; an error names the choices.",
)


@click.command("import")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=LocalPath())
@as_format
@click.option("-o", "--out", required=True, type=LocalPath(), help="The new store.")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32"]),
    help="Numbers of the store.  [default: those of the source, so that nothing is lost]",
)
@click.option("--codec", type=click.Choice(["zstd", "none"]), default="zstd", show_default=True)
@click.option(
    "--shard-size",
    type=click.IntRange(1, 1 << 20),
    metavar="N",
    help="Records in a shard.  [default: 128]",
)
@layout
@click.option(
    "--channels",
    type=click.Choice(["rgb", "bgr"]),
    help="Order of the channels of the pictures that features of views were made of.",
)
@click.option(
    "--sizes",
    type=LocalPath(dir_okay=False, exists=True),
    metavar="TABLE",
    help="The width and height of the images, where the source has none: a manifest, or a .csv or "
    ".tsv table with the columns image_id, width and height.",
)
@as_json
@click.option("--strict", is_flag=True, help="Exit with 1 if any image gave no record.")
def import_(
    *,
    sources: tuple[Path, ...],
    name: str,
    out: Path,
    layout: str | None,
    channels: Any,
    sizes: Path | None,
    as_json: bool,
    strict: bool,
    **options: Any,
) -> None:
    """Read the features of another program into a store.

    SOURCE is one file or several, or a folder, as docs/interop.md says for each format. Items that are
    damaged are recorded with the reason; of two items with one id, the first that is whole counts.
    The same command resumes an interrupted import.

    \b
    $ clipfeat import karpathy_val.tsv --as bottom-up-tsv -o val.clipfeat
    $ clipfeat import test.feature.tsv --as vinvl-tsv --layout boxes --sizes test.parquet -o test.clipfeat
    """
    import contextlib

    from ..featstore.exchange import Options, import_features, open_reader, read_sizes

    known = read_sizes(sizes) if sizes else {}
    reader = open_reader(name, sources, Options(layout, channels, known))
    with contextlib.closing(reader):
        report = import_features(reader, out, sizes=known, **options)
    show(report.to_json(), report.text(), as_json=as_json)
    sys.exit(1 if strict and report.refused else 0)


@click.command()
@readable_store
@as_format
@click.option("-o", "--out", required=True, type=LocalPath(), help="The new file or folder.")
@click.option(
    "--ids",
    type=LocalPath(dir_okay=False, exists=True),
    metavar="FILE",
    help="Only the ids in a text file, one on each line.",
)
@layout
@as_json
@click.option("--strict", is_flag=True, help="Exit with 1 if any image was left out.")
def export(
    *,
    path: str | Path,
    name: str,
    out: Path,
    ids: Path | None,
    layout: str | None,
    as_json: bool,
    strict: bool,
) -> None:
    """Write the features of STORE in the format of another program.

    Ids without a record, and images that the format cannot hold, are counted. The same command
    resumes an interrupted export; until its end, OUT.export.json shows that it is incomplete.

    \b
    $ clipfeat export regions.clipfeat --as lxmert-tsv -o val_obj36.tsv
    """
    from ..base.files import text_lines
    from ..featstore import FeatureStore
    from ..featstore.exchange import Options, export_features

    chosen = None if ids is None else [line for _, line in text_lines(ids) if line]
    store = FeatureStore.open(path)
    report = export_features(store, out, format=name, ids=chosen, options=Options(layout))
    show(report.to_json(), report.text(), as_json=as_json)
    sys.exit(1 if strict and report.left_out else 0)
