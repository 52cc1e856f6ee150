"""docs/reproduce.md, made from the rows: python -m benchmarks.paper --page."""

import re
import textwrap
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from .files import FILES
from .rehearsal import OF_ALL, RECIPES, SETTINGS, SMALL
from .rows import BFLOAT16, FLOAT32, Row, rows

PAGE = Path(__file__).parents[2] / "docs" / "reproduce.md"
WIDTH = 100
EIGHT = 6.4  # times as fast as one: 80 % of eight

HEAD = """\
# The paper, row by row

The tables of Shen et al. 2021, *How Much Can CLIP Benefit Vision-and-Language Tasks?*
([arXiv:2107.06383](https://arxiv.org/abs/2107.06383)), and the commands from public files to each number.
This page is written by `python -m benchmarks.paper --page` from `benchmarks/paper/rows.py`.

    python -m benchmarks.paper                                  # lists the rows
    make paper ROW=vqa-mcan-rn50x4 DATA=data/ OUT=paper-out/    # runs one
    make paper-dry                                              # rehearses all of them, small

`make paper` runs the commands of a row as they stand below, with DATA/ and OUT/ replaced. A step is not
run again once the file that it makes last exists; an interrupted extraction, import or training resumes.
Rows share steps: features are extracted once for all rows that need them.

**No row has been measured here yet.** Published numbers have their source beside them. The tables of the
paper itself could not be read, so neither the choice of rows nor the numbers that are "not found" were checked
against them. [training.md](training.md#departures-from-the-published-systems) lists what differs from the
published systems. VQA's test-dev and test-std, and GQA's test-std, are scored by the server of the
challenge, which takes the file of predictions.

## Estimates

- **Features** is the size of the numbers in the stores of a row before compression. Grids of ResNets are
  sparse, and take less.
- **Training** is an estimate from the number of operations, at {float32} TFLOP/s in float32 and {bfloat16}
  TFLOP/s in bfloat16 on one GPU, and with 80 % of eight times as much on eight. Nothing of this size has been
  run here. Extraction is not part of it: it is limited by reading and decoding images
  ([log.md](log.md)). The hours of SCST are of updates alone; drawing captions word by word
  comes on top.

## Files

| in DATA/ | file | published at | size |
|---|---|---|---|
{files}

Sizes are those that the publishers give; "not checked" where their page could not be read. The weights of
CLIP and of timm are downloaded by their libraries, and `bert-base-uncased` from Hugging Face's hub.
"""

DRY = """\
## The rehearsal

`make paper-dry` runs every command line on this page, end to end, on small generated data with the names and
in the formats of the files above. It replaces exactly this:

- models of `clipfeat extract` by small ones with random weights: {models};
- recipes by the same steps at a quarter of the size: {recipes};
- sizes of training, by `--set`: {all} everywhere, and {settings};
- BERT's weights and word pieces, which are a download, by random ones and pieces of the corpus
  (`model.bert=`);
- java, which is hidden: captions are scored by CIDEr-D alone.

Command lines run in forks of a process that has torch, so that each need not import it. The rows are
therefore known to run, and nothing more: scores of the rehearsal mean nothing. `.ci/run` rehearses two rows,
which the commit chooses.
"""


def page() -> str:
    """Return the page."""
    files = "\n".join(
        f"| {_code(file.place)} | {_code(file.name)}{f': {file.note}' if file.note else ''} | "
        f"<{file.address}> | {file.size} |"
        for file in FILES
    )
    head = HEAD.format(files=files, float32=round(FLOAT32 / 1e12), bfloat16=round(BFLOAT16 / 1e12))
    parts = [head, *_tables(), _dry()]
    return "\n".join(parts)


def _code(names: str) -> str:
    """Return names as code; a comma without a space after it is part of a name."""
    return ", ".join(f"`{name}`" for name in names.split(", "))


def _tables() -> Iterator[str]:
    for title, group in groupby(rows(), key=lambda row: row.table):
        several = list(group)
        yield f"## {title}\n"
        yield "| row | features | published | ours | features, GB | training, hours on 1 (8) GPUs |"
        yield "|---|---|---|---|---|---|"
        for row in several:
            yield _line(row)
        yield ""
        for row in several:
            yield from _commands(row)


def _line(row: Row) -> str:
    cost = _short(row.stores / 1e9), f"{_short(row.hours)} ({row.hours / EIGHT:,.1f}), estimate"
    note = f"; {row.note}" if row.note else ""
    cells = (f"`{row.name}`", f"{row.title}{note}", row.published, row.ours, *cost)
    return f"| {' | '.join(cells)} |"


def _short(number: float) -> str:
    """Return a number without decimals, or with one where it would be 0."""
    return f"{number:,.0f}" if number >= 0.5 else f"{number:,.1f}"


def _commands(row: Row) -> Iterator[str]:
    yield f"`{row.name}`:\n"
    for step in row.steps:
        # An option stays with its value.
        joined = re.sub(r"(?<= )(-\S+) (?=[^- ])", "\\1\xa0", step.command)
        lines = textwrap.wrap(
            joined,
            WIDTH,
            initial_indent=" " * 4,
            subsequent_indent=" " * 8,
            break_long_words=False,
            break_on_hyphens=False,
        )
        yield " \\\n".join(lines).replace("\xa0", " ")
    yield ""


def _dry() -> str:
    models = ", ".join(
        f"`{name}` by {'a config of open_clip' if isinstance(small, dict) else f'`{small}`'}"
        for name, small in SMALL.items()
    )
    recipes = ", ".join(
        f"`{name}` by {f'`{small}`' if isinstance(small, str) else 'a file of its steps'}"
        for name, small in RECIPES.items()
        if small != name
    )
    settings = "; ".join(
        f"{', '.join(f'`{each}`' for each in several)} with `{preset}`"
        for preset, several in SETTINGS.items()
    )
    return DRY.format(
        models=models,
        recipes=recipes,
        settings=settings,
        all=" and ".join(f"`{each}`" for each in OF_ALL),
    )
