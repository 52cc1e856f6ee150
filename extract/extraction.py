"""The whole extraction: check, plan, run what is pending, finish the store."""

import contextlib
import importlib.metadata
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..base.errors import missing_extra
from ..featstore import FeatureStore, Identity, IndexRow, Status, StoreError
from ..featstore.layout import Layout, is_written_again, lay_out
from ..featstore.write import SHARD_RECORDS
from ..featstore.writing.tidy import finish_tidying
from ..featstore.writing.update import finished_store, shard_records_at, update_layout
from ..featstore.writing.writer import StoreWriter
from ..manifests import Manifest, folder_manifest, read_manifest
from .devices import choose_devices
from .errors import ExtractError, ExtractUsageError
from .job import BackboneSpec, Job
from .plan import plan_shapes, shard_tasks
from .recipe import check_recipe_name, make_recipe

if TYPE_CHECKING:
    from .runner import Step  # which imports torch

CPU_BATCH, GPU_BATCH = 16, 64  # images; more measured no faster on CPU, less starves a GPU


@dataclass(frozen=True)
class Request:
    """What a user asks for; None means: choose for the devices and the backbone at hand."""

    model: str
    pretrained: str | None = None
    seed: int = 0
    recipe: str = "caption448"
    gpus: str | None = None
    device: str | None = None
    procs: int = 1
    precision: str | None = None
    dtype: str = "float16"
    codec: str = "zstd"
    batch_size: int | None = None
    shard_size: int | None = None
    pooled: bool = False
    retry: tuple[str, ...] = ()  # statuses of ids in a finished store that are tried again
    break_lock: bool = False


@dataclass(frozen=True)
class Report:
    """What an extraction came to."""

    store: FeatureStore
    refused: tuple[IndexRow, ...]
    images: int  # extracted by this run
    seconds: float  # from the first image's file to the finished store

    def to_json(self) -> dict[str, Any]:
        """Return the same for scripts; images_per_second is None if nothing was left to do."""
        return {
            "store": str(self.store.path),
            "digest": self.store.digest,
            "counts": self.store.card["counts"],
            "images": self.images,
            "images_per_second": self.images / self.seconds if self.images else None,
        }

    def text(self) -> str:
        """Return lines for a person."""
        n = len(self.store)
        speed = f", {self.images / self.seconds:.1f} images/s" if self.images else ""
        lines = [f"{self.store.path}: {n} records{speed}, digest {self.store.digest[:16]}..."]
        if self.refused:
            lines.append(f"{len(self.refused)} images gave no record: {reasons(self.refused)}")
        return "\n".join(lines)


def load_images(images: Path) -> Manifest:
    """Return the manifest that `images` is, or the manifest of the folder that it is."""
    return read_manifest(images) if images.is_file() else folder_manifest(images)


def default_out(images: Path, request: Request) -> Path:
    """Return the store's name, in the working folder, after images, model and recipe."""
    parts = (images.resolve().stem, request.model, request.recipe)
    return Path("-".join(re.sub(r"[^\w.-]+", "", part) for part in parts) + ".clipfeat")


def extract_images(
    manifest: Manifest, out: Path, request: Request, *, say: Callable[[str], None]
) -> Report:
    """Extract the manifest's images into the store `out`, going on where a run was cut off.

    `say` takes lines for a person. Raises ExtractUsageError or StoreError before any work if
    the request cannot be met, ExtractError if no image gave a record.
    """
    check_recipe_name(request.recipe)
    try:
        import torch

        devices = choose_devices(
            request.device, request.gpus, request.procs, torch.cuda.device_count()
        )
        from .executors import execute
        from .weights import load_backbone, remark
    except ImportError as error:
        raise missing_extra("extract", error.name or "torch") from None

    precision = request.precision or default_precision(devices)
    spec = BackboneSpec(request.model, request.pretrained, request.seed, precision)
    # One device: this process computes. Several: this one needs the geometry and the digest.
    backbone, described = load_backbone(spec, devices[0] if len(devices) == 1 else "cpu")
    if remarked := remark(described):
        say(remarked)
    recipe = make_recipe(request.recipe, backbone.native)
    identity = Identity(
        backbone=described,
        recipe=recipe.to_json(),
        precision=spec.precision,
        dtype=request.dtype,
        codec=request.codec,
        dim=backbone.dim,
        pooled_dim=backbone.pooled_dim if request.pooled else None,
    )
    store = finished_store(out, identity)
    shard_records = _shard_records(out, request.shard_size)
    shapes = plan_shapes(manifest, recipe, backbone.cell)
    if store is None:
        if request.retry:
            raise StoreError(f"--retry tries ids of a finished store again; {out} is none")
        layout = lay_out(shapes, shard_records)
    else:
        check_same_images(manifest, store)
        layout = update_layout(store, shapes, request.retry)
        if not layout.shards:
            finish_tidying(store, break_lock=request.break_lock)
            say(f"{out} is already complete")
            return Report(store, refused_rows(store.index), 0, 0.0)
        say(f"{out} is finished; {_describe(layout, store)}")
    on_gpu = devices[0] != "cpu"
    job = Job(
        store=out,
        image_root=manifest.root,
        backbone=spec,
        recipe=recipe,
        identity=identity,
        shard_records=shard_records,
        batch_size=request.batch_size or (GPU_BATCH if on_gpu else CPU_BATCH),
        threads=max(2, (os.cpu_count() or 2) // len(devices)),
    )
    started = time.monotonic()
    with StoreWriter(
        out, identity, layout, parent=store, break_lock=request.break_lock, say=say
    ) as writer:
        tasks = shard_tasks(manifest, writer.pending)
        total = sum(len(shard.ids) for shard in layout.shards)
        down = total - sum(len(task.images) for task in tasks)
        if down:
            say(f"{down} images are already down; going on")
        try:
            with contextlib.closing(execute(tasks, job, devices, backbone)) as steps:
                done = _run(steps, down, total)
        except KeyboardInterrupt:
            down = sum(1 for _ in writer.rows())
            say(f"{down} of {total} images are down; those of the shards in hand are dropped")
            raise
        except ExtractError:
            if next(writer.rows(), None) is None:
                writer.discard()  # nothing is down: another try may be of another kind
            raise
        refused = refused_rows(writer.rows())
        if len(refused) == total and (store is None or _is_only_a_retry(layout, store, request)):
            writer.discard()
            what = "no store was written" if store is None else f"{out} is as it was"
            raise ExtractError(f"no image gave a record, {what}: {reasons(refused)}")
        finished = writer.finish(library_versions())
        seconds = time.monotonic() - started
        return Report(finished, refused_rows(finished.index), done - down, seconds)


def _run(steps: Iterable["Step"], down: int, total: int) -> int:
    """Follow the steps on a progress bar; return how many images are down."""
    done, refused = down, 0
    with tqdm(desc="extract", total=total, initial=down, unit="image", disable=None) as bar:
        for step in steps:
            done += step.images
            refused += step.refused
            bar.set_postfix(refused=refused, refresh=False)
            bar.update(step.images)
    return done


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


def _is_only_a_retry(layout: Layout, store: FeatureStore, request: Request) -> bool:
    """Return whether an update does nothing but try ids again that gave no record."""
    tried = {row.image_id for row in store.index if row.status in request.retry}
    return all(image_id in tried for shard in layout.shards for image_id in shard.ids)


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


def default_precision(devices: tuple[str, ...]) -> str:
    """Return float16 on a GPU, as CLIP was published, and float32 on a CPU."""
    return "float32" if devices[0] == "cpu" else "float16"


def library_versions() -> dict[str, str]:
    """Return the versions of what touches pixels."""
    names = ("pillow", "torch", "open_clip_torch")
    return {name: importlib.metadata.version(name) for name in names}


def refused_rows(rows: Iterable[IndexRow]) -> tuple[IndexRow, ...]:
    """Return the rows of ids that have no record."""
    return tuple(row for row in rows if row.status != Status.OK)


def reasons(refused: Sequence[IndexRow], most: int = 5) -> str:
    """Return the most frequent reasons of refusal, each with an id."""
    counts = Counter((row.status, row.reason) for row in refused)
    example = {(row.status, row.reason): row.image_id for row in reversed(refused)}
    return "; ".join(
        f"{n} {why[0]} ({why[1]}; {example[why]} for one)" for why, n in counts.most_common(most)
    )
