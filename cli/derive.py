"""clipfeat store subset, merge, convert, pool and reshard: stores made from other stores."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..base.errors import StoreError, UsageError
from .options import LocalPath, StorePath, as_json, cache, patient_stdout, show
from .selection import selection, write_selection
from .store import readable_store

if TYPE_CHECKING:
    from ..featstore import FeatureStore, GridShape

out_argument = click.argument("out", metavar="OUT", type=LocalPath())


def _show_store(store: "FeatureStore", *, as_json: bool) -> None:
    """Print what a new store is, as `clipfeat store info` does."""
    from ..featstore.report.summary import summarize_store, summary_text

    summary = summarize_store(store)
    with patient_stdout():
        show(summary.to_json(), summary_text(summary), as_json=as_json)


@click.command()
@readable_store
@out_argument
@selection
@as_json
def subset(
    *,
    path: str | Path,
    out: Path,
    ids: Path | None,
    splits: tuple[str, ...],
    skip_missing: int | None,
    statuses: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write some ids of STORE to OUT, a smaller store.

    Records are copied as they are, and each is compared with its sha256. OUT names STORE as its
    origin. Of a STORE at a URL the chosen records alone are received. Run the same command again to
    continue one that was interrupted.

    \b
    $ clipfeat store subset coco.clipfeat val.clipfeat --split karpathy:dataset_coco.json:val
    $ clipfeat store subset coco.clipfeat some.clipfeat --ids ids.txt --status ok
    """
    store = write_selection(path, out, ids, splits, skip_missing, statuses)
    _show_store(store, as_json=as_json)


@click.command()
@click.argument("paths", metavar="STORE|URL...", nargs=-1, required=True, type=StorePath())
@click.option("-o", "--out", required=True, type=LocalPath(), help="The new store.")
@cache
@as_json
def merge(*, paths: tuple[str | Path, ...], out: Path, as_json: bool) -> None:
    """Write the ids of several stores to one.

    The stores must have the same identity: backbone, recipe, numbers and codec. An id may be in
    several of them if its record and its status are the same.

    \b
    $ clipfeat store merge train.clipfeat val.clipfeat -o coco.clipfeat
    """
    from ..featstore import FeatureStore
    from ..featstore import merge as merge_stores

    _show_store(merge_stores([FeatureStore.open(path) for path in paths], out), as_json=as_json)


@click.command()
@readable_store
@out_argument
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32", "uint8"]),
    help="Numbers of the new store; uint8: 256 values between the bounds of each channel.",
)
@click.option(
    "--mantissa-bits",
    type=click.IntRange(1, 9),
    metavar="N",
    help="Round float16 to N bits of its mantissa of 10; 7 is a good choice.",
)
@click.option("--codec", type=click.Choice(["zstd", "none"]))
@as_json
def convert(
    *,
    path: str | Path,
    out: Path,
    dtype: str | None,
    mantissa_bits: int | None,
    codec: str | None,
    as_json: bool,
) -> None:
    """Write STORE again as OUT, with smaller numbers or another codec.

    OUT has an identity and a digest of its own, and names STORE as its origin. Readers get float16,
    or float32 from a store of float32. At the end the loss is measured over all records; clipfeat
    store info shows it, and documents/loss.csv has that of each channel. Run the same command again
    to continue a conversion that was interrupted.

    \b
    $ clipfeat store convert coco.clipfeat coco-8bit.clipfeat --dtype uint8
    $ clipfeat store convert coco.clipfeat coco-raw.clipfeat --codec none
    """
    from ..featstore import FeatureStore
    from ..featstore import convert as convert_store

    if dtype is None and mantissa_bits is None and codec is None:
        raise UsageError(
            "nothing to convert; give --dtype, --mantissa-bits or --codec", code="E-STORE-CONVERT"
        )
    options: dict[str, Any] = {"dtype": dtype, "mantissa_bits": mantissa_bits, "codec": codec}
    _show_store(convert_store(FeatureStore.open(path), out, **options), as_json=as_json)


class Shape(click.ParamType):
    """A grid shape, such as 7x7."""

    name = "shape"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a GridShape; whatever cannot be one is wrong usage."""
        from ..featstore import GridShape

        try:
            return GridShape.parse(value)
        except StoreError as error:
            raise UsageError(str(error), code=error.code) from None


@click.command()
@readable_store
@out_argument
@click.argument("shape", metavar="ROWSxCOLS", type=Shape())
@as_json
def pool(*, path: str | Path, out: Path, shape: "GridShape", as_json: bool) -> None:
    """Average the cells of each grid of STORE to ROWS x COLS cells, as OUT.

    Like adaptive average pooling in torch. Padding is left out: only cells that hold pixels of the
    image are averaged. The old grids cannot be computed from the new ones.

    \b
    $ clipfeat store pool coco.clipfeat coco-7x7.clipfeat 7x7
    """
    from ..featstore import FeatureStore
    from ..featstore import pool as pool_store

    _show_store(pool_store(FeatureStore.open(path), out, shape), as_json=as_json)


@click.command()
@readable_store
@out_argument
@click.option(
    "--shard-size",
    required=True,
    type=click.IntRange(1, 1 << 20),
    metavar="N",
    help="Records in a shard of the new store.",
)
@as_json
def reshard(*, path: str | Path, out: Path, shard_size: int, as_json: bool) -> None:
    """Write STORE again as OUT, with N records in a shard.

    Records are copied as they are. Larger shards are fewer files, smaller ones less to fetch or to
    lose at a time.

    \b
    $ clipfeat store reshard laion.clipfeat laion-1024.clipfeat --shard-size 1024
    """
    from ..featstore import FeatureStore
    from ..featstore import reshard as reshard_store

    _show_store(reshard_store(FeatureStore.open(path), out, shard_size), as_json=as_json)
