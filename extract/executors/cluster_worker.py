"""What runs in a dask worker process: shard after shard on its device.

The module is light to import, since a worker does that in the thread that keeps it alive.

Who may write. The lock of the store is held by the process that submitted the tasks. A worker
reads from it whose turn it is before a shard and after each batch. Where that process is killed,
dask drops the tasks that wait, and those that run continue to the end of their shard: they write
the files and the receipt that were planned, and a later run of the same plan finds them. A new
run takes the lock over and removes all unfinished files first, so that a shard begun before
cannot be committed after: its rename fails.
"""

import asyncio
import importlib.metadata
import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from ...base.errors import ClipfeatError, ExtractError
from ...base.machine import affinity, usable_cores
from ...featstore.writing.journal import Journal
from ..pixels.files import file_sha256
from ..planning.plan import BackboneSpec, Job, ShardTask
from ..planning.recipe import Recipe
from .results import BatchResult

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone

TRIED = 16  # images, to find one that can be read

_device = threading.Lock()  # dask may run tasks in several threads


class DeviceFacts(NamedTuple):
    """What a worker computes with."""

    device: str  # "cuda" or "cpu"
    gpu: str  # which one of all GPUs, "" for a CPU
    cores: int  # that its host lets it use
    affinity: tuple[int, ...] = ()  # which ones these are; workers with the same share them


@dataclass(frozen=True)
class WorkerSetup:
    """What all workers must have alike, or their numbers would differ."""

    backbone: BackboneSpec
    weights_sha256: str
    device: str  # "cuda" or "cpu"
    cores: int  # that it uses
    versions: tuple[tuple[str, str | None], ...]  # of packages


@dataclass(frozen=True)
class RunContext:
    """Everything a worker needs beside its tasks."""

    job: Job
    setup: WorkerSetup
    holder: bytes  # what the lock of the store holds while this run may write


async def device_facts() -> DeviceFacts:
    """Return what this worker computes with; imports torch beside the worker's event loop."""
    return await asyncio.to_thread(_device_facts)


def _device_facts() -> DeviceFacts:
    import torch

    cores = (usable_cores(), affinity())
    if not torch.cuda.is_available():
        return DeviceFacts("cpu", "", *cores)
    return DeviceFacts("cuda", str(torch.cuda.get_device_properties(0).uuid), *cores)


def first_readable(tasks: Iterable[ShardTask], job: Job) -> tuple[str, str] | None:
    """Return path and sha256 of one of the first images, None if none of them can be read."""
    paths = (image.path for task in tasks for image in task.images)
    for path in islice(paths, TRIED):
        if sha256 := file_sha256(job.image_root, path, job.recipe.views):
            return path, sha256
    return None


async def check(context: RunContext, image: tuple[str, str] | None) -> str | None:
    """Return what keeps this worker from its work, None if nothing does."""
    return await asyncio.to_thread(_problem, context, image)


def _problem(context: RunContext, image: tuple[str, str] | None) -> str | None:
    job = context.job
    if not _may_write(context):
        return (
            f"does not see the store that is being written in {job.store}; put --out on a disk "
            f"that all workers share under one path"
        )
    if image and file_sha256(job.image_root, image[0], job.recipe.views) != image[1]:
        return (
            f"does not see the same image {image[0]} in {job.image_root}; put the images on a "
            f"disk that all workers share under one path, or behind a URL"
        )
    return None


def _may_write(context: RunContext) -> bool:
    try:
        return Journal(context.job.store).holder() == context.holder
    except OSError:
        return False


def batch_size(spec: BackboneSpec, device: str, recipe: Recipe, size: tuple[int, int]) -> int:
    """Return how many images of (height, width) pixels fit the device of this worker."""
    from ..backbones.backbone import choose_batch_size
    from ..backbones.weights import load_backbone

    with _device:
        return choose_batch_size(load_backbone(spec, device)[0], recipe, size)


def run_shards(tasks: tuple[ShardTask, ...], context: RunContext) -> list[BatchResult]:
    """Write shards, in order; returns for each the sum of its batches, with its receipt.

    Raises ExtractError for what a user can mend, and if the run that sent the tasks has ended.
    """
    from .pipeline import run_tasks

    shards: list[BatchResult] = []
    shard = BatchResult()
    with _device:
        try:
            _check_may_write(context)
            for result in run_tasks(tasks, context.job, _backbone(context.setup)):
                shard = shard.plus(result)
                if shard.receipt is not None:
                    shards.append(shard)
                    shard = BatchResult()
                if len(shards) < len(tasks):
                    _check_may_write(context)
        except (ClipfeatError, OSError) as error:
            code = getattr(error, "code", "E-WORKER-SYSTEM")
            raise ExtractError(f"{error} (on {socket.gethostname()})", code=code) from None
    return shards


def _check_may_write(context: RunContext) -> None:
    if not _may_write(context):
        raise ExtractError(
            f"{context.job.store} is not being written by this run any more", code="E-LOCK-BROKEN"
        )


@lru_cache(maxsize=1)  # one for each process, kept from task to task and from run to run
def _backbone(setup: WorkerSetup) -> "Backbone":
    """Load the backbone; raises ExtractError if this worker is not like the others.

    They were checked before the first task, but workers may join later.
    """
    import torch

    from ..backbones.weights import load_backbone

    for name, version in setup.versions:
        installed = importlib.metadata.version(name)
        if installed != version:
            raise ExtractError(
                f"a worker has joined that has {name} {installed}, and the others {version}; "
                f"install the same versions everywhere",
                code="E-CLUSTER-VERSION",
            )
    if _device_facts().device != setup.device:
        raise ExtractError(
            f"a worker has joined that does not compute on {setup.device}, as the others do; "
            f"start workers of one kind",
            code="E-CLUSTER-DEVICE",
        )
    torch.set_num_threads(setup.cores)  # a nanny sets OMP_NUM_THREADS=1
    backbone, described = load_backbone(setup.backbone, setup.device)
    if described["weights_sha256"] != setup.weights_sha256:
        raise ExtractError(
            f"--pretrained {setup.backbone.pretrained}: the weights on a worker are not those of "
            f"this process; put them on a disk that all workers share",
            code="E-CLUSTER-WEIGHTS",
        )
    return backbone
