"""clipfeat store: say what a store is, and check that it is whole."""

import json
import sys
from pathlib import Path

import click

from .options import as_json

store_argument = click.argument("path", metavar="STORE", type=click.Path(path_type=Path))


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
@as_json
def verify(*, path: Path, as_json: bool) -> None:
    """Check every file of STORE against its packing list (sha256) and its digest.

    Exits with 1 if anything is wrong.

    \b
    $ clipfeat store verify coco.clipfeat
    """
    from dataclasses import asdict

    from ..featstore.verify import verify as find_problems

    problems = find_problems(path)
    if as_json:
        click.echo(
            json.dumps({"ok": not problems, "problems": [asdict(p) for p in problems]}, indent=2)
        )
    else:
        for p in problems:
            click.echo(f"{p.path}: {p.problem} ({p.records} records); {p.remedy}", err=True)
        click.echo(f"{path}: {f'{len(problems)} problems' if problems else 'every file is whole'}")
    sys.exit(1 if problems else 0)


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
