"""What our store must reach, as ratios to its peers."""

from collections.abc import Mapping
from dataclasses import dataclass

from .formats import NPZ, RAW, ZSTD
from .measure import Rates, Written

NPY_HEADER = 128  # bytes before the data of a .npy file


@dataclass(frozen=True)
class Target:
    """One ratio and its bound."""

    what: str
    ratio: float | None  # None: a peer is not installed
    bound: float
    at_least: bool

    @property
    def verdict(self) -> str:
        """met, missed or not measured."""
        if self.ratio is None:
            return "not measured"
        met = self.ratio >= self.bound if self.at_least else self.ratio <= self.bound
        return "met" if met else "missed"

    def __str__(self) -> str:
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        sign = ">=" if self.at_least else "<="
        return f"{self.what:<62} {ratio:>7}  {sign} {self.bound:<5g} {self.verdict}"


def targets(
    rates: Mapping[str, Mapping[str, Rates]],  # {task: {reader: rates}}
    written: Mapping[str, Written],
    float32_npy_bytes: int,
) -> list[Target]:
    """Return every target with what was measured."""

    def faster(task: str, reader: str, peer: str) -> float | None:
        """How many times the peer's rate, which is the peer's time over the reader's."""
        medians = rates[task]
        if reader not in medians or peer not in medians:
            return None
        return medians[reader].median / medians[peer].median

    def smaller(peer_bytes: int) -> float:
        return written[ZSTD].bytes / peer_bytes

    raw, unverified, zstd = f"{RAW}: ours", f"{RAW}: ours, verification off", f"{ZSTD}: ours"
    lmdb, alone = "LMDB: LMDB", f"{ZSTD}: decompressor alone"
    return [
        Target(
            "raw single reads, verified: rate / zarr-python's",
            faster("single", raw, f"{RAW}: zarr-python"),
            10,
            at_least=True,
        ),
        Target("... time / LMDB's", faster("single", lmdb, raw), 3, at_least=False),
        Target(
            "... verification off: time / LMDB's",
            faster("single", lmdb, unverified),
            1.3,
            at_least=False,
        ),
        Target(
            "raw batches of 512: rate / tensorstore's",
            faster("batch 512", raw, f"{RAW}: tensorstore"),
            4,
            at_least=True,
        ),
        Target(
            "zstd batches of 512, out=: rate / the decompressor alone",
            faster("batch 512", f"{zstd}, out=", alone),
            0.9,
            at_least=True,
        ),
        Target(
            "... into new memory: rate / the decompressor alone",
            faster("batch 512", zstd, alone),
            0.9,
            at_least=True,
        ),
        Target("bytes, zstd / float32 .npy", smaller(float32_npy_bytes), 0.17, at_least=False),
        Target("bytes, zstd / float32 npz", smaller(written[NPZ].bytes), 0.6, at_least=False),
    ]
