"""What an extraction will take, from a few of its images: `extract --dry-run`."""

import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..base.errors import ExtractUsageError
from ..base.files import free_bytes
from ..base.text import counted
from ..featstore.geometry import GridShape
from ..featstore.layout import Grids, Layout, lay_out
from ..featstore.writing.run import check_place, update_layout
from ..featstore.writing.writer import StoreWriter
from ..manifests import Manifest
from .api import Prepared, choose_shard_records, make_job, prepare, store_to_update
from .planning.config import CHANGED, ExtractConfig
from .planning.plan import layout_bytes, shard_tasks
from .report import duration
from .source_files import SourceFiles

BATCHES = 4  # that are timed, after a first one that warms up


@dataclass(frozen=True)
class Estimate:
    """The grids, disk space and time of an extraction."""

    images: int
    grids: dict[str, int]  # grid shape to its number of images, the most frequent first
    dim: int
    shards: int
    bytes: int  # on disk
    free_bytes: int
    rows: int  # that go through the backbone: the images, and black ones that fill batches
    seconds: float
    devices: int
    images_per_second: float  # of a device that never waits
    bytes_per_second: float  # that all devices then write
    sampled: int  # images that were extracted for this estimate
    refused: int  # of these, that gave no record

    def to_json(self) -> dict[str, Any]:
        """Return the estimate for scripts."""
        return asdict(self)

    def text(self) -> str:
        """Return lines for a person."""
        if not self.images:
            return "images  0: the store is already complete"
        grids = [f"{shape}x{self.dim} ({n:,} images)" for shape, n in self.grids.items()]
        more = f" and {len(grids) - 5} shapes more" if len(grids) > 5 else ""
        room = "" if self.bytes <= self.free_bytes else ": NOT ENOUGH"
        bad = (f"bad     {self.refused} of the {self.sampled} tried gave no record",)
        return "\n".join(
            (
                f"images  {self.images:,}, computed as {self.rows:,} in full batches",
                f"grids   {', '.join(grids[:5])}{more}",
                f"shards  {self.shards:,}",
                f"disk    {self.bytes / 1e9:.2f} GB; {self.free_bytes / 1e9:.1f} GB free{room}",
                f"writes  {self.bytes_per_second / 1e6:,.0f} MB/s, if no device waits "
                f"({counted(self.devices, 'device')}, {self.images_per_second:,.1f} images/s each)",
                f"time    {duration(self.seconds)} on {counted(self.devices, 'device')}, measured "
                f"with {counted(self.sampled, 'image')}",
                *(bad if self.refused else ()),
            )
        )


def estimate(manifest: Manifest, out: Path, config: ExtractConfig) -> Estimate:
    """Plan the extraction, and extract a few images of the most frequent grid shape on trial.

    Their rate and compression are taken for those of all images, and the first device for as fast
    as the others. For a finished store at `out`, the update is estimated. Raises what
    `extract_images` raises before any work.
    """
    if config.scheduler:
        raise ExtractUsageError(
            "--dry-run tries images on this machine; drop --scheduler", code="E-CONFIG-CONFLICT"
        )
    check_place(out)
    with prepare(manifest, out, config, first_only=True) as prepared:
        return _estimate(prepared)


def _estimate(prepared: Prepared) -> Estimate:
    identity, out = prepared.identity, prepared.out
    layout = _layout(prepared)
    grids: Counter[GridShape] = Counter()
    for shard in layout.shards:
        grids[shard.shape] += len(shard.ids)
    if not grids.total():
        return Estimate(
            images=0, grids={}, dim=identity.dim, shards=0, bytes=0, free_bytes=free_bytes(out),
            rows=0, seconds=0.0, devices=len(prepared.devices), images_per_second=0.0,
            bytes_per_second=0.0, sampled=0, refused=0,
        )  # fmt: skip
    frequent = grids.most_common(1)[0][0]
    ids = [i for shard in layout.shards if shard.shape == frequent for i in shard.ids]
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "sample.clipfeat"
        job = make_job(prepared, store, layout.shard_records)
        sample_size = (1 + BATCHES) * job.batching.max_rows
        sample = dict.fromkeys(ids[:: -(-len(ids) // sample_size)], frequent)
        small = lay_out(Grids.of(sample), layout.shard_records)
        with StoreWriter(store, identity, small) as writer:
            tasks = shard_tasks(prepared.manifest, writer.pending, prepared.recipe)
            times, results = [time.perf_counter()], []
            for result in prepared.executor.run(tasks, job):
                if result.images:  # or it brings a warning alone
                    results.append(result)
                    times.append(time.perf_counter())
    refused = sum(result.refused for result in results)
    timed = [rows for shard in small.shards for rows in job.batching.rows(len(shard.ids))]
    if len(results) > 1:  # the first batch pays for starting
        results, times, timed = results[1:], times[1:], timed[1:]
    rows = sum(sum(job.batching.rows(len(shard.ids))) for shard in layout.shards)
    seconds = rows * (times[-1] - times[0]) / sum(timed)
    stored = sum(result.bytes for result in results)
    ok = sum(result.images - result.refused for result in results)
    ratio = stored / ok / (layout_bytes(small, identity) / len(sample)) if ok else 1.0
    size = int(ratio * layout_bytes(layout, identity))
    devices = len(prepared.devices)
    rate = sum(result.images for result in results) / sum(r.timings.device for r in results)
    return Estimate(
        images=grids.total(),
        grids={str(shape): images for shape, images in grids.most_common() if images},
        dim=identity.dim,
        shards=len(layout.shards),
        bytes=size,
        free_bytes=free_bytes(out),
        rows=rows,
        seconds=seconds / devices,
        devices=devices,
        images_per_second=rate,
        bytes_per_second=rate * devices * size / grids.total(),
        sampled=len(sample),
        refused=refused,
    )


def _layout(prepared: Prepared) -> Layout:
    """Return the shards that the extraction is going to write, whatever is written already."""
    out, retry = prepared.out, prepared.config.retry
    store = store_to_update(prepared)
    shard_records = choose_shard_records(out, prepared.config.shard_size)
    if store is None:
        return lay_out(prepared.grids, shard_records)
    changed = frozenset()
    if CHANGED in retry:
        files = SourceFiles(prepared.manifest, out, prepared.recipe.views)
        changed = files.changes(store, read=True).changed
    return update_layout(store, prepared.grids, retry, changed)
