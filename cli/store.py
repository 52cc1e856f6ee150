"""clipfeat store: say what a store is, list and sum up what is in it, check that it is whole."""

import logging
import sys
from collections.abc import Sized
from pathlib import Path
from typing import NoReturn

import click

from .options import (
    LocalPath,
    StatusList,
    as_json,
    break_lock,
    device,
    patient_stdout,
    show,
    show_json,
)

logger = logging.getLogger(__name__)

store_argument = click.argument("path", metavar="STORE", type=LocalPath())
WHOLE = {
    None: "every file is whole",
    "quick": "every file is there at its size",
    "deep": "every file and every record is whole",
}


def _count(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


@click.group()
def store() -> None:
    """Describe, list, verify and cite a feature store. Needs no torch."""


@store.command()
@store_argument
@as_json
def info(*, path: Path, as_json: bool) -> None:
    """Say what STORE is: model, weights, recipe, counts by status, sizes, how to cite it.

    \b
    $ clipfeat store info coco.clipfeat
    """
    from ..featstore import FeatureStore
    from ..featstore.report.summary import summarize_store, summary_text

    summary = summarize_store(FeatureStore.open(path))
    with patient_stdout():
        show(summary.to_json(), summary_text(summary), as_json=as_json)


@store.command()
@store_argument
@click.option(
    "--status",
    "statuses",
    type=StatusList("ok"),
    default=(),
    metavar="STATUS,...",
    help="Only ids of these statuses, e.g. missing,failed.",
)
@as_json
def ls(*, path: Path, statuses: tuple[str, ...], as_json: bool) -> None:
    """List the image ids of STORE: status, grid shape, image size, why there is no record.

    One line an id, sorted; a dash is what is not known, or not there. In a pipe the columns
    are parted by tabs and have no heading. --json prints an array of objects with image_id,
    status, reason, shape, width, height and source, an object a line.

    \b
    $ clipfeat store ls coco.clipfeat
    $ clipfeat store ls coco.clipfeat --status missing,undecodable | cut -f 1
    """
    from ..featstore import FeatureStore
    from .listing import as_array, as_lines

    index = FeatureStore.open(path).index
    rows = (row for row in index if not statuses or row.status in statuses)
    with patient_stdout():
        # Not click.echo, which flushes every line: a store may have millions.
        terminal = sys.stdout.isatty()
        sys.stdout.writelines(as_array(rows) if as_json else as_lines(rows, terminal=terminal))


@store.command()
@store_argument
@as_json
def stats(*, path: Path, as_json: bool) -> None:
    """Sum up the numbers in STORE: spread of channels, norms of cells, dead channels.

    Reads and verifies every record once, on all cores. A dead channel is 0 in every cell of
    every record; a constant one has a single other value. --json adds mean, standard deviation,
    min, max and rate of zeros of every channel.

    \b
    $ clipfeat store stats coco.clipfeat
    """
    from ..featstore import FeatureStore
    from ..featstore.report.stats import stats_text, store_stats

    found = store_stats(FeatureStore.open(path))
    with patient_stdout():
        show(found.to_json(), stats_text(found), as_json=as_json)


@store.command()
@store_argument
@click.option("--quick", "depth", flag_value="quick", help="Sizes and presence alone.")
@click.option("--deep", "depth", flag_value="deep", help="Decode every record as well.")
@click.option(
    "--recompute",
    "count",
    type=click.IntRange(1),
    metavar="N",
    help="Instead: extract N random records again from --images, and compare.",
)
@click.option("--images", metavar="DIR|URL", help="With --recompute: the root of the images.")
@click.option("--pretrained", metavar="PATH", help="With --recompute: weights that are a file.")
@click.option("--seed", type=click.IntRange(0), help="With --recompute: draws the sample.")
@device
@as_json
def verify(
    *,
    path: Path,
    depth: str | None,
    count: int | None,
    images: str | None,
    pretrained: str | None,
    seed: int | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Check every file of STORE against its packing list (sha256) and its digest.

    Exits with 1 if anything is wrong. Hashes cannot tell whether the features were right when
    they were written; --recompute can.

    \b
    $ clipfeat store verify coco.clipfeat
    $ clipfeat store verify coco.clipfeat --recompute 50 --images coco/
    """
    if count is not None:
        if images is None or depth is not None:
            raise click.UsageError("--recompute needs --images DIR, and no --quick or --deep")
        _recompute(path, images, count, pretrained, device, seed, as_json=as_json)
    if images or pretrained or seed is not None or device:
        raise click.UsageError("--images, --pretrained, --seed and --device go with --recompute N")
    from ..featstore.audit.verify import Depth
    from ..featstore.audit.verify import verify as find_problems

    problems = find_problems(path, Depth(depth or "full"))
    if not as_json:
        for problem in problems:
            logger.info(problem.text())
    found = {"ok": not problems, "problems": [problem.to_json() for problem in problems]}
    result = _count(problems, "problem") if problems else WHOLE[depth]
    show(found, f"{path}: {result}", as_json=as_json)
    sys.exit(1 if problems else 0)


def _recompute(
    path: Path,
    images: str,
    count: int,
    pretrained: str | None,
    device: str | None,
    seed: int | None,
    *,
    as_json: bool,
) -> NoReturn:
    """Compare a sample with the images and exit."""
    from ..extract.recompute import recompute
    from ..featstore import FeatureStore

    found = recompute(
        FeatureStore.open(path),
        images,
        count,
        pretrained=pretrained,
        device=device,
        seed=seed,
        say=logger.info,
    )
    with patient_stdout():
        show(found.to_json(), found.text(), as_json=as_json)
    sys.exit(0 if found.is_good else 1)


@store.command()
@store_argument
@click.option("--deep", is_flag=True, help="Look for problems as `store verify --deep` does.")
@break_lock
@as_json
def repair(*, path: Path, deep: bool, break_lock: bool, as_json: bool) -> None:
    """Drop the shards of STORE that are broken; the next extract writes just those again.

    Links, folders and files that no writer has made are named and left alone. Exits with 1 if
    something is left that no repair can mend.

    \b
    $ clipfeat store repair coco.clipfeat
    """
    from ..featstore.audit.repair import repair as mend
    from ..featstore.audit.verify import Depth

    done = mend(path, Depth.DEEP if deep else Depth.FULL, break_lock=break_lock)
    if not as_json:
        for problem in done.left:
            logger.info(problem.text())
    ids = {image_id for problem in done.dropped for image_id in problem.ids}
    again = "; type the clipfeat extract command again to write them" if ids else ""
    lines = [
        *(f"dropped {problem.path}: {problem.problem}" for problem in done.dropped),
        *(f"mended {name}" for name in done.mended),
        f"{path}: {_count(ids, 'record')} to extract, {_count(done.left, 'problem')} left{again}",
    ]
    show(done.to_json(), "\n".join(lines), as_json=as_json)
    sys.exit(1 if done.left else 0)


@store.command()
@store_argument
@break_lock
@as_json
def finish(*, path: Path, break_lock: bool, as_json: bool) -> None:
    """Make a store of the shards that parts of an extraction have written to STORE.

    Checks that all are there and reads them again; needs neither the images nor torch. Exits
    with 1 if some are not, and says which --shard-range to run again. Also finishes an
    extraction that was killed after its last shard.

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
        found = {"store": str(path), "finished": True, "digest": done.digest, "counts": counts}
        text = f"{path} is finished: {len(done)} records, digest {done.digest[:16]}..."
        show(found, text, as_json=as_json)
        return
    if as_json:
        show_json(done.to_json())
    else:
        logger.info(f"Error: {done.text()}")
    sys.exit(1)


@store.command()
@store_argument
@as_json
def digest(*, path: Path, as_json: bool) -> None:
    """Print the digest of STORE, which a paper cites.

    \b
    $ clipfeat store digest coco.clipfeat
    """
    from ..featstore import FeatureStore

    value = FeatureStore.open(path).digest
    show({"digest": value}, value, as_json=as_json)
