"""Finish a store from its journal alone: without images, a backbone or who wrote the shards."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.errors import UsageError
from ..errors import StoreError
from ..format import JOURNAL, STORE_JSON, Identity
from ..layout import Layout
from ..refused import reasons_text, refused_rows
from ..store import FeatureStore
from .finish import finish
from .journal import Journal
from .part import Part, part_with
from .run import Run
from .store_lock import StoreLock
from .tidy import discard, tidy

MOST = 8  # shards and parts that are named to a person


@dataclass(frozen=True)
class Lacking:
    """What must be written before a store can be finished."""

    path: Path
    shards: tuple[range, ...]  # numbers of those that are lacking
    of: int  # shards that were planned
    ids: int  # in those that are lacking
    changed: bool  # they were written, and are not what their receipts say
    parts: tuple[Part, ...]  # to run again; none if it is not known in how many it was written

    def to_json(self) -> dict[str, Any]:
        """Return the same for scripts; shards as pairs of the first and the last number."""
        return {
            "store": str(self.path),
            "finished": False,
            "shards": self.of,
            "missing": {
                "shards": [[numbers[0], numbers[-1]] for numbers in self.shards],
                "ids": self.ids,
                "parts": [str(part) for part in self.parts],
            },
        }

    def text(self) -> str:
        """Return a line for a person."""
        what = "changed since they were written" if self.changed else "no receipt"
        count = sum(numbers[-1] - numbers[0] + 1 for numbers in self.shards)
        which = _listed(
            str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
            for numbers in self.shards
        )
        where = f" with --shard-range {_listed(map(str, self.parts))}" if self.parts else ""
        ids = "1 id" if self.ids == 1 else f"{self.ids} ids"
        return (
            f"{self.path} lacks {ids} in {count} of {self.of} shards ({what}: {which}); "
            f"type the same clipfeat extract command again{where}"
        )


def _listed(texts: Iterable[str]) -> str:
    some = list(texts)
    more = [f"{len(some) - MOST} more"] if len(some) > MOST else []
    return ", ".join([*some[:MOST], *more])


def finish_store(
    path: Path, *, break_lock: bool = False, say: Callable[[str], None] = lambda line: None
) -> FeatureStore | Lacking:
    """Make a store of the shards that are down at `path`; return it, or what is lacking.

    A store that is finished is returned as it is. Every shard is read again, unless one has no
    receipt. Raises UsageError if no store was begun there, StoreError if it is being written,
    if the journal is not that of one plan, or if no image gave a record: then the run is undone.
    """
    journal = Journal(path)
    if not journal.folder.is_dir():
        if (path / STORE_JSON).exists():
            return FeatureStore.open(path)
        raise UsageError(f"{path} is no feature store: it holds neither {STORE_JSON} nor {JOURNAL}")
    journal.create()
    lock = StoreLock(journal)
    taken_over = lock.acquire(break_lock=break_lock)
    try:
        for gone in taken_over:
            say(f"Taking over the lock of {gone}, which is gone")
        plan = journal.plan()
        parent = FeatureStore.open(path) if (path / STORE_JSON).exists() else None
        if parent is not None and (plan is None or plan["parent"] != parent.digest):
            tidy(path)
            return FeatureStore.open(path)
        if plan is None:
            raise StoreError(f"{path} has no plan yet; type the clipfeat extract command again")
        if parent is None and plan["parent"] is not None:
            raise StoreError(f"{path} was being added to and has lost its {STORE_JSON}")
        return _finish_planned(path, plan, parent, lock)
    finally:
        lock.release()


def _finish_planned(
    path: Path, plan: dict[str, Any], parent: FeatureStore | None, lock: StoreLock
) -> FeatureStore | Lacking:
    identity, journal = Identity.from_json(plan["identity"]), Journal(path)
    found = (
        journal.described(number, plan["shard_records"], identity.arrays)
        for number in journal.numbers()
        if number < plan["shards"]
    )
    described = [of_one for of_one in found if of_one is not None]
    layout = Layout(plan["shard_records"], tuple(shard for shard, _ in described))
    if len(layout.shards) < plan["shards"]:
        gaps = _gaps([shard.number for shard in layout.shards], plan["shards"])
        ids = plan["ids"] - sum(len(shard.ids) for shard in layout.shards)
        return _lacking(journal, gaps, plan["shards"], ids, changed=False)
    run = Run(path, identity, layout, parent)
    if run.plan() != plan:
        raise StoreError(
            f"{path}: its receipts are not those of its plan; type the same clipfeat extract "
            f"command again, which writes anew what is not its own"
        )
    run.check_places()
    changed = run.changed({shard.number: files for shard, files in described})
    if changed:
        numbers = tuple(range(number, number + 1) for number in sorted(changed))
        ids = sum(len(shard.ids) for shard in layout.shards if shard.number in changed)
        return _lacking(journal, numbers, plan["shards"], ids, changed=True)
    if run.is_in_vain():
        why = reasons_text(refused_rows(run.rows(layout.shards)))
        lock.check_held()
        discard(run)
        what = "no store was written" if parent is None else f"{path} is as it was"
        raise StoreError(f"no image gave a record, {what}: {why}")
    return finish(run, lock)


def _gaps(there: list[int], count: int) -> tuple[range, ...]:
    """Return the numbers below `count` that are not in a sorted list."""
    starts, ends = [-1, *there], [*there, count]
    gaps = (range(start + 1, end) for start, end in zip(starts, ends, strict=True))
    return tuple(gap for gap in gaps if gap)


def _lacking(
    journal: Journal, shards: tuple[range, ...], count: int, ids: int, *, changed: bool
) -> Lacking:
    """Name the parts as well, if their locks tell into how many the shards were cut."""
    cuts = {part.of for part in journal.parts()}
    parts: set[Part] = set()
    if len(cuts) == 1:
        (of,) = cuts
        for some in shards:
            first, last = (part_with(shard, count, of).number for shard in (some[0], some[-1]))
            parts.update(Part(number, of) for number in range(first, last + 1))
    return Lacking(journal.store, shards, count, ids, changed, tuple(sorted(parts)))
