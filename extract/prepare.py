"""What must be known before the first image is read: devices, backbone, recipe, plan."""

import importlib.metadata
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..base.errors import needs_extra
from ..featstore import GridShape, Identity
from ..manifests import Manifest
from .errors import ExtractUsageError
from .planning.devices import choose_devices
from .planning.job import BackboneSpec, Job
from .planning.plan import ShardTask, plan_shapes
from .planning.space import check_record_sizes
from .recipes.recipe import Recipe, check_recipe_name, make_recipe
from .request import Request

if TYPE_CHECKING:
    from .backbones.backbone import Backbone  # which imports torch


@dataclass(frozen=True)
class Prepared:
    """What is known before the first image is read."""

    devices: tuple[str, ...]  # that compute; this process's own, or one of each worker's
    cores: int  # for each device
    backbone: "Backbone"
    spec: BackboneSpec
    recipe: Recipe
    identity: Identity
    shapes: dict[str, GridShape]


def prepare(manifest: Manifest, request: Request, *, say: Callable[[str], None]) -> Prepared:
    """Load the backbone and plan the grids; raises ExtractUsageError for what cannot be done."""
    check_recipe_name(request.recipe, request.decoder)
    with needs_extra("extract"):
        import torch

        from .backbones.weights import load_backbone

    if request.scheduler:
        devices, cores = _devices_there(request)
        own = "cpu"  # to know grids and weights
    else:
        devices = choose_devices(
            request.device, request.gpus, request.procs, torch.cuda.device_count()
        )
        cores = max(1, (os.cpu_count() or 1) // len(devices))
        own = devices[0]
    precision = request.precision or default_precision(devices)
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
    check_record_sizes(shapes.values(), identity)
    return Prepared(devices, cores, backbone, spec, recipe, identity, shapes)


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
    tasks: Iterable[ShardTask],
    prepared: Prepared,
    request: Request,
    shard_records: int,
) -> Job:
    """Return what every device is told."""
    shapes = {task.picture_shape for task in tasks}
    largest = max(shapes, key=math.prod)
    height, width, _ = largest[-3:]
    images = request.batch_size or _batch_size(prepared, request, (height, width))
    return Job(
        store=out,
        image_root=manifest.root,
        backbone=prepared.spec,
        recipe=prepared.recipe,
        identity=prepared.identity,
        shard_records=shard_records,
        batch_size=max(1, images // (prepared.recipe.views or 1)),
        picture_bytes=math.prod(largest),
        decoders=request.decoders or prepared.cores,
        threads=max(2, prepared.cores),
        max_pixels=request.max_pixels,
        accept_truncated=request.accept_truncated,
        libraries=library_versions(prepared.recipe),
    )


def _batch_size(prepared: Prepared, request: Request, size: tuple[int, int]) -> int:
    from .backbones.batch_size import choose_batch_size

    if request.scheduler and prepared.devices[0] == "cuda":
        from .running.cluster import batch_size_there

        return batch_size_there(request.scheduler, prepared.spec, prepared.recipe, size)
    return choose_batch_size(prepared.backbone, prepared.recipe, size)


def default_precision(devices: tuple[str, ...]) -> str:
    """Return float16 on a GPU, as CLIP was published, and float32 on a CPU."""
    return "float32" if devices[0] == "cpu" else "float16"


def library_versions(recipe: Recipe) -> dict[str, str]:
    """Return the versions of what touches pixels."""
    names = ("pillow", "torch", "open_clip_torch", recipe.decoder)
    return {name: importlib.metadata.version(name) for name in names}
