"""The whole extraction: check, plan, run what is pending, finish the store."""

import contextlib
import time
from collections.abc import Callable, Collection
from pathlib import Path

from ..featstore import FeatureStore, Identity, Status, StoreError
from ..featstore.layout import Layout, is_written_again, lay_out
from ..featstore.refused import reasons_text, refused_rows, remarks
from ..featstore.writing.part_writer import PartWriter
from ..featstore.writing.tidy import finish_tidying
from ..featstore.writing.update import (
    check_place,
    finished_store,
    update_layout,
)
from ..featstore.writing.writer import StoreWriter
from ..manifests import Manifest
from .errors import ExtractError
from .planning.plan import shard_tasks
from .planning.space import shortage
from .prepare import Prepared, choose_shard_records, make_job, prepare
from .progress import Progress
from .report import Report
from .request import CHANGED, Request
from .running.profile import Spent
from .source_files import SourceFiles, aligned


def extract_images(
    manifest: Manifest, out: Path, request: Request, *, say: Callable[[str], None]
) -> Report:
    """Extract the manifest's images into the store `out`, going on where a run was cut off.

    `say` takes lines for a person. Raises ExtractUsageError or StoreError before any work if
    the request cannot be met, ExtractError if no image gave a record.
    """
    check_place(out)
    with prepare(manifest, request, say=say) as prepared:
        return _extract(manifest, out, request, prepared, say)


def _extract(
    manifest: Manifest, out: Path, request: Request, prepared: Prepared, say: Callable[[str], None]
) -> Report:
    identity = prepared.identity
    store = store_to_update(manifest, out, request, identity)
    shard_records = choose_shard_records(out, request.shard_size)
    renew = CHANGED in request.retry
    files = SourceFiles(manifest, out, prepared.recipe.views)
    if store is None:
        layout = lay_out(prepared.shapes, shard_records)
    else:
        changes = files.changes(store, read=renew)
        if said := changes.text(read=renew):
            say(said)
        layout = update_layout(store, prepared.shapes, request.retry, changes.changed)
        unchanged = {i: sha for i, sha in changes.hashes.items() if i not in changes.changed}
        if unchanged:
            files.record(request.part, unchanged, sorted(unchanged.items()))
        if not layout.shards:
            if request.part is None:  # tidying wants the store for itself
                finish_tidying(store, break_lock=request.break_lock)
            say(f"{out} is already complete")
            return Report(out, None, store, refused_rows(store.index), 0, 0, 0.0, Spent())
        say(f"{out} is finished; {_describe(layout, store, changes.changed, request.retry)}")
    if warning := shortage(out, layout, identity):
        say(warning)
    started = time.monotonic()
    with _writer(out, identity, layout, store, request, say) as writer:
        begun = [image_id for shard in writer.pending for image_id in shard.ids]
        files.record(request.part, begun)  # before the first is read
        progress = _run(manifest, out, layout.shard_records, writer, prepared, request, say)
        finished = None
        if isinstance(writer, StoreWriter):
            if writer.is_in_vain():
                why = reasons_text(refused_rows(writer.rows()))
                writer.discard()
                if store is None:
                    files.forget(request.part)
                what = "no store was written" if store is None else f"{out} is as it was"
                raise ExtractError(f"no image gave a record, {what}: {why}")
            finished = writer.finish()
        rows = finished.index if finished else sorted(writer.rows())
        hashes = ((row.image_id, row.source_sha256) for row in rows)
        planned = (image_id for shard in writer.shards for image_id in shard.ids)
        if n := files.record(request.part, begun, hashes, planned):
            say(
                f"files of which size or time changed after an earlier run had read them: {n}; "
                f"--retry changed renews those that have another content"
            )
        refused = refused_rows(finished.index if finished else writer.rows())
        odd = remarks(finished.index if finished else writer.rows())
    seconds = time.monotonic() - started
    report = Report(
        out, request.part, finished, refused, progress.images, progress.bytes, seconds,
        progress.spent, odd,
    )  # fmt: skip
    report.write()
    return report


def store_to_update(
    manifest: Manifest, out: Path, request: Request, identity: Identity
) -> FeatureStore | None:
    """Return the finished store at `out`, None if there is none or only a beginning.

    Raises StoreError if the request does not go with what is there.
    """
    store = finished_store(out, identity)
    if store is None and request.retry:
        raise StoreError(f"--retry tries ids of a finished store again; {out} is none")
    if store is not None and CHANGED not in request.retry:
        check_same_images(manifest, store)
    return store


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
    tasks = shard_tasks(manifest, writer.pending, prepared.recipe)
    total = sum(len(shard.ids) for shard in writer.shards)
    down = total - sum(len(task.images) for task in tasks)
    if down:
        say(f"{down} images are already down; going on")
    progress = Progress(total, down, say)
    if not tasks:  # an earlier run was cut off while it finished the store
        return progress
    job = make_job(manifest, out, prepared, request, shard_records)
    steps = prepared.executor.run(tasks, job)
    try:
        with progress, contextlib.closing(steps):
            for step in steps:
                progress.add(step)
    except KeyboardInterrupt:
        down = sum(1 for _ in writer.rows())
        say(f"{down} of {total} images are written; those of the shards in hand are dropped")
        raise
    except ExtractError:
        if isinstance(writer, StoreWriter) and next(writer.rows(), None) is None:
            writer.discard()  # nothing is down: another try may be of another kind
        raise
    return progress


def _describe(
    layout: Layout, store: FeatureStore, changed: Collection[str], retry: Collection[str]
) -> str:
    """Return what an update of a finished store is going to do."""
    lengths = store.card["grid_shapes"]
    new = [shard for shard in layout.shards if not is_written_again(shard, lengths)]
    added = sum(len(shard.ids) for shard in new)
    again = sum(len(shard.ids) for shard in layout.shards) - added
    renewed = sum(image_id in changed for shard in new for image_id in shard.ids)
    refused = {row.image_id for row in refused_rows(store.index)} if retry else set()
    refused.difference_update(changed)  # each image is counted once
    retried = sum(image_id in refused for shard in new for image_id in shard.ids)
    added -= renewed + retried
    parts = [f"{again} images of missing shards are extracted again"] if again else []
    parts += [f"{renewed} images that have changed are extracted again"] if renewed else []
    parts += [f"{retried} images without a record are tried again"] if retried else []
    parts += [f"{added} images are added to it"] if added else []
    return ", ".join(parts)


def check_same_images(manifest: Manifest, store: FeatureStore) -> None:
    """Raise StoreError if ids stand for pictures of other sizes in a store that is finished.

    Sizes are what both know without reading a pixel; two data sets with the same ids differ in
    them soon enough. An image that gave no record may have been replaced by a better one.
    """
    sizes = (
        (row.image_id, row.width, row.height)
        for row in store.index
        if row.width and row.status == Status.OK
    )
    recorded = aligned(manifest.images.column("image_id"), sizes)
    for image, there in zip(manifest.images, recorded, strict=True):
        size = (image.width, image.height)
        if image.width and there and there[0][1:] != size:
            _, width, height = there[0]
            raise StoreError(
                f"{store.path} exists and holds other images under the same ids: "
                f"{image.image_id!r} is {width}x{height} pixels there and {size[0]}x{size[1]} "
                f"in {manifest.root}; choose another --out, or --retry changed if these are the "
                f"same images in new versions"
            )
