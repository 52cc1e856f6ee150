"""Add to a finished store: which shards a larger manifest, or another try, asks for."""

from collections.abc import Collection, Mapping
from pathlib import Path

from ...base.errors import StoreError
from ..checks import size_problem
from ..format import JOURNAL, STORE_JSON, GridShape, Identity, differences
from ..layout import Layout, Shard, lay_out
from ..store import FeatureStore
from .journal import Journal


def check_place(path: Path) -> None:
    """Raise StoreError if something else than a store, or the beginning of one, is at `path`."""
    empty = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    if not (empty or (path / STORE_JSON).exists() or (path / JOURNAL).is_dir()):
        raise StoreError(f"{path} exists and is no feature store; choose another --out")


def finished_store(path: Path, identity: Identity) -> FeatureStore | None:
    """Return the store at `path` if it is finished, None if there is none or only a beginning.

    Raises StoreError if something else stands there, or a store of another identity.
    """
    check_place(path)
    if not (path / STORE_JSON).exists():
        return None
    store = FeatureStore.open(path)
    different = list(differences(store.identity.to_json(), identity.to_json()))
    if different:
        raise StoreError(f"{path} exists: {'; '.join(different)}; choose another --out")
    return store


def shard_records_at(path: Path) -> int | None:
    """Return how many records a shard has in the store or the beginning of one at `path`."""
    if (path / STORE_JSON).exists():
        return FeatureStore.open(path).card["shard_records"]
    plan = Journal(path).plan()
    return None if plan is None else plan["shard_records"]


def update_layout(
    store: FeatureStore,
    shapes: Mapping[str, GridShape],
    retry: Collection[str] = (),
    changed: Collection[str] = (),
) -> Layout:
    """Return the shards to write so that a finished store holds all of `{id: grid shape}`.

    These are the shards whose files are not there, where they were; then, behind everything,
    shards of the ids that the store does not know, of those whose status is in `retry`, and of
    those in `changed`, whose old records no id leads to any more. Raises StoreError if the store
    has an id that `shapes` has not.
    """
    shard_records: int = store.card["shard_records"]
    absent = _absent_shards(store)
    unknown = dict(shapes)
    lacking: list[str] = []
    anew: dict[str, GridShape] = {}
    rows: dict[tuple[str, int], list[tuple[int, str]]] = {place: [] for place in absent}
    for row in store.index:
        if unknown.pop(row.image_id, None) is None:
            lacking.append(row.image_id)
            continue
        place = (row.shape, row.row // shard_records)
        if place in rows:
            rows[place].append((row.row, row.image_id))
        elif row.status in retry or row.image_id in changed:
            anew[row.image_id] = shapes[row.image_id]
    if lacking:
        raise StoreError(
            f"{store.path} exists and holds {len(lacking)} images that are not asked for "
            f"(such as {lacking[0]!r}); to add to it, give all of its images and the new ones, "
            f"or choose another --out"
        )
    again = tuple(
        _shard_again(shape, index, absent[shape, index], sorted(held), shard_records)
        for (shape, index), held in sorted(rows.items())
    )
    taken = {shape: store.card["grid_shapes"][str(shape)] for shape in store.grid_shapes}
    return lay_out({**unknown, **anew}, shard_records, taken, again)


def _shard_again(
    shape: str, index: int, records: int, held: list[tuple[int, str]], shard_records: int
) -> Shard:
    """Return a shard of the packing list with the ids that it holds: none, if all have moved."""
    rows, ids = tuple(row for row, _ in held), tuple(image_id for _, image_id in held)
    first_row = index * shard_records
    return Shard(0, GridShape.parse(shape), index, first_row, records, ids, rows)


def _absent_shards(store: FeatureStore) -> dict[tuple[str, int], int]:
    """Return {(grid shape, index): rows covered} of shards without a file of full size.

    A run that was cut off while it wrote them again goes on with the same ones.
    """
    places = {s: (s.shape, s.first_row // store.card["shard_records"]) for s in store.shards}
    plan = Journal(store.path).plan()
    if plan is not None and plan["parent"] == store.digest:
        begun = {(shape, index) for shape, index in plan["again"]}
        return {place: shard.records for shard, place in places.items() if place in begun}
    return {
        place: shard.records for shard, place in places.items() if size_problem(store.path, shard)
    }
