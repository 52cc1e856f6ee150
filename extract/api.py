"""What must be known before the first image is read: devices, backbone, recipe, plan."""

import contextlib
import importlib.metadata
import math
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..base.errors import ExtractError, ExtractUsageError, needs_extra
from ..base.machine import require_gpus, usable_cores
from ..featstore import FeatureStore, GridShape, Identity, Status, StoreError
from ..featstore.layout import Layout, is_written_again, lay_out
from ..featstore.metadata import Precision
from ..featstore.tables import frequent_remarks, reasons_text, rows_without_record
from ..featstore.writing.commit import complete_commit
from ..featstore.writing.run import check_place, finished_store, shard_records_at, update_layout
from ..featstore.writing.writer import SHARD_RECORDS, StoreWriter
from ..manifests import Manifest
from .config import CHANGED, Request
from .executors.batches import Spent
from .planning.plan import (
    BackboneSpec,
    Job,
    Passes,
    check_record_sizes,
    largest_picture,
    plan_shapes,
    shard_tasks,
    shortage,
)
from .planning.recipe import Recipe, check_recipe_name, make_recipe
from .report import Progress, Report
from .source_files import SourceFiles, aligned

if TYPE_CHECKING:
    from .executors.processes import Executor


@dataclass(frozen=True)
class Prepared:
    """What is known before the first image is read."""

    devices: tuple[str, ...]  # that compute; this process's own, or one of each worker's
    cores: int  # for each device
    executor: "Executor"
    spec: BackboneSpec
    recipe: Recipe
    identity: Identity
    shapes: dict[str, GridShape]


@contextlib.contextmanager
def prepare(
    manifest: Manifest, request: Request, *, say: Callable[[str], None], first_only: bool = False
) -> Iterator[Prepared]:
    """Plan the grids, and have ready what computes them until the block ends.

    With `first_only` only the first of several devices gets a process, and its share of the
    cores. Raises ExtractUsageError for what cannot be done.
    """
    check_recipe_name(request.recipe, request.decoder)
    with needs_extra("extract"):
        import torch

        from .backbones.backbone import cpu_threads, slow_precision
        from .backbones.weights import load_backbone
        from .executors.processes import Here, Team

    with contextlib.ExitStack() as stack:
        own, team = "cpu", None  # to know grids and weights
        if request.scheduler:
            devices, cores = _devices_there(request)
        else:
            devices = choose_devices(
                request.device, request.gpus, request.procs, torch.cuda.device_count()
            )
            cores = max(1, usable_cores() // len(devices))
            if len(devices) == 1:
                own = devices[0]
            else:
                threads = max(1, cpu_threads() // len(devices))
                team = stack.enter_context(Team(devices[:1] if first_only else devices, threads))
        precision = request.precision or default_precision(devices)
        if not request.scheduler and (slow := slow_precision(precision, devices[0])):
            say(slow)
        spec = BackboneSpec(request.model, request.pretrained, request.seed, precision)
        backbone, described = load_backbone(spec, own)
        spec = replace(spec, model=described["model"])  # the twin that the weights need, everywhere
        recipe = make_recipe(
            request.recipe,
            backbone.native,
            backbone.cell,
            layer=request.layer,
            vector=request.vector,
            decoder=request.decoder,
        )
        backbone.check_recipe(recipe)
        if request.scheduler:
            from .executors.cluster import OnCluster

            executor = OnCluster(request.scheduler, spec)
        elif team is not None:
            team.load(spec)
            executor = team
        else:
            executor = Here(backbone)
        identity = Identity(
            backbone=described,
            recipe=recipe.to_json(),
            precision=spec.precision,
            dtype=request.dtype,
            codec=request.codec,
            dim=backbone.pooled_dim if recipe.views else backbone.dim,
            pooled_dim=None if recipe.views else backbone.vector_dim(recipe),
        )
        shapes = plan_shapes(manifest, recipe, backbone.cell)
        del backbone  # others compute, or the executor keeps it
        check_record_sizes(shapes.values(), identity)
        yield Prepared(devices, cores, executor, spec, recipe, identity, shapes)


def choose_devices(
    device: str | None, gpus: str | None, procs: int, gpu_count: int
) -> tuple[str, ...]:
    """Return the torch device of each process, ("cuda:0", "cuda:1") or ("cpu",) for example.

    `gpus` is a number of GPUs ("8"), a list of them ("0,3") or one ("3,"), counted among those
    that this process sees. Without it one GPU is taken where there is one. Raises UsageError for
    devices that are not there.

    >>> choose_devices(None, "2", 1, 4)
    ('cuda:0', 'cuda:1')
    >>> choose_devices(None, None, 1, 0)
    ('cpu',)
    """
    if device == "cpu":
        if gpus is not None:
            raise ExtractUsageError("--gpus and --device cpu exclude each other; drop one")
        return ("cpu",) * procs
    if procs != 1:
        raise ExtractUsageError("--procs is for --device cpu; for GPUs type --gpus N")
    if gpus is None:
        if gpu_count:
            return ("cuda:0",)
        if device == "cuda":
            raise ExtractUsageError("--device cuda: this machine has no GPU; type --device cpu")
        return ("cpu",)
    return tuple(f"cuda:{index}" for index in require_gpus(gpus, gpu_count))


def choose_shard_records(out: Path, asked: int | None) -> int:
    """Return the shard size of the store at `out`, which cannot be changed, or of a new one."""
    there = shard_records_at(out)
    if there is not None and asked not in (None, there):
        raise ExtractUsageError(f"--shard-size {asked}: {out} has {there} records a shard; drop it")
    return there or asked or SHARD_RECORDS


def _devices_there(request: Request) -> tuple[tuple[str, ...], int]:
    """Return the device of each worker of the cluster, and each one's number of cores."""
    if request.gpus or request.device or request.procs != 1:
        raise ExtractUsageError(
            "--scheduler: the workers of the cluster compute, each on the device it has; drop "
            "--gpus, --device and --procs"
        )
    if request.part:
        raise ExtractUsageError("--scheduler and --shard-range exclude each other; drop one")
    with needs_extra("cluster"):
        from .executors.cluster import connected, survey
    with connected(request.scheduler or "") as client:
        cluster = survey(client)
    return (cluster.device,) * len(cluster.workers), cluster.cores


def make_job(
    manifest: Manifest,
    out: Path,
    prepared: Prepared,
    request: Request,
    shard_records: int,
) -> Job:
    """Return what every device is told: the same, whatever of the plan is down already."""
    views = prepared.recipe.views or 1
    largest = largest_picture(manifest, prepared.recipe)
    height, width, _ = largest[-3:]
    images = request.batch_size or prepared.executor.batch_size(prepared.recipe, (height, width))
    on_cpu = prepared.devices[0] == "cpu"
    return Job(
        store=out,
        image_root=manifest.root,
        backbone=prepared.spec,
        recipe=prepared.recipe,
        identity=prepared.identity,
        shard_records=shard_records,
        passes=Passes.of(images, views, shard_records, on_cpu=on_cpu),
        picture_bytes=math.prod(largest),
        decoders=request.decoders or prepared.cores,
        threads=max(2, prepared.cores),
        max_pixels=request.max_pixels,
        accept_truncated=request.accept_truncated,
        libraries=library_versions(prepared.recipe),
    )


def default_precision(devices: tuple[str, ...]) -> Precision:
    """Return float16 on a GPU, as CLIP was published, and float32 on a CPU."""
    return "float32" if devices[0] == "cpu" else "float16"


def library_versions(recipe: Recipe) -> dict[str, str]:
    """Return the versions of what touches pixels."""
    names = ("pillow", "torch", "open_clip_torch", recipe.decoder)
    return {name: importlib.metadata.version(name) for name in names}


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
            if request.part is None:  # it takes the lock of the whole store
                complete_commit(store, break_lock=request.break_lock)
            say(f"{out} is already complete")
            return Report(out, None, store, rows_without_record(store.index), 0, 0, 0.0, Spent())
        say(f"{out} is finished; {_describe(layout, store, changes.changed, request.retry)}")
    if warning := shortage(out, layout, identity):
        say(warning)
    started = time.monotonic()
    with StoreWriter(
        out, identity, layout, parent=store, part=request.part, break_lock=request.break_lock
    ) as writer:
        begun = [image_id for shard in writer.pending for image_id in shard.ids]
        files.record(request.part, begun)  # before the first is read
        progress = _run(manifest, out, layout.shard_records, writer, prepared, request, say)
        finished = None
        if request.part is None:
            if writer.produced_no_records():
                why = reasons_text(rows_without_record(writer.rows()))
                writer.rollback()
                if store is None:
                    files.forget(request.part)
                what = "no store was written" if store is None else f"{out} is as it was"
                raise ExtractError(f"no image gave a record, {what}: {why}")
            finished = writer.commit()
        rows = finished.index if finished else sorted(writer.rows())
        hashes = ((row.image_id, row.source_sha256) for row in rows)
        planned = (image_id for shard in writer.shards for image_id in shard.ids)
        if n := files.record(request.part, begun, hashes, planned):
            say(
                f"files of which size or time changed after an earlier run had read them: {n}; "
                f"--retry changed renews those that have another content"
            )
        refused = rows_without_record(finished.index if finished else writer.rows())
        odd = frequent_remarks(finished.index if finished else writer.rows())
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


def _run(
    manifest: Manifest,
    out: Path,
    shard_records: int,
    writer: StoreWriter,
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
        if request.part is None and next(writer.rows(), None) is None:
            writer.rollback()  # nothing is down: another try may be of another kind
        raise
    return progress


def _describe(
    layout: Layout, store: FeatureStore, changed: Collection[str], retry: Collection[str]
) -> str:
    """Return what an update of a finished store is going to do."""
    lengths = store.metadata.grid_shapes
    new = [shard for shard in layout.shards if not is_written_again(shard, lengths)]
    added = sum(len(shard.ids) for shard in new)
    again = sum(len(shard.ids) for shard in layout.shards) - added
    renewed = sum(image_id in changed for shard in new for image_id in shard.ids)
    refused = {row.image_id for row in rows_without_record(store.index)} if retry else set()
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
