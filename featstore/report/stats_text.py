"""What `clipfeat store stats` prints for a person."""

from collections.abc import Iterator

import numpy as np

from ...base.text import printable
from .stats import StoreStats
from .vector_stats import VectorStats

MOST_BINS = 16  # lines of a histogram
WIDTH = 40  # characters of its longest bar
EIGHTHS = " ▏▎▍▌▋▊▉█"
MOST_CHANNELS = 10  # that a warning names


def stats_text(stats: StoreStats) -> str:
    """Return tables, histograms and warnings as lines that a person reads."""
    grid, dim = stats.grid, len(stats.grid.channels.mean)
    cells = f"{grid.channels.n:,} cells of {dim:,} channels"
    lines = [f"{printable(stats.path)}: {stats.records:,} records, {cells}"]
    lines += _section("cells", grid)
    if stats.pooled:
        length = f"{len(stats.pooled.channels.mean):,} channels"
        lines += ["", f"pooled vectors: {stats.pooled.channels.n:,} of {length}"]
        lines += _section("pooled vectors", stats.pooled)
    return "\n".join(lines)


def _section(what: str, stats: VectorStats) -> list[str]:
    return [
        "",
        *_table(what, stats),
        "",
        *_histogram(what, stats),
        "",
        *_warnings(what, stats),
    ]


def _table(what: str, stats: VectorStats) -> Iterator[str]:
    """Yield the spread over channels of each channel's own numbers."""
    channels = stats.channels
    yield f"{f'over all {what}':<26}  lowest channel  median channel  highest channel"
    rows = (
        ("mean", channels.mean),
        ("standard deviation", channels.std),
        ("smallest value", channels.low),
        ("largest value", channels.high),
        ("zeros, %", 100 * channels.zero_rate),
    )
    for name, values in rows:
        numbers = (values.min(), np.median(values), values.max())
        yield f"  {name:<24}" + "".join(f"{number:>16.4g}" for number in numbers)


def _histogram(what: str, stats: VectorStats) -> Iterator[str]:
    """Yield the L2 norms as bars, a line a bin."""
    norms = stats.norms
    spread = f"mean {norms.mean.item():.4g}, standard deviation {norms.std.item():.4g}"
    extremes = f"from {norms.low.item():.4g} to {norms.high.item():.4g}"
    yield f"L2 norm of {what}: {spread}, {extremes}"
    yield f"  {'norm':>21}  number of {what}"
    edges, counts = stats.histogram(MOST_BINS)
    highest = max([*counts.tolist(), norms.zeros.item()])
    if norms.zeros.item():
        yield f"  {'exactly 0':>21}  {_bar(norms.zeros.item(), highest)}"
    for start, end, count in zip(edges[:-1], edges[1:], counts.tolist(), strict=True):
        yield f"  {start:>9.4g} - {end:<9.4g}  {_bar(count, highest)}"


def _bar(count: int, highest: int) -> str:
    """Return a bar with its count; anything above 0 shows, however small its share."""
    eighths = -(-count * WIDTH * 8 // highest)
    full, rest = divmod(eighths, 8)
    bar = EIGHTHS[8] * full + EIGHTHS[rest].strip()
    return f"{bar} {count:,}"


def _warnings(what: str, stats: VectorStats) -> Iterator[str]:
    """Yield a line for each thing that features should not be, or one that says all is well."""
    channels, zero = stats.channels, stats.norms.zeros.item()
    dim = len(channels.mean)
    flags = (
        (f"dead channels (0 in all {what})", channels.dead),
        (f"constant channels (one other value in all {what})", channels.constant),
    )
    for name, flagged in flags:
        if flagged:
            named = ", ".join(map(str, flagged[:MOST_CHANNELS]))
            more = ", ..." if len(flagged) > MOST_CHANNELS else ""
            yield f"WARNING: {len(flagged):,} of {dim:,} are {name}: {named}{more}"
    if zero:
        yield f"WARNING: {zero:,} of {channels.n:,} {what} are 0 in every channel"
    if not (channels.dead or channels.constant or zero):
        yield f"No channel is dead or constant, and none of the {what} is 0 in every channel."
