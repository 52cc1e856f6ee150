"""Statistics of many vectors of one kind: the cells of a store's grids, or its pooled vectors."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from .moments import Moments

BINS_AN_OCTAVE = 16  # a bin of norms is 4.4% wide
# Fixed edges, so that partial counts add up: powers of 2 ** (1 / 16) from the smallest float32
# above 0 to beyond the norm of MAX_DIM channels of the largest. No norm falls outside.
EDGES = np.exp2(np.arange(-149 * BINS_AN_OCTAVE, 137 * BINS_AN_OCTAVE + 1) / BINS_AN_OCTAVE)


@dataclass(frozen=True)
class VectorStats:
    """What is known of some vectors of `dim` channels."""

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

        There is one edge more than counts. Neighbours are joined, in twos, fours and so on,
        until there are no more than `most_bins` (2 or more).
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
