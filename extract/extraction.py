"""The whole extraction: check, plan, run what is pending, finish the store."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from ..featstore import FeatureStore, Identity, Status, StoreError
from ..featstore.layout import Layout, is_written_again, lay_out
from ..featstore.refused import reasons_text, refused_rows, remarks
from ..featstore.write import SHARD_RECORDS
from ..featstore.writing.part_writer import PartWriter
from ..featstore.writing.tidy import finish_tidying
from ..featstore.writing.update import (
    check_place,
    finished_store,
    shard_records_at,
    update_layout,
)
from ..featstore.writing.writer import StoreWriter
from ..manifests import Manifest
from .errors import ExtractError, ExtractUsageError
from .planning.plan import shard_tasks
from .planning.space import shortage
from .prepare import Prepared, make_job, prepare
from .progress import Progress
from .report import Report
from .request import Request
from .running.profile import Spent


def extract_images(
    manifest: Manifest, out: Path, request: Request, *, say: Callable[[str], None]
) -> Report:
    """Extract the manifest's images into the store `out`, going on where a run was cut off.

    `say` takes lines for a person. Raises ExtractUsageError or StoreError before any work if
    the request cannot be met, ExtractError if no image gave a record.
    """
    check_place(out)
    prepared = prepare(manifest, request, say=say)
    identity = prepared.identity
    store = finished_store(out, identity)
    shard_records = _shard_records(out, request.shard_size)
    if store is None:
        if request.retry:
            raise StoreError(f"--retry tries ids of a finished store again; {out} is none")
        layout = lay_out(prepared.shapes, shard_records)
    else:
        check_same_images(manifest, store)
        layout = update_layout(store, prepared.shapes, request.retry)
        if not layout.shards:
            if request.part is None:  # tidying wants the store for itself
                finish_tidying(store, break_lock=request.break_lock)
            say(f"{out} is already complete")
            return Report(out, None, store, refused_rows(store.index), 0, 0, 0.0, Spent())
        say(f"{out} is finished; {_describe(layout, store)}")
    if warning := shortage(out, layout, identity):
        say(warning)
    started = time.monotonic()
    with _writer(out, identity, layout, store, request, say) as writer:
        progress = _run(manifest, out, layout.shard_records, writer, prepared, request, say)
        finished = None
        if isinstance(writer, StoreWriter):
            if writer.is_in_vain():
                why = reasons_text(refused_rows(writer.rows()))
                writer.discard()
                what = "no store was written" if store is None else f"{out} is as it was"
                raise ExtractError(f"no image gave a record, {what}: {why}")
            finished = writer.finish()
        refused = refused_rows(finished.index if finished else writer.rows())
        odd = remarks(finished.index if finished else writer.rows())
    seconds = time.monotonic() - started
    report = Report(
        out, request.part, finished, refused, progress.images, progress.bytes, seconds,
        progress.spent, odd,
    )  # fmt: skip
    report.write()
    return report


def _writer(
    out: Path,
    identity: Identity,
    layout: Layout,
    store: FeatureStore | None,
    request: Request,
    say: Callable[[str], None],
) -> StoreWriter | PartWriter:
    """Return who writes the whole store, or the part that was asked for."""
    if request.part is None:
        return StoreWriter(
            out, identity, layout, parent=store, break_lock=request.break_lock, say=say
        )
    return PartWriter(
        out, identity, layout, request.part, parent=store, break_lock=request.break_lock, say=say
    )


def _run(
    manifest: Manifest,
    out: Path,
    shard_records: int,
    writer: StoreWriter | PartWriter,
    prepared: Prepared,
    request: Request,
    say: Callable[[str], None],
) -> Progress:
    """Write the shards that are pending; return what was counted."""
    from .running.executors import execute

    tasks = shard_tasks(manifest, writer.pending, prepared.recipe)
    total = sum(len(shard.ids) for shard in writer.shards)
    down = total - sum(len(task.images) for task in tasks)
    if down:
        say(f"{down} images are already down; going on")
    progress = Progress(total, down, say)
    if not tasks:  # an earlier run was cut off while it finished the store
        return progress
    job = make_job(manifest, out, tasks, prepared, request, shard_records)
    steps = execute(tasks, job, prepared.devices, prepared.backbone, request.scheduler)
    try:
        with progress, contextlib.closing(steps):
            for step in steps:
                progress.add(step)
    except KeyboardInterrupt:
        down = sum(1 for _ in writer.rows())
        say(f"{down} of {total} images are down; those of the shards in hand are dropped")
        raise
    except ExtractError:
        if isinstance(writer, StoreWriter) and next(writer.rows(), None) is None:
            writer.discard()  # nothing is down: another try may be of another kind
        raise
    return progress


def _shard_records(out: Path, asked: int | None) -> int:
    """Return the shard size of the store at `out`, which cannot be changed, or of a new one."""
    there = shard_records_at(out)
    if there is not None and asked not in (None, there):
        raise ExtractUsageError(f"--shard-size {asked}: {out} has {there} records a shard; drop it")
    return there or asked or SHARD_RECORDS


def _describe(layout: Layout, store: FeatureStore) -> str:
    """Return what an update of a finished store is going to do."""
    lengths = store.card["grid_shapes"]
    again = sum(len(shard.ids) for shard in layout.shards if is_written_again(shard, lengths))
    added = sum(len(s.ids) for s in layout.shards) - again
    parts = [f"{again} images of missing shards are extracted again"] if again else []
    parts += [f"{added} images are added to it"] if added else []
    return ", ".join(parts)


def check_same_images(manifest: Manifest, store: FeatureStore) -> None:
    """Raise StoreError if ids stand for pictures of other sizes in a store that is finished.

    Sizes are what both know without reading a pixel; two data sets with the same ids differ in
    them soon enough. An image that gave no record may have been replaced by a better one.
    """
    recorded = (row for row in store.index if row.width and row.status == Status.OK)
    sizes = {row.image_id: (row.width, row.height) for row in recorded}
    for image in manifest.images:
        size = (image.width, image.height)
        if image.width and sizes.get(image.image_id, size) != size:
            width, height = sizes[image.image_id]
            raise StoreError(
                f"{store.path} exists and holds other images under the same ids: "
                f"{image.image_id!r} is {width}x{height} pixels there and {size[0]}x{size[1]} "
                f"in {manifest.root}; choose another --out"
            )
