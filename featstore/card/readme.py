"""README.md of a store, with the header of a dataset on the Hub; nothing is guessed."""

import json
import re
from collections.abc import Iterable, Iterator

from ...base.text import printable_lines
from ..layout import table_file
from ..lookup import Status
from ..metadata import StoreMetadata
from .facts import Facts, number_rows, sample_text
from .survey import Survey

MARK = "<!-- written by clipfeat store card -->"
# Licences that the Hub knows by name; any other is given as "other", with its name in letters that
# the Hub takes.
# https://huggingface.co/docs/hub/repositories-licenses
LICENCES = frozenset(
    [
        "apache-2.0",
        "bsd-2-clause",
        "bsd-3-clause",
        "cc-by-2.0",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-nc-4.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-4.0",
        "cc-by-nd-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc0-1.0",
        "gpl-3.0",
        "mit",
        "odbl",
    ]
)
# The Hub's ranges of the number of rows.
# https://github.com/huggingface/hub-docs/blob/main/datasetcard.md
SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
)
LARGEST = "n>1B"
TASK = "image-feature-extraction"  # one of the Hub's task categories


def readme(
    facts: Facts, *, folder: str = "", licence_file: str | None = None, page: str | None = None
) -> str:
    """Return README.md of the dataset that has a store in its folder `folder`, "" for its root.

    `licence_file` is the file of the dataset with the text of the licence, if it has one, `page` the
    HTML page of the card.
    """
    metadata = facts.summary.metadata
    about = metadata.about
    header = "\n".join(["---", *_header(metadata, folder, licence_file), "---"])
    parts = [
        f"{header}\n{MARK}",
        f"# {_text(facts.title)}",
        f"{_text(facts.sentence)[:1].upper()}{_text(facts.sentence)[1:]}.",
        (about.description or "").replace("<", "\\<"),  # Markdown of people, but no HTML
        f"[The same with pictures and plots]({page})" if page else "",
        _table(_rows(facts)),
        *_ids(facts),
        *_numbers(facts.survey),
        "## Use",
        "A feature store of [clipfeat](https://github.com/clipfeat/clipfeat).",
        _code("bash", facts.commands),
        _code("python", facts.load),
        *(("## Citation", _code("", about.citation.split("\n"))) if about.citation else ()),
    ]
    return printable_lines("\n\n".join(filter(None, parts)).expandtabs(4)) + "\n"


def _header(metadata: StoreMetadata, folder: str, licence_file: str | None) -> Iterator[str]:
    """Yield the lines of the header, as YAML."""
    about, records = metadata.about, metadata.counts[Status.OK]
    if about.licence:
        name = re.sub("[^a-z0-9.]+", "-", about.licence.lower()).strip("-")
        if name in LICENCES:
            yield f"license: {name}"
        else:
            yield "license: other"
            yield f"license_name: {_yaml(name[:80] or 'custom')}"
            if licence_file:
                yield f"license_link: {licence_file}"
    if about.title:
        yield f"pretty_name: {_yaml(about.title)}"
    yield "size_categories:"
    yield f"- {next((name for most, name in SIZES if records < most), LARGEST)}"
    yield from ("task_categories:", f"- {TASK}")
    yield from ("tags:", "- clipfeat", "- zarr", "- image-features")
    yield "configs:"  # what the Hub shows as a table
    yield "- config_name: index"
    yield f"  data_files: {_yaml(folder + table_file('index', metadata.generation))}"


def _rows(facts: Facts) -> Iterator[tuple[str, str]]:
    about = facts.summary.metadata.about
    yield from facts.licences.items()
    if about.homepage:
        yield "homepage", about.homepage
    yield from facts.rows()


def _ids(facts: Facts) -> Iterator[str]:
    """Yield the section on ids without a record, if there are any."""
    if not facts.reasons:
        return
    yield "## Ids without a record"
    lines = ["| ids | status | reason | such as |", "|---:|---|---|---|"]
    for reason in facts.reasons:
        cells = (f"{reason.ids:,}", reason.status, _text(reason.text), _text(reason.example))
        lines.append(f"| {' | '.join(cells)} |")
    if facts.other_reasons:
        lines.append(f"| {facts.other_reasons:,} | | other reasons | |")
    yield "\n".join(lines)


def _numbers(found: Survey | None) -> Iterator[str]:
    """Yield the section on the numbers of the features, if any record was looked at."""
    if found is None:
        return
    yield "## Numbers"
    yield f"{_text(sample_text(found))}."
    yield _table(number_rows(found))


def _table(rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {_text(name)} | {_text(value)} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines])


def _text(text: str) -> str:
    """Return a text on one line, in which Markdown and HTML have no meaning."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))


def _code(language: str, lines: Iterable[str]) -> str:
    """Return a block of code, in a fence that is longer than any in it."""
    text = "\n".join(lines)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _yaml(text: str) -> str:
    """Return a text as YAML, of which the texts of JSON are a part; the rest has YAML's escapes."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)
