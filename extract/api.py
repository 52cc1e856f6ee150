"""Images to a feature store: the devices, the backbone, the plan, and the run that follows it."""

import contextlib
import importlib.metadata
import logging
import math
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ..base.errors import ExtractError, ExtractUsageError, StoreUsageError, needs_extra
from ..base.machine import require_gpus, usable_cores
from ..base.text import counted
from ..featstore import FeatureStore, Identity, Status
from ..featstore.identity import Codec, Order
from ..featstore.layout import Grids, Ids, Layout, is_written_again, lay_out
from ..featstore.tables import reasons_text, rows_without_record
from ..featstore.writing.commit import complete_commit
from ..featstore.writing.run import check_place, finished_store, shard_records_at, update_layout
from ..featstore.writing.writer import SHARD_RECORDS, StoreWriter
from ..manifests import Manifest
from .executors.results import Executor
from .planning.config import CHANGED, ExtractConfig
from .planning.plan import (
    BackboneSpec,
    Batching,
    Job,
    check_record_sizes,
    disk_space_warning,
    largest_picture,
    plan_grids,
    shard_tasks,
)
from .planning.recipe import Recipe, check_recipe, make_recipe
from .report import ExtractReport, Progress, Results, bottleneck
from .source_files import HASHES, SourceFiles, aligned

logger = logging.getLogger(__name__)


def extract_images(manifest: Manifest, out: str | Path, config: ExtractConfig) -> ExtractReport:
    """Extract the grids of the images of a manifest into a store; resume an interrupted run.

    A finished store gets the images that it does not have yet, and those that `config.retry` names
    are tried again. An image that cannot be used has no record; the index holds the reason.

    Args:
        manifest: The images, for example those of `folder_manifest(Path("images"))`.
        out: The folder of the store.
        config: What to extract, and on which devices.

    Returns:
        The report of the run; its `store` is the finished store. The report is also written
        beside the store, as `NAME.run.json`.

    Raises:
        UsageError: The extraction is not possible as requested; nothing was written.
        StoreError: `out` is not a store, or a store of another identity, or another process
            writes it.
        ExtractError: The run failed, or no image produced a record. Complete shards are kept, and
            the same call resumes from there.

    Example:
        ```python
        from pathlib import Path

        from clipfeat.extract import ExtractConfig, extract_images
        from clipfeat.manifests import folder_manifest

        manifest = folder_manifest(Path("images"))
        report = extract_images(manifest, Path("photos.clipfeat"), ExtractConfig(model="RN50x4"))
        print(report.text())
        grid = report.store["beach"]  # of images/beach.jpg: float16 (row, col, dim)
        ```
    """
    out = Path(out)
    check_place(out)
    with prepare(manifest, out, config) as prepared:
        files = SourceFiles(manifest, out, prepared.recipe.views)
        store = store_to_update(prepared)
        shard_records = choose_shard_records(out, config.shard_size)
        if store is None:
            layout = lay_out(prepared.grids, shard_records)
        else:
            layout = _plan_update(prepared, store, files)
            if not layout.shards:
                if config.part is None:  # it takes the lock of the whole store
                    complete_commit(store, break_lock=config.break_lock)
                logger.info(f"{out} is already complete")
                return ExtractReport(out, None, store, rows_without_record(store.index_batches()))
        if warning := disk_space_warning(out, layout, prepared.identity):
            logger.warning(warning)
        report = _write(prepared, layout, store, files)
    report.write()
    return report


@dataclass(frozen=True)
class Prepared:
    """What is known before the first image is read."""

    manifest: Manifest
    out: Path
    config: ExtractConfig
    devices: tuple[str, ...]  # that compute: one for each process or worker
    cores: int  # for each device
    executor: Executor
    spec: BackboneSpec
    recipe: Recipe
    identity: Identity
    grids: Grids  # of all images

    @property
    def threads(self) -> int:
        """Return how many threads compress, for each device."""
        return max(2, self.cores)


@contextlib.contextmanager
def prepare(
    manifest: Manifest, out: Path, config: ExtractConfig, *, first_only: bool = False
) -> Iterator[Prepared]:
    """Plan the grids, and start what computes them; it ends with the block.

    With `first_only` only the first of several devices gets a process, with its share of the
    cores. Raises UsageError where the extraction is not possible as requested.
    """
    _check_orientation(manifest, check_recipe(config.recipe, upright=config.upright))
    with needs_extra("extract"):
        import torch

        from .backbones.backbone import cpu_threads, slow_precision
        from .backbones.weights import load_backbone
        from .executors.pipeline import LocalExecutor
        from .executors.processes import ProcessExecutor

    with contextlib.ExitStack() as stack:
        processes = None
        device = "cpu"  # of the backbone in this process; where others compute, to know its grids
        if config.scheduler:
            devices, cores = _cluster_devices(config.scheduler)
        else:
            devices = choose_devices(config, torch.cuda.device_count())
            cores = max(1, usable_cores() // len(devices))
            if len(devices) == 1:
                device = devices[0]
            else:
                threads = max(1, cpu_threads() // len(devices))
                processes = ProcessExecutor(devices[:1] if first_only else devices, threads)
                stack.enter_context(processes)
        precision = config.precision or ("float32" if devices[0] == "cpu" else "float16")
        if not config.scheduler and (warning := slow_precision(precision, devices[0])):
            logger.warning(warning)
        spec = BackboneSpec(
            config.model, config.pretrained, config.seed, precision, config.model_config, config.ema
        )
        backbone, described = load_backbone(spec, device)
        recipe = make_recipe(
            config.recipe,
            backbone.native,
            backbone.cell,
            layer=config.layer,
            vector=config.vector,
            upright=config.upright,
        )
        backbone.check_recipe(recipe)
        if config.scheduler:
            from .executors.cluster import ClusterExecutor, portable_spec

            spec = portable_spec(spec, is_place=described["pretrained"] == "file")
            executor = ClusterExecutor(config.scheduler, spec)
        elif processes is not None:
            processes.load(spec)
            executor = processes
        else:
            executor = LocalExecutor(backbone)
        identity = Identity(
            backbone=described,
            recipe=recipe.to_json(),
            precision=spec.precision,
            dtype=config.dtype,
            codec=config.codec,
            dim=backbone.pooled_dim if recipe.views else backbone.dim,
            pooled_dim=None if recipe.views else backbone.vector_dim(recipe),
            order=grid_order(
                config.codec, is_rectified=backbone.tower.is_rectified and not recipe.views
            ),
        )
        grids = plan_grids(manifest, recipe, backbone.cell)
        del backbone  # others compute, or the executor keeps it
        check_record_sizes(grids.shapes, identity)
        yield Prepared(
            manifest, out, config, devices, cores, executor, spec, recipe, identity, grids
        )


def _check_orientation(manifest: Manifest, recipe: Recipe) -> None:
    """Raise ExtractUsageError unless the manifest's sizes are those that the recipe begins with."""
    if manifest.upright == recipe.is_upright:
        return
    if recipe.is_upright:
        problem = "turns images, but the manifest has the sizes of images that are not turned"
        remedy = "add --upright; in Python, folder_manifest(..., upright=True)"
    else:
        problem = "does not turn images, but the manifest has the sizes of turned images"
        remedy = "leave out --upright, or add it here"
    raise ExtractUsageError(
        f"--recipe {recipe.name}: it {problem}; make the manifest again and {remedy}",
        code="E-RECIPE-UPRIGHT",
    )


def grid_order(codec: Codec, *, is_rectified: bool) -> Order:
    """Return how the numbers of a grid follow one another on disk.

    Half of the numbers behind a ReLU are zeros, and neighbouring cells have theirs in the same
    channels: with channels first, zstd takes less time and makes less of them. Dense grids gain
    nothing, and raw ones are read without turning them (docs/log.md).
    """
    return "channels_first" if is_rectified and codec == "zstd" else "channels_last"


def choose_devices(config: ExtractConfig, gpu_count: int) -> tuple[str, ...]:
    """Return the torch device of each process, ("cuda:0", "cuda:1") or ("cpu",) for example.

    GPUs are counted among those that this process sees. Raises UsageError for one that does not
    exist.

    >>> choose_devices(ExtractConfig(model="RN50", gpus="2"), gpu_count=4)
    ('cuda:0', 'cuda:1')
    """
    if config.gpus is not None:
        return tuple(f"cuda:{index}" for index in require_gpus(config.gpus, gpu_count))
    return (choose_device(config.device, gpu_count),) * config.procs


def choose_device(device: str | None, gpu_count: int) -> str:
    """Return the torch device of one process: by default a GPU, if there is one.

    >>> choose_device(None, gpu_count=1), choose_device(None, gpu_count=0)
    ('cuda:0', 'cpu')
    """
    if device == "cuda" and not gpu_count:
        raise ExtractUsageError(
            "--device cuda: this machine has no GPU; type --device cpu", code="E-GPUS-ABSENT"
        )
    return "cuda:0" if gpu_count and device != "cpu" else "cpu"


def _cluster_devices(scheduler: str) -> tuple[tuple[str, ...], int]:
    """Return the device of each worker of a cluster, and each one's number of cores."""
    with needs_extra("cluster"):
        from .executors.cluster import connected, survey
    with connected(scheduler) as client:
        cluster = survey(client)
    return (cluster.device,) * len(cluster.workers), cluster.cores


def choose_shard_records(out: Path, wanted: int | None) -> int:
    """Return the shard size of the store at `out`, which cannot be changed, or of a new one."""
    existing = shard_records_at(out)
    if existing is not None and wanted not in (None, existing):
        raise ExtractUsageError(
            f"--shard-size {wanted}: {out} has {existing} records a shard; drop it",
            code="E-STORE-SHARD-SIZE",
        )
    return existing or wanted or SHARD_RECORDS


def store_to_update(prepared: Prepared) -> FeatureStore | None:
    """Return the finished store at `out`, None if there is none or an unfinished one.

    Raises StoreUsageError if the request does not match that store.
    """
    out, retry = prepared.out, prepared.config.retry
    store = finished_store(out, prepared.identity)
    if store is None and retry:
        raise StoreUsageError(
            f"--retry tries images of a finished store again, and {out} is not one; drop --retry",
            code="E-STORE-UNFINISHED",
        )
    if store is not None and CHANGED not in retry:
        check_same_images(prepared.manifest, store)
    return store


def check_same_images(manifest: Manifest, store: FeatureStore) -> None:
    """Raise StoreUsageError if images of a finished store have other sizes in the manifest.

    Sizes are known without decoding an image, and two data sets with the same ids differ in them.
    An image without a record may have been replaced by a better file.
    """
    sizes = (
        (row.image_id, row.width, row.height)
        for row in store.index
        if row.width and row.status == Status.OK
    )
    recorded = aligned(manifest.images.column("image_id"), sizes)
    for image, rows in zip(manifest.images, recorded, strict=True):
        if image.width and rows and rows[0][1:] != (image.width, image.height):
            _, width, height = rows[0]
            raise StoreUsageError(
                f"{store.location} exists and holds other images under the same ids: "
                f"{image.image_id!r} is {width}x{height} pixels there and "
                f"{image.width}x{image.height} in {manifest.root}; choose another --out, or "
                f"--retry changed if these are the same images in new versions",
                code="E-STORE-OTHER-IMAGES",
            )


def _plan_update(prepared: Prepared, store: FeatureStore, files: SourceFiles) -> Layout:
    """Return the shards that are added to a finished store, or written again; log what they are."""
    config = prepared.config
    read = CHANGED in config.retry
    changes = files.changes(store, read=read)
    if text := changes.text(read=read):
        logger.warning(text)
    unchanged = {i: sha for i, sha in changes.hashes.items() if i not in changes.changed}
    layout = update_layout(store, prepared.grids, config.retry, changes.changed)
    if unchanged:
        ids = sorted(unchanged)
        hashes = {"image_id": ids, "source_sha256": [unchanged[image_id] for image_id in ids]}
        files.record(config.part, [Ids.of(ids)], [pa.record_batch(hashes, HASHES)])
    if layout.shards:
        update = format_update(layout, store, changes.changed, config.retry)
        logger.info(f"{prepared.out} is finished; {update}")
    return layout


def format_update(
    layout: Layout, store: FeatureStore, changed: Collection[str], retry: Collection[str]
) -> str:
    """Return what an update of a finished store is going to do."""
    lengths = store.metadata.grid_shapes
    new = [shard for shard in layout.shards if not is_written_again(shard, lengths)]
    added = sum(len(shard.ids) for shard in new)
    again = sum(len(shard.ids) for shard in layout.shards) - added
    renewed = sum(image_id in changed for shard in new for image_id in shard.ids)
    refused = (
        {row.image_id for row in rows_without_record(store.index_batches())} if retry else set()
    )
    refused.difference_update(changed)  # each image is counted once
    retried = sum(image_id in refused for shard in new for image_id in shard.ids)
    added -= renewed + retried
    parts = [f"{counted(again, 'image')} of missing shards to extract again"] if again else []
    parts += [f"{counted(renewed, 'changed image')} to extract again"] if renewed else []
    parts += [f"{counted(retried, 'image')} without a record to try again"] if retried else []
    parts += [f"{counted(added, 'image')} to add"] if added else []
    return ", ".join(parts)


def _write(
    prepared: Prepared, layout: Layout, store: FeatureStore | None, files: SourceFiles
) -> ExtractReport:
    """Write the shards that are not written yet, then commit the store; a part is not committed.

    Raises ExtractError if no image produced a record; the store is then unchanged.
    """
    out, part, finished = prepared.out, prepared.config.part, None
    started = time.monotonic()
    with StoreWriter(
        out,
        prepared.identity,
        layout,
        parent=store,
        part=part,
        break_lock=prepared.config.break_lock,
    ) as writer:
        begun = [shard.ids for shard in writer.pending]
        files.record(part, begun)  # before the first is read
        progress = _run(prepared, layout.shard_records, writer)
        if part is None:
            if writer.produced_no_records():
                reasons = reasons_text(rows_without_record(writer.rows()))
                writer.rollback()
                if store is None:
                    files.forget(part)
                outcome = "no store was written" if store is None else f"{out} is unchanged"
                raise ExtractError(
                    f"no image produced a record, {outcome}: {reasons}", code="E-STORE-NO-RECORDS"
                )
            finished = writer.commit()
        results = Results()
        rows = results.noted(finished.index_batches() if finished else writer.sorted_rows())
        planned = (shard.ids for shard in writer.shards)
        if n := files.record(part, begun, rows, planned):
            logger.warning(
                f"files of which size or time changed after an earlier run had read them: {n}; "
                f"--retry changed extracts those again that have another content"
            )
        for _ in rows:  # at a URL, files have no times to record, and no row was needed
            pass
        return ExtractReport(
            path=out,
            part=part,
            finished=finished,
            refused=tuple(results.refused),
            images=progress.images,
            bytes=progress.bytes,
            seconds=time.monotonic() - started,
            timings=progress.timings,
            remarks=results.remarks.frequent(),
            advice=bottleneck(progress.timings, prepared.threads),
        )


def _run(prepared: Prepared, shard_records: int, writer: StoreWriter) -> Progress:
    """Have the executor write the shards that are pending; return what was counted."""
    tasks = shard_tasks(prepared.manifest, writer.pending, prepared.recipe)
    total = sum(len(shard.ids) for shard in writer.shards)
    done = total - sum(len(task.images) for task in tasks)
    if done:
        logger.info(f"{counted(done, 'image')} already extracted; resuming")
    progress = Progress(total, done)
    if not tasks:  # an earlier run was cut off while it finished the store
        return progress
    results = prepared.executor.run(tasks, make_job(prepared, prepared.out, shard_records))
    try:
        with progress, contextlib.closing(results):
            for result in results:
                progress.add(result)
    except KeyboardInterrupt:
        written = sum(map(len, writer.rows()))
        logger.info(
            f"{written} of {counted(total, 'image')} written; unfinished shards are dropped"
        )
        raise
    except ExtractError:
        if prepared.config.part is None and not any(map(len, writer.rows())):
            writer.rollback()  # nothing is written, so another identity may be tried next
        raise
    return progress


def make_job(prepared: Prepared, store: Path, shard_records: int) -> Job:
    """Return what every device needs to know; it does not depend on what is already written."""
    config, recipe = prepared.config, prepared.recipe
    largest = largest_picture(prepared.manifest, recipe)
    height, width, _ = largest[-3:]
    images = config.batch_size or prepared.executor.batch_size(recipe, (height, width))
    on_cpu = prepared.devices[0] == "cpu"
    libraries = ("pillow", "torch", "open_clip_torch", "timm")
    return Job(
        store=store,
        image_root=prepared.manifest.root,
        backbone=prepared.spec,
        recipe=recipe,
        identity=prepared.identity,
        shard_records=shard_records,
        batching=Batching.of(images, recipe.views or 1, shard_records, on_cpu=on_cpu),
        picture_bytes=math.prod(largest),
        decoders=config.decoders or prepared.cores,
        threads=prepared.threads,
        libraries={name: importlib.metadata.version(name) for name in libraries},
        config=config,
    )
