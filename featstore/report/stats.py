"""Statistics of the features of a store: of each channel and of the norms, as numbers and text."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyarrow has no types, and those of dask are partial.

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, Self

import numpy as np
from dask.base import compute
from dask.delayed import delayed
from tqdm import tqdm

from ...base.errors import StoreError
from ...base.parquet import rows_of
from ...base.text import printable
from ..geometry import GridShape
from ..lookup import Status
from ..shards import thread_count
from ..store import FeatureStore
from .moments import Moments
from .spectrum import CONDITION, SHARES, Spectrum, store_spectrum

BINS_PER_OCTAVE = 16  # a bin of norms is 4.4% wide
# Fixed edges, so that partial counts add up: powers of 2 ** (1 / 16) from the smallest float32
# above 0 to beyond the norm of MAX_DIM channels of the largest. No norm lies outside.
EDGES = np.exp2(np.arange(-149 * BINS_PER_OCTAVE, 137 * BINS_PER_OCTAVE + 1) / BINS_PER_OCTAVE)


@dataclass(frozen=True)
class VectorStats:
    """The statistics of some vectors of `dim` channels."""

    channels: Moments  # (dim,)
    norms: Moments  # (1,), L2
    counts: np.ndarray  # (bin,) int64: vectors whose norm lies in EDGES[bin] ... EDGES[bin + 1]

    @classmethod
    def of(cls, vectors: np.ndarray) -> Self:
        """Return the statistics of (vector, channel) float64 numbers, at least one vector."""
        norms = np.sqrt(np.einsum("vc,vc->v", vectors, vectors))
        bins = np.searchsorted(EDGES, norms[norms > 0], side="right") - 1
        counts = np.bincount(bins, minlength=len(EDGES) - 1)
        return cls(Moments.of(vectors), Moments.of(norms[:, None]), counts)

    def merged(self, other: Self) -> Self:
        """Return the statistics of the vectors of both."""
        return type(self)(
            self.channels.merged(other.channels),
            self.norms.merged(other.norms),
            self.counts + other.counts,
        )

    def histogram(self, most_bins: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return (edges, counts) of the norms above 0, from the first bin in use to the last.

        Edges are one more than counts. Neighbours are joined, in twos, fours and so on, until at
        most `most_bins` (2 or more) are left.
        """
        if not self.counts.any():
            return np.empty(0), self.counts[:0]
        first, last = np.flatnonzero(self.counts)[[0, -1]].tolist()
        joined = 1
        while most_bins and last // joined - first // joined >= most_bins:
            joined *= 2
        starts = np.arange(first // joined * joined, last + 1, joined)
        ends = np.minimum([*starts, starts[-1] + joined], len(self.counts))
        return EDGES[ends], np.add.reduceat(self.counts, starts)

    def to_json(self) -> dict[str, Any]:
        """Return every number, for scripts; lists of channels are in their order."""
        channels, norms = self.channels, self.norms
        edges, counts = self.histogram()
        return {
            "vectors": channels.n,
            "dim": len(channels.mean),
            "dead": channels.dead,
            "constant": channels.constant,
            "channels": {
                "mean": channels.mean.tolist(),
                "std": channels.std.tolist(),
                "min": channels.low.tolist(),
                "max": channels.high.tolist(),
                "zero_rate": channels.zero_rate.tolist(),
            },
            "norms": {
                "mean": norms.mean.item(),
                "std": norms.std.item(),
                "min": norms.low.item(),
                "max": norms.high.item(),
                "zero": norms.zeros.item(),
                "edges": edges.tolist(),
                "counts": counts.tolist(),
            },
        }


FAN_IN = 8  # partial results that are merged at a time
BLOCK_NUMBERS = 1 << 20  # float64 at a time in each thread, 8 MiB

Sums = dict[str, VectorStats]  # by array: grid, and pooled where the store has it


@dataclass(frozen=True)
class StoreStats:
    """The statistics of the records of a store."""

    path: str
    digest: str
    records: int
    grid: VectorStats  # over every cell of every record
    pooled: VectorStats | None  # over the pooled vectors, where the store has them
    spectrum: Spectrum | None  # of a sample of cells, up to MAX_COVARIANCE_DIM channels

    def to_json(self) -> dict[str, Any]:
        """Return every number, for scripts."""
        return {
            "path": self.path,
            "digest": self.digest,
            "records": self.records,
            "cells": self.grid.channels.n,
            "grid": self.grid.to_json(),
            "pooled": self.pooled.to_json() if self.pooled else None,
            "spectrum": self.spectrum.to_json() if self.spectrum else None,
        }


def store_stats(store: FeatureStore) -> StoreStats:
    """Return the statistics of every record of `store`, each read and verified.

    A shard is a task, whose sums take about 200 kB at 2,560 channels; a tree merges them, in an
    order that does not depend on the threads, so a store always has the same numbers. In memory
    are the ids, about 100 bytes each, and for each thread one record, or as many as have
    BLOCK_NUMBERS numbers together. The spectrum is that of a sample, whose records are read again; it
    takes three arrays of dim^2 numbers. Raises CorruptStoreError for a record that has changed,
    StoreError for NaN or Inf, and if no id has a record.
    """
    shards = list(_ids_by_shard(store))
    if not shards:
        raise StoreError(
            f"{store.location}: no id has a record, so there is nothing to compute; "
            f"for the reasons type: clipfeat store ls {store.location}",
            code="E-STORE-EMPTY",
        )
    with tqdm(total=len(store), unit="record", desc="stats", disable=None) as bar:
        parts = [delayed(partial(_sum_shard, store, *shard, bar))() for shard in shards]
        while len(parts) > 1:
            groups = [parts[start : start + FAN_IN] for start in range(0, len(parts), FAN_IN)]
            parts = [delayed(_merge)(group) for group in groups]
        (sums,) = compute(*parts, scheduler="threads", num_workers=thread_count())
    return StoreStats(
        store.location,
        store.digest,
        len(store),
        sums["grid"],
        sums.get("pooled"),
        store_spectrum(store),
    )


def _ids_by_shard(store: FeatureStore) -> Iterator[tuple[GridShape, list[str]]]:
    """Yield each shard's grid shape and its ids that have a record."""
    shards: dict[tuple[str, int], list[str]] = {}
    for batch in store.index_batches("image_id", "status", "shape", "row"):
        for image_id, status, shape, row in rows_of(batch):
            if status == Status.OK:
                place = shape, row // store.metadata.shard_records
                shards.setdefault(place, []).append(image_id)
    for (shape, _), ids in shards.items():
        yield GridShape.parse(shape), ids


def _sum_shard(store: FeatureStore, shape: GridShape, ids: list[str], bar: "tqdm[Any]") -> Sums:
    """Return the sums over the records of `ids`, all of one grid shape, a few read at a time."""
    sums: Sums = {}
    size = max(1, BLOCK_NUMBERS // (shape.cells * store.dim))
    for start in range(0, len(ids), size):
        some = ids[start : start + size]
        records = store.read(some)
        arrays = {"grid": records.features}
        if records.pooled is not None:
            arrays["pooled"] = records.pooled
        for array, vectors in arrays.items():
            for block in _blocks(vectors):
                if not _is_finite(block):
                    bad = next(i for i, v in zip(some, vectors, strict=True) if not _is_finite(v))
                    raise StoreError(
                        f"{store.location}: the record of image id {bad!r:.100} contains NaN or "
                        f"Inf; type: clipfeat store verify --deep {store.location}",
                        code="E-STORE-NUMBERS",
                    )
                new = VectorStats.of(block)
                sums[array] = sums[array].merged(new) if array in sums else new
        with bar.get_lock():
            bar.update(len(some))
    return sums


def _is_finite(numbers: np.ndarray) -> bool:
    return bool(np.isfinite(numbers).all())


def _blocks(vectors: np.ndarray) -> Iterator[np.ndarray]:
    """Yield (vector, channel) numbers as float64, no more than BLOCK_NUMBERS at a time."""
    flat = vectors.reshape(-1, vectors.shape[-1])
    size = max(1, BLOCK_NUMBERS // flat.shape[1])
    for start in range(0, len(flat), size):
        yield flat[start : start + size].astype(np.float64)


def _merge(parts: list[Sums]) -> Sums:
    """Return the sums over the shards of all parts."""
    return {
        array: reduce(VectorStats.merged, [part[array] for part in parts]) for array in parts[0]
    }


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
    if stats.spectrum:
        lines += ["", *_spectrum(stats.spectrum)]
    if stats.pooled:
        length = f"{len(stats.pooled.channels.mean):,} channels"
        lines += ["", f"pooled vectors: {stats.pooled.channels.n:,} of {length}"]
        lines += _section("pooled vectors", stats.pooled)
    return "\n".join(lines)


def _section(noun: str, stats: VectorStats) -> list[str]:
    """Return the lines on some vectors, called `noun`."""
    return ["", *_table(noun, stats), "", *_histogram(noun, stats), "", *_warnings(noun, stats)]


def _spectrum(spectrum: Spectrum) -> Iterator[str]:
    """Yield how much of the variance of cells lies in a few directions."""
    yield f"principal directions of a sample of {spectrum.cells:,} cells"
    for count in SHARES:
        if count < len(spectrum.variances):
            yield f"  variance in the first {count:>3}, %{100 * spectrum.share(count):>16.4g}"
    yield f"  in one, of standardised channels, %{100 * spectrum.standardised:>6.4g}"
    most = min(CONDITION, len(spectrum.variances))
    yield f"  condition number of the first {most:>3}{spectrum.condition:>11.4g}"


def _table(noun: str, stats: VectorStats) -> Iterator[str]:
    """Yield the lowest, median and highest of all channels for each statistic."""
    channels = stats.channels
    yield f"{f'over all {noun}':<26}  lowest channel  median channel  highest channel"
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


def _histogram(noun: str, stats: VectorStats) -> Iterator[str]:
    """Yield the L2 norms as bars, a line a bin."""
    norms = stats.norms
    spread = f"mean {norms.mean.item():.4g}, standard deviation {norms.std.item():.4g}"
    extremes = f"from {norms.low.item():.4g} to {norms.high.item():.4g}"
    yield f"L2 norm of {noun}: {spread}, {extremes}"
    yield f"  {'norm':>21}  number of {noun}"
    edges, counts = stats.histogram(MOST_BINS)
    highest = max([*counts.tolist(), norms.zeros.item()])
    if norms.zeros.item():
        yield f"  {'exactly 0':>21}  {_bar(norms.zeros.item(), highest)}"
    for start, end, count in zip(edges[:-1], edges[1:], counts.tolist(), strict=True):
        yield f"  {start:>9.4g} - {end:<9.4g}  {_bar(count, highest)}"


def _bar(count: int, highest: int) -> str:
    """Return a bar with its count; every count above 0 is visible."""
    eighths = -(-count * WIDTH * 8 // highest)
    full, rest = divmod(eighths, 8)
    bar = EIGHTHS[8] * full + EIGHTHS[rest].strip()
    return f"{bar} {count:,}"


def _warnings(noun: str, stats: VectorStats) -> Iterator[str]:
    """Yield a line for each kind of suspicious features, or one if there are none."""
    channels, zero = stats.channels, stats.norms.zeros.item()
    dim = len(channels.mean)
    flags = (
        (f"dead channels (0 in all {noun})", channels.dead),
        (f"constant channels (one other value in all {noun})", channels.constant),
    )
    for name, flagged in flags:
        if flagged:
            named = ", ".join(map(str, flagged[:MOST_CHANNELS]))
            more = ", ..." if len(flagged) > MOST_CHANNELS else ""
            yield f"WARNING: {len(flagged):,} of {dim:,} are {name}: {named}{more}"
    if zero:
        yield f"WARNING: {zero:,} of {channels.n:,} {noun} are 0 in every channel"
    if not (channels.dead or channels.constant or zero):
        yield f"No channel is dead or constant, and none of the {noun} is 0 in every channel."
