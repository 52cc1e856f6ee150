"""clipfeat store: say what a store is, and check that it is whole."""

import json
import sys
from pathlib import Path

import click

from .options import as_json

store_argument = click.argument("path", metavar="STORE", type=click.Path(path_type=Path))
WHOLE = {
    None: "every file is whole",
    "quick": "every file is there at its size",
    "deep": "every file and every record is whole",
}


@click.group()
def store() -> None:
    """Describe, verify and cite a feature store. Needs no torch."""


@store.command()
@store_argument
@as_json
def info(*, path: Path, as_json: bool) -> None:
    """Say what is in STORE: model, recipe, counts by status, sizes, digest.

    \b
    $ clipfeat store info coco.clipfeat
    """
    from ..featstore import FeatureStore
    from ..featstore.card import card_text, describe

    card = describe(FeatureStore.open(path))
    click.echo(json.dumps(card, indent=2) if as_json else card_text(card))


@store.command()
@store_argument
@click.option("--quick", "depth", flag_value="quick", help="Sizes and presence alone.")
@click.option("--deep", "depth", flag_value="deep", help="Decode every record as well.")
@as_json
def verify(*, path: Path, depth: str | None, as_json: bool) -> None:
    """Check every file of STORE against its packing list (sha256) and its digest.

    Exits with 1 if anything is wrong.

    \b
    $ clipfeat store verify coco.clipfeat
    """
    from ..featstore.verify import Depth
    from ..featstore.verify import verify as find_problems

    problems = find_problems(path, Depth(depth or "full"))
    if as_json:
        found = [problem.to_json() for problem in problems]
        click.echo(json.dumps({"ok": not problems, "problems": found}, indent=2))
    else:
        for problem in problems:
            click.echo(problem.text(), err=True)
        click.echo(f"{path}: {WHOLE[depth] if not problems else f'{len(problems)} problems'}")
    sys.exit(1 if problems else 0)


@store.command()
@store_argument
@click.option("--deep", is_flag=True, help="Look for problems as `store verify --deep` does.")
@as_json
def repair(*, path: Path, deep: bool, as_json: bool) -> None:
    """Drop the shards of STORE that are broken; the next extract writes just those again.

    Exits with 1 if something is left that no repair can mend.

    \b
    $ clipfeat store repair coco.clipfeat
    """
    from ..featstore.repair import repair as mend
    from ..featstore.verify import Depth

    done = mend(path, Depth.DEEP if deep else Depth.FULL)
    if as_json:
        click.echo(json.dumps(done.to_json(), indent=2))
    else:
        for problem in done.left:
            click.echo(problem.text(), err=True)
        for problem in done.dropped:
            click.echo(f"dropped {problem.path}: {problem.problem}")
        for name in done.mended:
            click.echo(f"mended {name}")
        records = len({image_id for problem in done.dropped for image_id in problem.ids})
        again = "; type the clipfeat extract command again to write them" if records else ""
        click.echo(f"{path}: {records} records to extract, {len(done.left)} problems left{again}")
    sys.exit(1 if done.left else 0)


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
    click.echo(json.dumps({"digest": value}) if as_json else value)
