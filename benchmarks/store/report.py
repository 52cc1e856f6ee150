"""The tables of one kind of records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .formats import NPZ
from .measure import Rates, Written
from .records import Records
from .targets import NPY_HEADER, Target, targets


@dataclass(frozen=True)
class Report:
    """What was measured on the records of one kind."""

    records: Records
    written: Mapping[str, Written]  # by format
    rates: Mapping[str, Mapping[str, Rates]]  # {task: {reader: rates}}
    peaks: Mapping[str, int]  # bytes, by reader

    @property
    def float32_npy_bytes(self) -> int:
        """Bytes of the records as float32 .npy files, which need not be written to be known."""
        return len(self.records) * NPY_HEADER + 2 * self.records.grids.nbytes

    @property
    def targets(self) -> list[Target]:
        """The targets, with what was measured."""
        return targets(self.rates, self.written, self.float32_npy_bytes)

    def __str__(self) -> str:
        kind = self.records.kind
        title = (
            f"{kind.name}: {kind.title}, {kind.shape}x{kind.dim} float16, "
            f"{self.records.grids[0].nbytes / 1e6:.2f} MB, {len(self.records)} records"
        )
        return "\n".join([title, "", *self._sizes(), "", *self._speeds(), "", *self._targets()])

    def _sizes(self) -> list[str]:
        columns = ("bytes/record", "/npy f32", "/npz f32", "write MB/s")
        lines = [_line("on disk", columns)]
        for name, written in self.written.items():
            cells = (
                f"{written.bytes / len(self.records):,.0f}",
                f"{written.bytes / self.float32_npy_bytes:.3f}",
                f"{written.bytes / self.written[NPZ].bytes:.3f}",
                f"{self.records.grids.nbytes / 1e6 / written.seconds:.0f}",
            )
            lines.append(_line(name, cells))
        return lines

    def _speeds(self) -> list[str]:
        lines = [_line("records/s (format: reader)", (*self.rates, "peak MB"))]
        for reader, peak in self.peaks.items():
            medians = (rates.get(reader) for rates in self.rates.values())
            cells = tuple("-" if rates is None else f"{rates.median:,.0f}" for rates in medians)
            lines.append(_line(reader, (*cells, f"{peak / 1e6:,.0f}")))
        return lines

    def _targets(self) -> list[str]:
        return ["targets", *map(str, self.targets)]

    def to_json(self) -> dict[str, Any]:
        """Return all numbers: of writing, records/s of every round, peaks of memory, targets."""
        return {
            "kind": self.records.kind.name,
            "record_shape": self.records.record_shape,
            "records": len(self.records),
            "float16_bytes": self.records.grids.nbytes,
            "float32_npy_bytes": self.float32_npy_bytes,
            "written": {name: vars(written) for name, written in self.written.items()},
            "records_per_second": {
                task: {reader: list(rates.rounds) for reader, rates in by_reader.items()}
                for task, by_reader in self.rates.items()
            },
            "peak_bytes": dict(self.peaks),
            "targets": [vars(target) | {"verdict": target.verdict} for target in self.targets],
        }


def _line(name: str, cells: Sequence[str]) -> str:
    return f"{name:<32}" + "".join(f"{cell:>14}" for cell in cells)
