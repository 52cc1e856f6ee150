"""clipfeat extract: images to a feature store."""

import logging
import sys
from pathlib import Path
from typing import Literal

import click

from .options import LocalPath, StatusList, as_json, break_lock, file_ids, show, tell

logger = logging.getLogger(__name__)

MODELS = "open_clip's name of a CLIP: RN50x4, ViT-B-32, ViT-B-16-SigLIP, ... (docs/backbones.md)"

MOST_PIXELS = 1 << 40  # a million by a million; a decoder's limits follow from it


@click.command()
@click.option(
    "--images",
    type=LocalPath("images are named by a manifest: clipfeat manifest LIST --images URL"),
    default=Path("images"),
    show_default=True,
    metavar="DIR|MANIFEST",
    help="A folder of images, or a manifest of one.",
)
@file_ids
@click.option(
    "--out",
    type=LocalPath(),
    metavar="STORE",
    help="The store to write.  [default: IMAGES-MODEL-RECIPE.clipfeat]",
)
@click.option("--model", required=True, help=MODELS)
@click.option(
    "--pretrained",
    metavar="TAG|PATH|none",
    help="Weights: a tag of open_clip's, a file, or none for random ones.  [default: openai]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of random weights.")
@click.option(
    "--recipe",
    default="caption448",
    show_default=True,
    help="How images become pixels: vqa600, caption448, pretrain384, square:N, model, "
    "aspect:S,L, views, or a TOML file (docs/recipes.md).",
)
@click.option(
    "--layer",
    type=click.Choice(["final", "final-no-norm", "penultimate"]),
    default="final",
    show_default=True,
    help="Of a ViT: all blocks and the last norm, without that norm, or all blocks but one.",
)
@click.option(
    "--decode",
    type=click.Choice(["pillow", "device"]),
    default="pillow",
    show_default=True,
    help="Who decodes JPEGs: Pillow in processes, or torchvision on the device, which gives "
    "other pixels (docs/recipes.md).",
)
@click.option(
    "--gpus",
    metavar="N|0,3|3,",
    help="How many GPUs (8), which (0,3), or which one (3,), of those that CUDA_VISIBLE_DEVICES "
    "lists.  [default: one, if any]",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Where to compute.")
@click.option(
    "--procs",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Processes on the CPU, with --device cpu.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Compute on the workers of a dask cluster, tcp://host:8786 (docs/clusters.md).",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Of the forward pass.  [default: float16 on a GPU, float32 on a CPU]",
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32"]),
    default="float16",
    show_default=True,
    help="Of the numbers on disk.",
)
@click.option(
    "--codec",
    type=click.Choice(["zstd", "none"]),
    default="zstd",
    show_default=True,
    help="Compression on disk; a checksum stands inside either way.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1, 4096),
    help="Images a forward pass, at most a shard.  [default: what fits the memory of a GPU, 8 for "
    "each core of a CPU]",
)
@click.option(
    "--shard-size",
    type=click.IntRange(1, 1 << 16),
    metavar="RECORDS",
    help="Records in a file, the unit that a killed run loses.  [default: 128]",
)
@click.option(
    "--pooled",
    "vector",
    flag_value="embedding",
    help="Keep CLIP's pooled embedding beside the grid.",
)
@click.option(
    "--class-token",
    "vector",
    flag_value="class_token",
    help="Keep the class token of the layer beside the grid instead.",
)
@click.option(
    "--decoders",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Processes that decode, for each device.  [default: its share of the cores]",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(1, MOST_PIXELS),
    default=178_956_970,
    show_default=True,
    help="Refuse images of more pixels before decoding them. The limit is a quarter of it for WebP, "
    "JPEG 2000 and AVIF, and half of it for progressive JPEG.",
)
@click.option(
    "--accept-truncated",
    is_flag=True,
    help="Use files that are cut off or damaged as far as they can be read, with a remark; those "
    "of a finished store with --retry undecodable.",
)
@click.option(
    "--retry",
    type=StatusList("changed"),
    default=(),
    metavar="STATUS,...",
    help="Try ids of a finished store again that gave no record, e.g. missing,undecodable; "
    "changed: those whose file has another content now.",
)
@click.option(
    "--shard-range",
    metavar="K/N",
    help="Write only part K of N, as one of many machines; then: clipfeat store finish.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only say what it will come to: grids, shards, disk, time. Tries a few images.",
)
@click.option("--profile", is_flag=True, help="Say at the end where the time went.")
@break_lock
@as_json
@click.option("--strict", is_flag=True, help="Exit with 1 if any image gave no record.")
def extract(
    *,
    images: Path,
    ids: str,
    out: Path | None,
    model: str,
    pretrained: str | None,
    seed: int,
    recipe: str,
    layer: Literal["final", "final-no-norm", "penultimate"],
    decode: Literal["pillow", "device"],
    gpus: str | None,
    device: str | None,
    procs: int,
    scheduler: str | None,
    precision: Literal["float32", "bfloat16", "float16"] | None,
    dtype: Literal["float16", "float32"],
    codec: Literal["zstd", "none"],
    batch_size: int | None,
    shard_size: int | None,
    vector: Literal["embedding", "class_token"] | None,
    decoders: int | None,
    max_pixels: int,
    accept_truncated: bool,
    retry: tuple[str, ...],
    shard_range: str | None,
    dry_run: bool,
    profile: bool,
    break_lock: bool,
    as_json: bool,
    strict: bool,
) -> None:
    """Run images through a CLIP backbone and keep the grid of each in a store.

    A run that was cut off goes on where it was when the same command is given again. On a
    finished store the same command with more images adds them. Images that cannot be used are
    counted, and recorded with the reason.

    \b
    $ clipfeat extract --model RN50x4 --gpus 8
    $ clipfeat extract --model RN50 --pretrained RN50.pt --images images.parquet --out coco.clipfeat
    """
    from ..extract.api import extract_images
    from ..extract.config import Request, default_out, load_images
    from ..extract.estimate import estimate
    from ..featstore.layout import Part

    request = Request(
        model=model,
        pretrained=pretrained,
        seed=seed,
        recipe=recipe,
        gpus=gpus,
        device=device,
        procs=procs,
        scheduler=scheduler,
        precision=precision,
        dtype=dtype,
        codec=codec,
        batch_size=batch_size,
        shard_size=shard_size,
        layer=layer,
        vector=vector,
        decoder="torchvision" if decode == "device" else "pillow",
        decoders=decoders,
        max_pixels=max_pixels,
        accept_truncated=accept_truncated,
        part=None if shard_range is None else Part.parse(shard_range),
        retry=retry,
        break_lock=break_lock,
    )
    manifest = load_images(images, ids, say=logger.info)
    out = out or default_out(images, request)
    if dry_run:
        found = estimate(manifest, out, request, say=logger.info)
        show(found.to_json(), found.text(), as_json=as_json)
        return
    report = extract_images(manifest, out, request, say=logger.info)
    show(report.to_json(), report.text(), as_json=as_json)
    if profile and not as_json:
        tell(report.spent.text(report.images))
    sys.exit(1 if strict and report.refused else 0)
