"""What must be known before the first image is read: devices, backbone, recipe, plan."""

import contextlib
import importlib.metadata
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..base.errors import needs_extra
from ..base.machine import require_gpus, usable_cores
from ..featstore import GridShape, Identity
from ..featstore.write import SHARD_RECORDS
from ..featstore.writing.update import shard_records_at
from ..manifests import Manifest
from .errors import ExtractUsageError
from .planning.job import BackboneSpec, Job
from .planning.passes import Passes
from .planning.plan import largest_picture, plan_shapes
from .planning.space import check_record_sizes
from .recipes.recipe import Recipe, check_recipe_name, make_recipe
from .request import Request

if TYPE_CHECKING:
    from .running.executors import Executor  # which imports torch


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

        from .backbones.backbone import cpu_threads
        from .backbones.precision import slow_precision
        from .backbones.weights import load_backbone
        from .running.executors import Here, Team

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
        backbone, described = load_backbone(spec, own, say=say)
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
            from .running.cluster import OnCluster

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
        from .running.cluster_survey import connected, survey
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


def default_precision(devices: tuple[str, ...]) -> str:
    """Return float16 on a GPU, as CLIP was published, and float32 on a CPU."""
    return "float32" if devices[0] == "cpu" else "float16"


def library_versions(recipe: Recipe) -> dict[str, str]:
    """Return the versions of what touches pixels."""
    names = ("pillow", "torch", "open_clip_torch", recipe.decoder)
    return {name: importlib.metadata.version(name) for name in names}
