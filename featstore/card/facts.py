"""What the three files of a card say: the summary of a store, without what is only of this machine."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyarrow has no types.

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ...base.parquet import rows_of
from ...base.text import counted, is_url, printable
from ..lookup import Status
from ..report.sample import SAMPLE_SEED
from ..report.summary import StoreSummary, sentence, summarize_store, summary_rows
from ..store import FeatureStore
from .survey import Survey, survey
from .thumbnails import read_thumbnails

NOT_STATED = "not stated"
MOST_REASONS = 12  # that a card names
MOST_DISTINCT = 10_000  # reasons in memory
ABOUT = ("title", "description", "licence", "source licence", "citation", "homepage")


@dataclass(frozen=True)
class Reason:
    """Why some ids have no record."""

    status: str
    text: str
    ids: int
    example: str


@dataclass(frozen=True)
class Facts:
    """What is known of a store."""

    name: str  # of its folder
    url: str | None  # where it can be pulled from, if it was read there
    summary: StoreSummary  # its path is `name`: that of a folder is nobody else's concern
    reasons: tuple[Reason, ...]  # the most frequent first
    other_reasons: int  # ids with reasons that are not listed
    survey: Survey | None  # None: no record was looked at
    thumbnails: Mapping[tuple[str, str], bytes]  # JPEG files by id and sha256 of the image's file

    @property
    def title(self) -> str:
        """The title that people have given the store, or its name."""
        return self.summary.metadata.about.title or self.name

    @property
    def sentence(self) -> str:
        """What the store is: the sentence that begins with its title."""
        summary, identity = self.summary, self.summary.metadata.identity
        what = sentence(summary.records_by_shape, identity.dim, summary.records)
        return f"{what}, by {identity.backbone.get('model', 'a model that is not recorded')}"

    @property
    def licences(self) -> dict[str, str]:
        """The licence of the features and that of the images, as people have stated them."""
        about = self.summary.metadata.about
        return {
            "licence of the features": about.licence or NOT_STATED,
            "licence of the images": about.source_licence or NOT_STATED,
        }

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield (name, value) of all other facts, without the texts of people."""
        for name, value in summary_rows(self.summary):
            if name and name not in ABOUT:  # no name: examples of ids, which `reasons` has
                yield name, value

    @property
    def load(self) -> list[str]:
        """Lines of Python that read the store."""
        pictures = self.survey.pictures if self.survey else ()
        lines = [
            "from clipfeat.featstore import FeatureStore",
            "",
            f"store = FeatureStore.open({printable(repr(self.url or self.name))})",
        ]
        if pictures:
            first = pictures[0]
            shape = (*first.shape, self.summary.metadata.identity.dim)
            lines.append(f"store[{printable(repr(first.row.image_id))}]  # an array of {shape}")
        return lines

    @property
    def commands(self) -> list[str]:
        """Lines for a shell that copy the store, verify it and train on it."""
        name = shlex.quote(printable(self.name))
        lines = [f"clipfeat store pull {shlex.quote(self.url)} {name}"] if self.url else []
        return [
            *lines,
            f"clipfeat store verify {name}",
            f"clipfeat train vqa --store {name} --data vqa/ --out run",
        ]


def gather(store: FeatureStore, *, sampled: bool = True) -> Facts:
    """Return the facts of a store, with a survey of a sample of its records where `sampled`."""
    name = store_name(store)
    reasons, others = _reasons(store)
    return Facts(
        name=name,
        url=store.location if is_url(store.location) else None,
        summary=replace(summarize_store(store), path=name),
        reasons=reasons,
        other_reasons=others,
        survey=survey(store) if sampled and len(store) else None,
        thumbnails=read_thumbnails(store) if sampled else {},
    )


def store_name(store: FeatureStore) -> str:
    """Return the name of a store's folder; of a URL, its last part."""
    location = store.location.rstrip("/")
    if is_url(location):
        return re.sub("@[0-9a-f]{40}$", "", location.rpartition("/")[2])
    return Path(location).resolve().name


def _reasons(store: FeatureStore) -> tuple[tuple[Reason, ...], int]:
    """Return why ids have no record, and the number of ids whose reason is not listed."""
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    total = 0
    for batch in store.index_batches("image_id", "status", "reason"):
        for image_id, status, reason in rows_of(batch):
            if status == Status.OK:
                continue
            total += 1
            key = (status, reason)
            if key in examples or len(examples) < MOST_DISTINCT:
                examples.setdefault(key, image_id)
                counts[key] += 1
    frequent = counts.most_common(MOST_REASONS)
    listed = tuple(Reason(*key, n, examples[key]) for key, n in frequent)
    return listed, total - sum(reason.ids for reason in listed)


def sample_text(survey: Survey) -> str:
    """Return what was sampled, in a sentence."""
    cells = "" if survey.grid is None else f" with {survey.grid.channels.n:,} cells"
    whole = "all" if survey.records == survey.total else "a random sample of"
    text = f"{whole} {counted(survey.records, 'record')}{cells}".capitalize()
    if survey.unreadable:
        text += f"; {counted(len(survey.unreadable), 'record')} of the sample could not be used"
    return f"{text} (seed {SAMPLE_SEED}, padding left out)"


def number_rows(found: Survey) -> Iterator[tuple[str, str]]:
    """Yield (name, value) of what a sample of records shows."""
    if found.grid is not None:
        channels, norms = found.grid.channels, found.grid.norms
        dim = len(channels.mean)
        yield "mean of a channel", _range(channels.mean.tolist())
        yield "standard deviation of a channel", _range(channels.std.tolist())
        yield "zeros of a channel", f"{_range((100 * channels.zero_rate).tolist())} %"
        yield "dead channels (0 in every cell)", _numbered(channels.dead, dim)
        yield "constant channels (another value)", _numbered(channels.constant, dim)
        spread = f"{norms.mean.item():.4g}, standard deviation {norms.std.item():.4g}"
        yield "L2 norm of a cell", f"mean {spread}"
        yield "cells that are 0", f"{norms.zeros.item():,} of {channels.n:,}"
    for places in found.places:
        if places.bias is not None:
            text = (
                f"{100 * places.bias.share:.2g} % of the variance of cells; {100 * places.bias.chance:.2g} % if "
                f"features did not depend on the place"
            )
            yield f"place in a {places.shape} grid", text
        if places.dead:
            yield f"places of {places.shape} that are 0 in every image", f"{len(places.dead):,}"
    for each in found.unreadable[:5]:
        yield "could not be used", f"{each.image_id}: {each.reason}"


def _range(values: list[float]) -> str:
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    return f"{ordered[0]:.3g} to {ordered[-1]:.3g}, median {middle:.3g}"


def _numbered(channels: list[int], dim: int) -> str:
    """Return how many channels of `dim` there are, and the first of them."""
    more = ", ..." if len(channels) > 10 else ""
    first = f": {', '.join(map(str, channels[:10]))}{more}" if channels else ""
    return f"{len(channels):,} of {dim:,}{first}"
