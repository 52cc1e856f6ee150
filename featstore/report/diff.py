"""Compare two stores: their identities, their ids, and the features of the ids that both have."""

import heapq
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from ..geometry import GridShape
from ..identity import Identity
from ..lookup import Status
from ..metadata import different_values
from ..store import FeatureStore
from ..tables import IndexRow
from .deviation import TOLERANCE, Deviation, deviation, relative_error

CHUNK = 32  # records of each store in memory at a time
EXAMPLES = 10  # ids that a list names; the rest is counted
QUANTILES = {"least": 0.0, "1 %": 0.01, "median": 0.5, "99 %": 0.99, "largest": 1.0}


@dataclass
class Named:
    """Things of a kind: how many, and the first of them."""

    count: int = 0
    first: list[str] = field(default_factory=list[str])

    def add(self, text: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.first) < EXAMPLES:
            self.first.append(text)

    def lines(self, title: str) -> list[str]:
        """Return a line with the number, if any, and a line for each of the first."""
        if not self.count:
            return []
        more = ["  ..."] if self.count > len(self.first) else []
        return [f"{title}: {self.count:,}", *(f"  {text}" for text in self.first), *more]


@dataclass
class StoreDiff:
    """What differs between the stores A and B. Quantiles and the worst are of compared records."""

    digests: tuple[str, str]
    identity: list[str]  # a line for each value in which the identities differ
    tolerance: float  # relative error that the less exact precision of the two allows
    only_a: Named = field(default_factory=Named)  # ids
    only_b: Named = field(default_factory=Named)
    statuses: Named = field(default_factory=Named)  # of ids with a record in one of the two
    grid_shapes: Named = field(default_factory=Named)  # of ids whose records differ in it
    arrays: list[str] = field(default_factory=list[str])  # that one of the two lacks
    compared: int = 0  # records
    same_bits: int = 0
    cosine: dict[str, float] = field(default_factory=dict[str, float])  # least of a record's cells
    relative_error: dict[str, float] = field(default_factory=dict[str, float])
    worst: list[Deviation] = field(default_factory=list[Deviation])

    @property
    def verdict(self) -> str:
        """Return `same bits`, `same features`, or `DIFFERENT`.

        Identities may differ: that of a store with another codec does. An id, a record or an array
        that one of the stores lacks makes them different.
        """
        lists = (self.only_a, self.only_b, self.statuses, self.grid_shapes)
        if self.arrays or any(each.count for each in lists):
            return "DIFFERENT"
        if self.same_bits == self.compared:
            return "same bits"
        within = self.relative_error["largest"] <= self.tolerance  # of NaN this is False
        return "same features" if within else "DIFFERENT"

    @property
    def is_same(self) -> bool:
        """Whether the stores have the same features, to within the tolerance."""
        return self.verdict != "DIFFERENT"

    def to_json(self) -> dict[str, Any]:
        """Return the comparison for scripts."""
        return {"verdict": self.verdict, **asdict(self)}

    def text(self) -> str:
        """Return lines for people."""
        a, b = self.digests
        lines = [f"digest A: {a}", f"digest B: {b}", *self.identity, *self.arrays]
        lines += self.only_a.lines("ids only in A") + self.only_b.lines("ids only in B")
        lines += self.statuses.lines("ids with a record in only one store")
        lines += self.grid_shapes.lines("ids with other grid shapes")
        lines.append(f"{self.compared:,} records compared, {self.same_bits:,} with the same bits")
        if self.same_bits < self.compared:
            for title, values in (
                ("least cosine of a cell", self.cosine),
                ("relative error", self.relative_error),
            ):
                shown = ", ".join(f"{value:.6g} ({name})" for name, value in values.items())
                lines.append(f"{title}: {shown}")
            lines.append(f"largest relative errors, {self.tolerance:g} is allowed:")
            lines += [
                f"  {each.image_id}: {each.relative_error:.3g}, least cosine of a cell "
                f"{each.cosine:.6f}"
                for each in self.worst
            ]
        return "\n".join([*lines, f"verdict: {self.verdict}"])


def diff(a: FeatureStore, b: FeatureStore) -> StoreDiff:
    """Compare two stores; B is the reference for relative errors.

    Both are read in step, by id, with CHUNK records of each in memory, and 8 bytes for each compared
    id. A record whose sha256 is the same in both indexes is not read: `verify` checks that it is
    what the index says. Grids are compared as readers get them. Raises CorruptStoreError for changed
    bytes.
    """
    found = StoreDiff(
        (a.digest, b.digest),
        [
            f"{name}: A {value}, B {other}"
            for name, value, other in different_values(a.identity.to_json(), b.identity.to_json())
        ],
        max(TOLERANCE[store.identity.precision] for store in (a, b)),
        arrays=_other_arrays(a.identity, b.identity),
    )
    if a.digest == b.digest:
        found.compared = found.same_bits = len(a)
        return found
    cosines, errors = array("f"), array("f")
    with tqdm(total=min(len(a), len(b)), desc="diff", unit="image", disable=None) as bar:

        def different() -> Iterator[Deviation]:
            for each in _deviations(a, b, _common(a, b, found)):
                found.compared += 1
                found.same_bits += each.same_bits
                cosines.append(each.cosine)
                errors.append(each.relative_error)
                bar.update()
                if not each.same_bits:
                    yield each

        found.worst = heapq.nlargest(EXAMPLES, different(), key=lambda each: each.relative_error)
    found.cosine, found.relative_error = _quantiles(cosines), _quantiles(errors)
    return found


def _other_arrays(a: Identity, b: Identity) -> list[str]:
    """Return a line for each array that is not of the same kind in both stores."""
    lines = [f"{name}: only one of the stores has it" for name in {*a.arrays} ^ {*b.arrays}]
    for name in {*a.arrays} & {*b.arrays}:
        one, other = (each.array(name, GridShape(1, 1)).shape[-1] for each in (a, b))
        if one != other:
            lines.append(f"{name}: {one} channels in A, {other} in B; it is not compared")
    return sorted(lines)


def _common(
    a: FeatureStore, b: FeatureStore, found: StoreDiff
) -> Iterator[tuple[IndexRow, IndexRow]]:
    """Yield the rows of ids that have a record of one grid shape in both stores; note the others."""
    for row, other in _in_step(a.index, b.index):
        if not (row and other):
            if row:
                found.only_a.add(row.image_id)
            if other:
                found.only_b.add(other.image_id)
        elif (row.status == Status.OK) != (other.status == Status.OK):
            found.statuses.add(f"{row.image_id}: {row.status} in A, {other.status} in B")
        elif row.status == Status.OK and row.shape != other.shape:
            found.grid_shapes.add(f"{row.image_id}: {row.shape} in A, {other.shape} in B")
        elif row.status == Status.OK:
            yield row, other


def _in_step(
    a: Iterator[IndexRow], b: Iterator[IndexRow]
) -> Iterator[tuple[IndexRow | None, IndexRow | None]]:
    """Yield the rows of both indexes by id, None for an index that does not have the id."""
    row, other = next(a, None), next(b, None)
    while row and other:
        if row.image_id == other.image_id:
            yield row, other
            row, other = next(a, None), next(b, None)
        elif row.image_id < other.image_id:
            yield row, None
            row = next(a, None)
        else:
            yield None, other
            other = next(b, None)
    while row:
        yield row, None
        row = next(a, None)
    while other:
        yield None, other
        other = next(b, None)


def _deviations(
    a: FeatureStore, b: FeatureStore, rows: Iterable[tuple[IndexRow, IndexRow]]
) -> Iterator[Deviation]:
    """Yield how far the records of A are from those of B; nothing if their cells have other dims."""
    alike = _storage(a.identity) == _storage(b.identity)
    to_read: list[str] = []
    for row, other in rows:
        if a.dim != b.dim:
            continue  # the rows are still counted
        if alike and row.record_sha256 == other.record_sha256:
            yield Deviation(row.image_id, 1.0, 0.0, same_bits=True)
            continue
        to_read.append(row.image_id)
        if len(to_read) == CHUNK:
            yield from _compare(a, b, to_read)
            to_read = []
    if to_read:
        yield from _compare(a, b, to_read)


def _storage(identity: Identity) -> tuple[Any, ...]:
    """Return what decides which numbers the bytes of a record stand for."""
    return (
        identity.codec,
        identity.dtype,
        identity.order,
        identity.scale_sha256,
        identity.arrays,
        identity.pooled_dim,
    )


def _compare(a: FeatureStore, b: FeatureStore, ids: Sequence[str]) -> Iterator[Deviation]:
    """Read records of the same grid shapes from both stores, and yield how far they are apart."""
    first, second = a.read(ids), b.read(ids)
    for k, image_id in enumerate(ids):
        cells = int(first.grid_shapes[k].prod())
        found = deviation(image_id, first.features[k, :cells], second.features[k, :cells])
        for name in a.identity.arrays[1:]:
            values, reference = getattr(first, name)[k], getattr(second, name)
            if reference is None or reference[k].shape != values.shape:
                continue  # `_other_arrays` says so
            if not np.array_equal(values, reference[k]):
                is_class = name == "classes"  # numbers that stand for names: right or wrong
                error = 1.0 if is_class else relative_error(values, reference[k])
                worse = max(found.relative_error, error)
                found = replace(found, relative_error=worse, same_bits=False)
        yield found


def _quantiles(values: "array[float]") -> dict[str, float]:
    if not values:
        return {}
    levels = list(QUANTILES.values())
    found = np.quantile(np.array(values), levels, method="inverted_cdf").tolist()
    return dict(zip(QUANTILES, found, strict=True))
