"""What must be known before the first image is read: devices, backbone, recipe, plan."""

import importlib.metadata
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..base.errors import missing_extra
from ..featstore import GridShape, Identity
from ..manifests import Manifest
from .devices import choose_devices
from .job import BackboneSpec, Job
from .plan import ShardTask, plan_shapes
from .recipe import Recipe, check_recipe_name, make_recipe
from .request import Request

if TYPE_CHECKING:
    from .backbone import Backbone  # which imports torch


@dataclass(frozen=True)
class Prepared:
    """What is known before the first image is read."""

    devices: tuple[str, ...]
    backbone: "Backbone"
    spec: BackboneSpec
    recipe: Recipe
    identity: Identity
    shapes: dict[str, GridShape]


def prepare(manifest: Manifest, request: Request, *, say: Callable[[str], None]) -> Prepared:
    """Load the backbone and plan the grids; raises ExtractUsageError for what cannot be done."""
    check_recipe_name(request.recipe)
    try:
        import torch

        devices = choose_devices(
            request.device, request.gpus, request.procs, torch.cuda.device_count()
        )
        from .weights import load_backbone, remark
    except ImportError as error:
        raise missing_extra("extract", error.name or "torch") from None

    precision = request.precision or default_precision(devices)
    spec = BackboneSpec(request.model, request.pretrained, request.seed, precision)
    backbone, described = load_backbone(spec, devices[0])
    if remarked := remark(described):
        say(remarked)
    recipe = make_recipe(
        request.recipe, backbone.native, backbone.cell, layer=request.layer, vector=request.vector
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
    return Prepared(devices, backbone, spec, recipe, identity, shapes)


def make_job(
    manifest: Manifest,
    out: Path,
    tasks: Iterable[ShardTask],
    prepared: Prepared,
    request: Request,
    shard_records: int,
) -> Job:
    """Return what every device is told."""
    from .batch_size import choose_batch_size

    shapes = {task.picture_shape for task in tasks}
    largest = max(shapes, key=math.prod)
    height, width, _ = largest[-3:]
    images = request.batch_size or choose_batch_size(
        prepared.backbone, prepared.recipe, (height, width)
    )
    cores = max(1, (os.cpu_count() or 1) // len(prepared.devices))
    return Job(
        store=out,
        image_root=manifest.root,
        backbone=prepared.spec,
        recipe=prepared.recipe,
        identity=prepared.identity,
        shard_records=shard_records,
        batch_size=max(1, images // (prepared.recipe.views or 1)),
        picture_bytes=math.prod(largest),
        decoders=request.decoders or cores,
        threads=max(2, cores),
        max_pixels=request.max_pixels,
        accept_truncated=request.accept_truncated,
        libraries=library_versions(),
    )


def default_precision(devices: tuple[str, ...]) -> str:
    """Return float16 on a GPU, as CLIP was published, and float32 on a CPU."""
    return "float32" if devices[0] == "cpu" else "float16"


def library_versions() -> dict[str, str]:
    """Return the versions of what touches pixels."""
    names = ("pillow", "torch", "open_clip_torch")
    return {name: importlib.metadata.version(name) for name in names}
