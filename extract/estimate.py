"""What an extraction will come to, from a few of its images: `extract --dry-run`."""

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..featstore.layout import lay_out
from ..featstore.write import SHARD_RECORDS
from ..featstore.writing.update import check_place
from ..featstore.writing.writer import StoreWriter
from ..manifests import Manifest
from .errors import ExtractUsageError
from .planning.plan import shard_tasks
from .planning.space import free_bytes, layout_bytes
from .prepare import make_job, prepare
from .progress import duration
from .request import Request

BATCHES = 4  # that are timed, after a first one that warms up


@dataclass(frozen=True)
class Estimate:
    """What an extraction will come to."""

    images: int
    grids: dict[str, int]  # grid shape to its number of images, the most frequent first
    dim: int
    shards: int
    bytes: int  # on disk
    free_bytes: int
    seconds: float
    devices: int
    sampled: int  # images that were extracted to know
    refused: int  # of these, that gave no record

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        """Return lines for a person."""
        grids = [f"{shape}x{self.dim} ({n:,} images)" for shape, n in self.grids.items()]
        more = f" and {len(grids) - 5} shapes more" if len(grids) > 5 else ""
        room = "" if self.bytes <= self.free_bytes else ": NOT ENOUGH"
        bad = (f"bad     {self.refused} of the {self.sampled} tried gave no record",)
        return "\n".join(
            (
                f"images  {self.images:,}",
                f"grids   {', '.join(grids[:5])}{more}",
                f"shards  {self.shards:,}",
                f"disk    {self.bytes / 1e9:.2f} GB; {self.free_bytes / 1e9:.1f} GB free{room}",
                f"time    {duration(self.seconds)} on {self.devices} device"
                f"{'s' * (self.devices != 1)}, as {self.sampled} of the images took",
                *(bad if self.refused else ()),
            )
        )


def estimate(
    manifest: Manifest, out: Path, request: Request, *, say: Callable[[str], None]
) -> Estimate:
    """Plan the extraction and run a few images of the most frequent grid shape for nothing.

    Their rate, and how well they compress, stand for all; several devices are taken to be as
    fast as this one each. Raises what `extract_images` raises before any work.
    """
    if request.scheduler:
        raise ExtractUsageError("--dry-run tries images on this machine; drop --scheduler")
    check_place(out)
    prepared = prepare(manifest, request, say=say)
    from .running.runner import run_tasks  # which imports torch

    identity = prepared.identity
    layout = lay_out(prepared.shapes, request.shard_size or SHARD_RECORDS)
    grids = Counter(map(str, prepared.shapes.values()))
    frequent = grids.most_common(1)[0][0]
    ids = [image_id for image_id, shape in prepared.shapes.items() if str(shape) == frequent]
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "sample.clipfeat"
        first = next(shard for shard in layout.shards if str(shard.shape) == frequent)
        tasks = shard_tasks(manifest, (first,), prepared.recipe)
        job = make_job(manifest, store, tasks, prepared, request, len(ids))
        few = (1 + BATCHES) * job.batch_size
        sample = {image_id: prepared.shapes[image_id] for image_id in ids[:: -(-len(ids) // few)]}
        small = lay_out(sample, len(ids))
        with StoreWriter(store, identity, small) as writer:
            tasks = shard_tasks(manifest, writer.pending, prepared.recipe)
            times, steps = [time.perf_counter()], []
            for step in run_tasks(tasks, job, prepared.backbone):
                steps.append(step)
                times.append(time.perf_counter())
    refused = sum(step.refused for step in steps)
    if len(steps) > 1:  # the first batch pays for starting
        steps, times = steps[1:], times[1:]
    each = (times[-1] - times[0]) / sum(step.images for step in steps)
    stored = sum(step.bytes for step in steps)
    ok = sum(step.images - step.refused for step in steps)
    ratio = stored / ok / (layout_bytes(small, identity) / len(sample)) if ok else 1.0
    return Estimate(
        images=len(manifest.images),
        grids=dict(grids.most_common()),
        dim=identity.dim,
        shards=len(layout.shards),
        bytes=int(ratio * layout_bytes(layout, identity)),
        free_bytes=free_bytes(out),
        seconds=each * len(manifest.images) / len(prepared.devices),
        devices=len(prepared.devices),
        sampled=len(sample),
        refused=refused,
    )
