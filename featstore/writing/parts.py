"""Make a store of the shards that parts have written, from the journal alone."""

# pyarrow has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.errors import StoreError, UsageError
from ...base.text import counted
from ..identity import Identity
from ..layout import JOURNAL, STORE_JSON, Layout, Part, Shard, part_with
from ..store import FeatureStore
from ..tables import reasons_text, rows_without_record
from .commit import Proof, commit_store, remove_leftovers, rollback
from .journal import Journal, Plan
from .lock import StoreLock, started_parts
from .run import Run

LISTED = 8  # shards and parts that a message names


def commit_parts(path: Path, *, break_lock: bool = False) -> "FeatureStore | MissingShards":
    """Make a store of the shards that parts have written to `path`; return it, or what is missing.

    A finished store is returned as it is. Every shard is read again, unless one has no receipt.
    Raises UsageError if nothing was begun at `path`, StoreError if the store is being written, if
    the journal is not that of one plan, or if no image gave a record: then the run is rolled back.
    """
    journal = Journal(path)
    if not journal.folder.is_dir():
        if (path / STORE_JSON).exists():
            return FeatureStore.open(path)
        raise UsageError(
            f"{path} is not a feature store: it contains neither {STORE_JSON} nor {JOURNAL}",
            code="E-STORE-ABSENT",
        )
    journal.create()
    with StoreLock(path, break_lock=break_lock) as lock:
        parent = FeatureStore.open(path) if (path / STORE_JSON).exists() else None
        if parent is not None and not journal.updates(parent.digest):
            remove_leftovers(path)
            return FeatureStore.open(path)
        plan = journal.plan()
        if plan is None:
            raise StoreError(
                f"{path} has no plan yet; run the clipfeat extract command again",
                code="E-PLAN-ABSENT",
            )
        if parent is None and plan.parent is not None:
            raise StoreError(
                f"{path} was being updated and has lost its {STORE_JSON}; copy it again from its "
                f"source",
                code="E-PLAN-PARENT",
            )
        return _commit_planned(path, plan, parent, lock)


def _commit_planned(
    path: Path, plan: Plan, parent: FeatureStore | None, lock: StoreLock
) -> "FeatureStore | MissingShards":
    """Commit the run that plan and receipts describe, or roll it back if no image gave a record."""
    identity = Identity.from_json(plan.identity)
    shards: list[Shard] = []
    with contextlib.closing(Proof(path)) as proof:
        for written in Journal(path).described(plan, identity.arrays):
            shards += written.shards
            proof.add(written)
        layout = Layout(plan.shard_records, tuple(shards))
        if len(layout.shards) < plan.shards:
            gaps = _gaps([shard.number for shard in layout.shards], plan.shards)
            ids = plan.ids - sum(len(shard.ids) for shard in layout.shards)
            return _missing(path, gaps, plan.shards, ids, changed=False)
        run = Run(path, identity, layout, parent)
        if run.plan != plan:
            raise StoreError(
                f"{path}: its receipts do not match its plan; run the same clipfeat extract "
                f"command again, which writes shards again that are not its own",
                code="E-PLAN-RECEIPTS",
            )
        run.check_places()
        changed = run.changed(proof.files)
        if changed:
            numbers = tuple(range(number, number + 1) for number in sorted(changed))
            ids = sum(len(shard.ids) for shard in layout.shards if shard.number in changed)
            return _missing(path, numbers, plan.shards, ids, changed=True)
        if run.produced_no_records():
            reasons = reasons_text(rows_without_record(run.rows(layout.shards)))
            lock.check_held()
            rollback(run)
            result = "no store was written" if parent is None else f"{path} is as it was"
            raise StoreError(
                f"no image gave a record, {result}: {reasons}", code="E-IMAGES-UNUSABLE"
            )
        return commit_store(run, lock, proof)


def _gaps(present: list[int], count: int) -> tuple[range, ...]:
    """Return the numbers below `count` that are not in a sorted list."""
    starts, ends = [-1, *present], [*present, count]
    gaps = (range(start + 1, end) for start, end in zip(starts, ends, strict=True))
    return tuple(gap for gap in gaps if gap)


def _missing(
    path: Path, shards: tuple[range, ...], planned: int, ids: int, *, changed: bool
) -> "MissingShards":
    """Return missing shards, with their parts if the locks show the number of parts."""
    totals = {part.of for part in started_parts(path)}
    parts: set[Part] = set()
    if len(totals) == 1:
        (of,) = totals
        for numbers in shards:
            first, last = (part_with(shard, planned, of) for shard in (numbers[0], numbers[-1]))
            parts.update(Part(k, of) for k in range(first.number, last.number + 1))
    return MissingShards(path, shards, planned, ids, changed, tuple(sorted(parts)))


@dataclass(frozen=True)
class MissingShards:
    """What must be written before a store can be committed."""

    path: Path
    shards: tuple[range, ...]  # their numbers
    planned: int  # shards of the run
    ids: int  # in the missing shards
    changed: bool  # they were written, and are not what their receipts say
    parts: tuple[Part, ...]  # to run again; none if the number of parts is not known

    def to_json(self) -> dict[str, Any]:
        """Return the same for scripts; shards as pairs of the first and the last number."""
        return {
            "store": str(self.path),
            "finished": False,
            "shards": self.planned,
            "missing": {
                "shards": [[numbers[0], numbers[-1]] for numbers in self.shards],
                "ids": self.ids,
                "parts": [str(part) for part in self.parts],
            },
        }

    def text(self) -> str:
        """Return a line for a person."""
        reason = "changed since they were written" if self.changed else "no receipt"
        count = sum(map(len, self.shards))
        shards = _listed(
            str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
            for numbers in self.shards
        )
        option = f" with --shard-range {_listed(map(str, self.parts))}" if self.parts else ""
        return (
            f"{self.path} lacks {counted(self.ids, 'id')} in {count} of {self.planned} shards ({reason}: {shards}); "
            f"run the same clipfeat extract command again{option}"
        )


def _listed(texts: Iterable[str]) -> str:
    some = list(texts)
    more = [f"{len(some) - LISTED} more"] if len(some) > LISTED else []
    return ", ".join([*some[:LISTED], *more])
