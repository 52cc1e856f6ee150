"""clipfeat store: describe, list, verify, repair and finish a feature store."""

import json
import logging
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ..base.errors import StoreError, UsageError
from ..base.text import counted, printable
from .options import (
    LocalPath,
    StatusList,
    StorePath,
    as_json,
    break_lock,
    cache,
    device,
    ema,
    model_config,
    patient_stdout,
    show,
    show_json,
    with_options,
)

if TYPE_CHECKING:
    from ..featstore import IndexRow

logger = logging.getLogger(__name__)

store_argument = click.argument("path", metavar="STORE", type=LocalPath())
readable_store = with_options(click.argument("path", metavar="STORE|URL", type=StorePath()), cache)
WHOLE = {
    None: "every file is complete and unchanged",
    "quick": "every file exists and has its size",
    "deep": "every file is complete and unchanged, every record can be decoded",
}
HEADING = ("image id", "status", "grid", "image size", "reason")
WIDTHS = (24, 11, 7, 11)  # of the columns on a terminal; the first grows with the ids
UNKNOWN = "-"


@click.group()
def store() -> None:
    """Describe, list, verify, repair and cite a feature store.

    torch is not needed, except for store verify --recompute.

    \b
    $ clipfeat store info coco.clipfeat
    $ clipfeat store verify coco.clipfeat
    """


@store.command()
@readable_store
@as_json
def info(*, path: str | Path, as_json: bool) -> None:
    """Describe STORE: model, recipe, counts, sizes, how to cite it.

    \b
    $ clipfeat store info coco.clipfeat
    """
    from ..featstore import FeatureStore
    from ..featstore.report.summary import summarize_store, summary_text

    summary = summarize_store(FeatureStore.open(path))
    with patient_stdout():
        show(summary.to_json(), summary_text(summary), as_json=as_json)


@store.command()
@readable_store
@click.option(
    "--status",
    "statuses",
    type=StatusList("ok"),
    default=(),
    metavar="STATUS,...",
    help="Only ids with these statuses, such as missing,failed.",
)
@as_json
def ls(*, path: str | Path, statuses: tuple[str, ...], as_json: bool) -> None:
    """List the image ids of STORE with the status of each.

    Prints a line for each id, sorted: status, grid shape (rows x cols), image size (width x
    height), and the reason if there is no record. A dash stands for an unknown value. In a pipe the
    columns are separated by tabs and have no heading. --json prints an array of objects, one per
    line, with image_id, status, reason, shape, width, height and source.

    \b
    $ clipfeat store ls coco.clipfeat
    $ clipfeat store ls coco.clipfeat --status missing,undecodable | cut -f 1
    """
    from ..featstore import FeatureStore

    index = FeatureStore.open(path).index
    rows = (row for row in index if not statuses or row.status in statuses)
    with patient_stdout():
        # Not click.echo, which flushes each line: a store may have millions.
        terminal = sys.stdout.isatty()
        sys.stdout.writelines(json_array(rows) if as_json else id_lines(rows, terminal=terminal))


def id_lines(rows: "Iterable[IndexRow]", *, terminal: bool) -> Iterator[str]:
    """Yield a line for each id: status, grid shape, width x height of the image, reason.

    On a terminal the columns are padded and have a heading; elsewhere tabs separate them.
    """
    if not terminal:
        yield from ("\t".join(_columns(row)) + "\n" for row in rows)
        return
    first, *others = WIDTHS
    for image_id, *rest, reason in chain([HEADING], map(_columns, rows)):
        first = max(first, len(image_id))
        padded = (f"{text:<{width}}" for text, width in zip(rest, others, strict=True))
        yield f"{image_id:<{first}}  {'  '.join(padded)}  {reason}\n"


def _columns(row: "IndexRow") -> tuple[str, ...]:
    record = _id_record(row)
    size = f"{row.width}x{row.height}" if row.width else UNKNOWN
    texts = (record["shape"], size, record["reason"])
    return printable(row.image_id), row.status, *(printable(text or UNKNOWN) for text in texts)


def json_array(rows: "Iterable[IndexRow]") -> Iterator[str]:
    """Yield the pieces of a JSON array with an object for each id, one per line."""
    before = "[\n"
    for row in rows:
        yield before + json.dumps(_id_record(row))
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _id_record(row: "IndexRow") -> dict[str, Any]:
    """Return an id as JSON; null stands for an unknown value."""
    return {
        "image_id": row.image_id,
        "status": row.status,
        "reason": row.reason or None,
        # The index has the planned shape of ids without a record too.
        "shape": row.shape if row.status == "ok" else None,
        "width": row.width or None,
        "height": row.height or None,
        "source": row.source or None,
    }


@store.command()
@readable_store
@as_json
def stats(*, path: str | Path, as_json: bool) -> None:
    """Print statistics of the channels and cells of STORE.

    Reads and verifies every record once, on all cores. A dead channel is 0 in every cell of every
    record; a constant channel has one other value. Of a sample of cells, 20 for each channel, it prints
    the share of the variance in the first 1, 10 and 100 principal directions, and the condition
    number: the variance along the first direction over that along the 100th. --json adds mean,
    standard deviation, minimum, maximum and rate of zeros of each channel, and the variance along
    each direction.

    \b
    $ clipfeat store stats coco.clipfeat
    """
    from ..featstore import FeatureStore
    from ..featstore.report.stats import stats_text, store_stats

    statistics = store_stats(FeatureStore.open(path))
    with patient_stdout():
        show(statistics.to_json(), stats_text(statistics), as_json=as_json)


@store.command()
@readable_store
@click.option(
    "--quick", "depth", flag_value="quick", help="Check only that files exist and have their sizes."
)
@click.option("--deep", "depth", flag_value="deep", help="Also decode every record.")
@click.option(
    "--recompute",
    "count",
    type=click.IntRange(1),
    metavar="N",
    help="Instead: extract N random records from --images again and compare them.",
)
@click.option("--images", metavar="DIR|URL", help="With --recompute: root of the images.")
@click.option("--pretrained", metavar="PATH", help="With --recompute: place of the weights.")
@model_config
@ema
@click.option("--seed", type=click.IntRange(0), help="With --recompute: of the random sample.")
@click.option(
    "--signed-by",
    metavar="KEY",
    help="Also check the signature: file of a public key of minisign or ssh, or a minisign key.",
)
@device
@as_json
def verify(
    *,
    path: str | Path,
    depth: str | None,
    count: int | None,
    images: str | None,
    pretrained: str | None,
    model_config: str | None,
    ema: bool,
    seed: int | None,
    signed_by: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Check the sha256 of every file of STORE, and its digest.

    Exits with 1 if anything is wrong. Hashes cannot show that the features were right when they
    were written; --recompute can.

    \b
    $ clipfeat store verify coco.clipfeat
    $ clipfeat store verify coco.clipfeat --recompute 50 --images coco/
    $ clipfeat store verify coco.clipfeat --signed-by minisign.pub
    """
    signer = None
    if signed_by is not None:
        from ..featstore.sharing.sign import check_signature

        if isinstance(path, str):
            raise UsageError(
                f"{path}: --signed-by is for a store on this machine, because a server may send "
                f"something else the next time; pull the store first (clipfeat store pull)",
                code="E-SIGN-URL",
            )
        signer = check_signature(path, signed_by)
        if not as_json:
            logger.info(f"{path}: signed with the {signer}")
    if count is not None:
        if images is None or depth is not None:
            raise UsageError(
                "--recompute needs --images DIR and excludes --quick and --deep",
                code="E-OPTION-RECOMPUTE",
            )
        weights = {"pretrained": pretrained, "model_config": model_config, "ema": ema}
        _recompute(path, images, count, weights, device, seed, as_json=as_json)
    if images or pretrained or model_config or ema or seed is not None or device:
        raise UsageError(
            "--images, --pretrained, --model-config, --ema, --seed and --device need --recompute N",
            code="E-OPTION-RECOMPUTE",
        )
    from ..featstore.audit.contents import Depth
    from ..featstore.audit.verify import verify as find_problems

    problems = find_problems(path, Depth(depth or "full"))
    if not as_json:
        for problem in problems:
            logger.warning(problem.text())
    record = {
        "ok": not problems,
        "signed_by": signer,
        "problems": [problem.to_json() for problem in problems],
    }
    result = counted(len(problems), "problem") if problems else WHOLE[depth]
    show(record, f"{path}: {result}", as_json=as_json)
    sys.exit(1 if problems else 0)


def _recompute(
    path: str | Path,
    images: str,
    count: int,
    weights: dict[str, Any],
    device: str | None,
    seed: int | None,
    *,
    as_json: bool,
) -> NoReturn:
    """Extract a sample of records again, compare, and exit."""
    from ..extract.recompute import recompute
    from ..featstore import FeatureStore

    comparison = recompute(
        FeatureStore.open(path),
        images,
        count,
        device=device,
        seed=seed,
        **weights,
    )
    with patient_stdout():
        show(comparison.to_json(), comparison.text(), as_json=as_json)
    sys.exit(0 if comparison.is_good else 1)


@store.command()
@store_argument
@click.option("--deep", is_flag=True, help="Look for problems as store verify --deep does.")
@break_lock
@as_json
def repair(*, path: Path, deep: bool, break_lock: bool, as_json: bool) -> None:
    """Remove the damaged shards of STORE.

    The next clipfeat extract writes only those again. Links, folders and files that clipfeat did
    not write are reported and left alone. Exits with 1 if a problem remains.

    \b
    $ clipfeat store repair coco.clipfeat
    """
    from ..featstore.audit.contents import Depth
    from ..featstore.audit.repair import repair as repair_store

    done = repair_store(path, Depth.DEEP if deep else Depth.FULL, break_lock=break_lock)
    if not as_json:
        for problem in done.left:
            logger.warning(problem.text())
    ids = {image_id for problem in done.dropped for image_id in problem.ids}
    remedy = "; run the clipfeat extract command again to write them" if ids else ""
    lines = [
        *(f"dropped {problem.path}: {problem.problem}" for problem in done.dropped),
        *(f"mended {name}" for name in done.mended),
        f"{path}: {counted(len(ids), 'record')} to extract, "
        f"{counted(len(done.left), 'problem')} left{remedy}",
    ]
    show(done.to_json(), "\n".join(lines), as_json=as_json)
    sys.exit(1 if done.left else 0)


@store.command()
@store_argument
@break_lock
@as_json
def finish(*, path: Path, break_lock: bool, as_json: bool) -> None:
    """Complete STORE after all parts have been written.

    Checks that no shard is missing, and reads all of them again; needs neither the images nor
    torch. If some are missing, it exits with 1 and prints which --shard-range to run again. Also
    completes an extraction that was killed after its last shard.

    \b
    $ clipfeat extract --model RN50x4 --out coco.clipfeat --shard-range 1/2   # on one machine
    $ clipfeat extract --model RN50x4 --out coco.clipfeat --shard-range 2/2   # on another
    $ clipfeat store finish coco.clipfeat
    """
    from ..featstore import FeatureStore
    from ..featstore.writing.parts import commit_parts

    done = commit_parts(path, break_lock=break_lock)
    if isinstance(done, FeatureStore):
        counts = done.metadata.counts
        record = {"store": str(path), "finished": True, "digest": done.digest, "counts": counts}
        text = f"{path} is finished: {counted(len(done), 'record')}, digest {done.digest[:16]}..."
        show(record, text, as_json=as_json)
        return
    if not as_json:
        raise StoreError(done.text(), code="E-STORE-PARTS")
    show_json(done.to_json())
    sys.exit(1)


@store.command()
@readable_store
@as_json
def digest(*, path: str | Path, as_json: bool) -> None:
    """Print the digest of STORE, for citing it in a paper.

    \b
    $ clipfeat store digest coco.clipfeat
    """
    from ..featstore import FeatureStore

    value = FeatureStore.open(path).digest
    show({"digest": value}, value, as_json=as_json)


@store.command()
@store_argument
@click.option("--title", metavar="TEXT")
@click.option("--description", metavar="TEXT")
@click.option("--licence", metavar="TEXT", help="Of the features, such as CC-BY-4.0.")
@click.option("--source-licence", metavar="TEXT", help="Of the images that they were made from.")
@click.option("--citation", metavar="TEXT")
@click.option("--homepage", metavar="URL")
@break_lock
@as_json
def describe(*, path: Path, break_lock: bool, as_json: bool, **about: str | None) -> None:
    """Say in STORE what people should know about it; the digest stays the same.

    An empty text removes a field. Also lists the documents of the store with their sha256, so that
    store verify checks them: README.md, LICENSE, CITATION.cff, croissant.json, and the files in
    its folder documents/.

    \b
    $ clipfeat store describe coco.clipfeat --title "COCO, RN50x4" --licence CC-BY-4.0
    """
    import msgspec

    from ..featstore import describe as describe_store

    given = {name: text or None for name, text in about.items() if text is not None}
    metadata = describe_store(path, given, break_lock=break_lock)
    record = {"about": msgspec.to_builtins(metadata.about), "documents": metadata.documents}
    lines = [f"{name}: {text}" for name, text in metadata.about.texts().items()]
    lines += [f"document: {name}" for name in metadata.documents]
    show(record, "\n".join(map(printable, lines)) or f"{path}: no description", as_json=as_json)
