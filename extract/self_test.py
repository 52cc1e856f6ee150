"""A device against the CPU: equal features, equal bits in any batch, equal stores, and its speed.

Random weights of a fixed seed, so that nothing is downloaded. The reference is computed on the CPU
in float32, once for all devices.
"""

import contextlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..featstore.report.deviation import TOLERANCE
from ..manifests import folder_manifest
from .api import extract_images
from .backbones.architecture import create_model
from .backbones.backbone import Backbone, choose_batch_size, normalised
from .backbones.timm_models import build_timm_model, choose_timm_weights, is_timms
from .backbones.weights import load_backbone
from .facts import Check, fact, passed, pictures
from .planning.config import ExtractConfig
from .planning.plan import BackboneSpec
from .planning.recipe import Recipe, make_recipe

IMAGES = 8
SIDE = 448  # pixels of the images whose rate is measured: those of the recipe caption448
RATE_SECONDS = 1.5
# Which of the images are in a batch; black rows, which also fill the last batch of a shard, follow.
BATCHES = {
    "alone": (3,),
    "padded": (0, 1, 2, 3, 4),
    "in another order": (7, 6, 5, 4, 3, 2, 1, 0),
}
# Relative errors that are allowed. In float32 the order of sums costs 1e-6; TF32, which drops 13
# bits of each factor and must not be used, costs 5e-4.
ALLOWED = {"float32": 1e-4, "float16": TOLERANCE["float16"], "bfloat16": TOLERANCE["bfloat16"]}


@dataclass(frozen=True)
class Reference:
    """What a model must give for eight pictures, computed on the CPU in float32."""

    model: str
    recipe: Recipe
    pixels: UInt8[Tensor, "image height width 3"]
    grids: Float[Tensor, "image row col dim"]  # clipfeat's
    embeddings: Float[Tensor, "image pooled_dim"]  # the library's own, of norm 1


@dataclass
class Measured:
    """What one model gave on a device."""

    errors: dict[str, float] = field(
        default_factory=dict
    )  # relative to the reference, by precision
    changed: list[str] = field(default_factory=list)  # arrangements of a batch that changed bits
    rate: float = 0.0  # images/s of the forward pass alone


def make_reference(model: str) -> Reference:
    """Return the reference of a model; raises ExtractUsageError for one without grids."""
    backbone = load(model, "float32", "cpu")
    recipe = make_recipe("model", backbone.native, backbone.cell, vector="embedding")
    pixels = torch.from_numpy(pictures(IMAGES, backbone.native.height_width))
    grids, _ = backbone.grids(pixels, recipe)
    stock = stock_tower(model)
    with torch.inference_mode():
        embeddings = stock(normalised(pixels, recipe))
    return Reference(model, recipe, pixels, grids, functional.normalize(embeddings, dim=-1))


def stock_tower(model: str) -> Callable[[Tensor], Tensor]:
    """Return the image tower of open_clip's or timm's own model, from images to embeddings."""
    if is_timms(model):
        spec = BackboneSpec(model, "none", 0, "float32")
        return build_timm_model(choose_timm_weights(spec), None, spec.seed)
    return create_model(model).eval().encode_image


def load(model: str, precision: Any, device: str) -> Backbone:
    """Return a backbone with random weights, without a line that says so."""
    with only_warnings():
        return load_backbone(BackboneSpec(model, "none", 0, precision), device)[0]


def self_test(device: str, references: Sequence[Reference], folder: Path) -> Iterator[Check]:
    """Yield the checks of one device, "cpu" or "cuda:1"; nothing that it does raises an error.

    The store of the last check is written in a temporary folder inside `folder`.
    """
    default = "float32" if device == "cpu" else "float16"
    measured: dict[str, Measured] = {}
    for reference in references:
        try:
            measured[reference.model] = measure(reference, default, device)
        except Exception as error:  # whatever a broken driver or library raises is what to report
            yield passed(
                "forward", f"{reference.model}: {one_line(error)}", good=False, device=device
            )
    if measured:
        yield from verdicts(measured, default, device)
    try:
        yield store_twice(references[0].model, device, folder)
    except Exception as error:
        yield passed("store", one_line(error), good=False, device=device)


def measure(reference: Reference, default: str, device: str) -> Measured:
    """Return what a model gives in each precision, and in the default one in other batches."""
    measured = Measured()
    for precision in ALLOWED:
        backbone = load(reference.model, precision, device)
        measured.errors[precision] = deviation(backbone, reference)
        if precision == default:
            measured.changed = changed_by_batch(backbone, reference)
            measured.rate = forward_rate(backbone)
    return measured


def deviation(backbone: Backbone, reference: Reference) -> float:
    """Return the larger relative error of the grids and of the embeddings."""
    grids, embeddings = backbone.grids(reference.pixels, reference.recipe)
    assert embeddings is not None
    units = functional.normalize(embeddings.float(), dim=-1)
    return max(relative_error(grids, reference.grids), relative_error(units, reference.embeddings))


def relative_error(values: Tensor, expected: Tensor) -> float:
    """Return the norm of a difference over the norm of what is expected."""
    values = values.float().cpu()
    return ((values - expected).norm() / expected.norm()).item()


def changed_by_batch(backbone: Backbone, reference: Reference) -> list[str]:
    """Return in which of BATCHES, all of the same number of rows, an image gets other bits."""
    pixels, recipe = reference.pixels, reference.recipe
    together = backbone.grids(pixels, recipe)[0]
    changed = []
    for name, images in BATCHES.items():
        batch = torch.zeros_like(pixels)
        batch[: len(images)] = pixels[list(images)]
        grids = backbone.grids(batch, recipe)[0]
        if not torch.equal(grids[: len(images)], together[list(images)]):
            changed.append(name)
    return changed


def forward_rate(backbone: Backbone) -> float:
    """Return images/s of the forward pass alone, for images of SIDE x SIDE pixels in full batches."""
    recipe = make_recipe(f"square:{SIDE}", backbone.native, backbone.cell)
    count = choose_batch_size(backbone, recipe, (SIDE, SIDE))
    pixels = torch.zeros(count, SIDE, SIDE, 3, dtype=torch.uint8)
    on_gpu = backbone.device.type == "cuda"
    if on_gpu:
        backbone.grids(pixels, recipe)  # the first pass chooses kernels
        torch.cuda.synchronize(backbone.device)
    done, started, elapsed = 0, time.perf_counter(), 0.0
    while not done or elapsed < RATE_SECONDS:
        backbone.grids(pixels, recipe)
        if on_gpu:
            torch.cuda.synchronize(backbone.device)
        done += count
        elapsed = time.perf_counter() - started
    return done / elapsed


def verdicts(measured: dict[str, Measured], default: str, device: str) -> Iterator[Check]:
    """Yield the lines of a device: each precision, the batches, and the rates."""
    for precision, allowed in ALLOWED.items():
        errors = {model: each.errors[precision] for model, each in measured.items()}
        listed = ", ".join(f"{model} {error:.1e}" for model, error in errors.items())
        yield passed(
            precision,
            f"{listed} from the CPU in float32 (relative error, at most {allowed:g})",
            good=all(error <= allowed for error in errors.values()),  # NaN is not
            device=device,
            relative_error=errors,
            allowed=allowed,
        )
    changed = {model: each.changed for model, each in measured.items() if each.changed}
    text = f"{', '.join(measured)} in {default}: same bits {', '.join(BATCHES)}"
    if changed:
        listed = "; ".join(f"{model} {', '.join(names)}" for model, names in changed.items())
        text = f"an image gets other bits in another batch of {IMAGES}: {listed}"
    yield passed("batches", text, good=not changed, device=device, changed=changed)
    rates = {model: each.rate for model, each in measured.items()}
    listed = ", ".join(f"{model} {rate:.3g}" for model, rate in rates.items())
    yield fact(
        "rate",
        f"{listed} images/s measured: forward pass alone, {default}, {SIDE}x{SIDE} pixels",
        device=device,
        images_per_second=rates,
        precision=default,
    )


def store_twice(model: str, device: str, folder: Path) -> Check:
    """Extract eight JPEG files into two stores, and compare their digests."""
    gpu = device.partition(":")[2]
    config = ExtractConfig(
        model=model,
        pretrained="none",
        recipe="square:224",
        gpus=f"{gpu}," if gpu else None,
        device=None if gpu else "cpu",
        decoders=2,
    )
    with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as temporary, only_warnings():
        root = Path(temporary)
        (root / "images").mkdir()
        for number, picture in enumerate(pictures(IMAGES, (240, 320))):
            Image.fromarray(picture).save(root / "images" / f"{number}.jpg", quality=90)
        manifest = folder_manifest(root / "images")
        digests = [
            extract_images(manifest, root / f"{run}.clipfeat", config).store.digest
            for run in range(2)
        ]
    first, second = digests
    if first == second:
        text = f"{model}: two extractions, one digest {first[:16]}..."
    else:
        text = f"{model}: two extractions, digests {first[:16]}... and {second[:16]}..."
    return passed("store", text, good=first == second, device=device, digests=digests)


@contextlib.contextmanager
def only_warnings() -> Iterator[None]:
    """Keep what an extraction logs of its progress out of the report."""
    logger = logging.getLogger("clipfeat.extract")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def one_line(error: Exception) -> str:
    """Return kind and text of an error, shortened to one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
