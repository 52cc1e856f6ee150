"""clipfeat store card: a page, README.md and croissant.json that say what a store is."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import LocalPath, as_json, break_lock, show
from .store import readable_store

if TYPE_CHECKING:
    from ..featstore.card.write import Card

logger = logging.getLogger(__name__)


@click.command()
@readable_store
@click.option(
    "--out",
    type=LocalPath(file_okay=False),
    metavar="DIR",
    help="Write the three files there, and change nothing in STORE. Needed for a store at a URL.",
)
@break_lock
@as_json
def card(*, path: str | Path, out: Path | None, break_lock: bool, as_json: bool) -> None:
    """Write the card of STORE: what it is, for people and for programs.

    Writes README.md with the header of a dataset on the Hub, documents/card.html, a page with plots
    that needs no other file, and croissant.json. They become documents of STORE, which store verify
    checks and store push sends; the digest stays the same. Plots are made from a random sample of
    records. Licences and other texts are those of store describe: nothing is guessed. Sign afterwards:
    store.json changes.

    \b
    $ clipfeat store describe coco.clipfeat --licence CC-BY-4.0
    $ clipfeat store card coco.clipfeat
    $ clipfeat store card hf://datasets/lab/coco --out card/
    """
    from ..featstore.card.write import write_card

    show_card(write_card(path, out, break_lock=break_lock), as_json=as_json)


def show_card(written: "Card", *, as_json: bool) -> None:
    """Print which files were written, and what people should add."""
    from ..featstore.card.facts import NOT_STATED, sample_text

    facts = written.facts
    files = [str(file) for file in written.files]
    unstated = [name for name, text in facts.licences.items() if text == NOT_STATED]
    record = {
        "files": files,
        "digest": facts.summary.metadata.digest,
        "sample": facts.survey.records if facts.survey else 0,
        "unreadable": [
            {"image_id": each.image_id, "reason": each.reason}
            for each in (facts.survey.unreadable if facts.survey else ())
        ],
        "not_stated": unstated,
    }
    lines = [f"{file} written" for file in files]
    if facts.survey is not None:
        lines.append(sample_text(facts.survey))
    if unstated:
        lines.append(f"not stated: {', '.join(unstated)}; state them with: clipfeat store describe")
    show(record, "\n".join(lines), as_json=as_json)
    if facts.survey is not None and facts.survey.unreadable and not as_json:
        first = facts.survey.unreadable[0]
        logger.warning(
            f"{len(facts.survey.unreadable)} records of the sample could not be used, such as "
            f"{first.image_id}: {first.reason}; find all of them with: clipfeat store verify --deep"
        )
