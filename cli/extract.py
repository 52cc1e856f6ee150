"""clipfeat extract: images to a feature store."""

import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..base.errors import ExtractUsageError
from ..base.text import printable, tell
from .options import (
    LocalPath,
    StatusList,
    as_json,
    break_lock,
    ema,
    file_ids,
    model_config,
    show,
)

if TYPE_CHECKING:
    from ..manifests import Manifest

logger = logging.getLogger(__name__)

MODELS = (
    "open_clip's name of a model: RN50x4, ViT-B-32, ..., or timm's: timm/resnet50.a1_in1k, ... "
    "(docs/backbones.md); needed unless the weights describe theirs."
)

MOST_PIXELS = 1 << 40  # a million by a million; a decoder's limits follow from it


@click.command()
@click.option(
    "--images",
    type=LocalPath("make a manifest of them: clipfeat manifest LIST --images URL"),
    default=Path("images"),
    show_default=True,
    metavar="DIR|MANIFEST",
    help="Folder of images, or a manifest.",
)
@file_ids
@click.option(
    "--out",
    type=LocalPath(),
    metavar="STORE",
    help="Store to write.  [default: IMAGES-MODEL-RECIPE.clipfeat]",
)
@click.option("--model", help=MODELS)
@model_config
@click.option(
    "--pretrained",
    metavar="TAG|PATH|package|none",
    help="Weights: a tag of open_clip or timm, a file, a folder (also of transformers), "
    "hf-hub:OWNER/NAME, package for those of an installed Python package, or none for random "
    "weights.  [default: openai, or the tag in timm's name]",
)
@ema
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of random weights.")
@click.option(
    "--recipe",
    default="caption448",
    show_default=True,
    help="How images become pixels: vqa600, caption448, pretrain384, square:N, model, "
    "aspect:S,L, views, or a TOML file (docs/recipes.md).",
)
@click.option(
    "--upright",
    is_flag=True,
    help="Turn images as their EXIF orientation says; stock CLIP does not. A manifest needs the same.",
)
@click.option(
    "--layer",
    type=click.Choice(["final", "final-no-norm", "penultimate"]),
    default="final",
    show_default=True,
    help="Output of a ViT: after all blocks and the last norm, before that norm, or after all "
    "blocks but one, which is recommended for grids of CLIP's ViTs (docs/backbones.md).",
)
@click.option(
    "--gpus",
    metavar="N|0,3|3,",
    help="GPUs: a count (8), their numbers (0,3), or one number (3,), among those of "
    "CUDA_VISIBLE_DEVICES.  [default: one, if there is one]",
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
    help="Type of the forward pass.  [default: float16 on a GPU, float32 on a CPU]",
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32"]),
    default="float16",
    show_default=True,
    help="Type of the numbers on disk.",
)
@click.option(
    "--codec",
    type=click.Choice(["zstd", "none"]),
    default="zstd",
    show_default=True,
    help="Compression on disk; records have a checksum with both.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1, 4096),
    help="Images per forward pass, at most a shard.  [default: as many as fit into the memory of "
    "a GPU, 8 for each core of a CPU]",
)
@click.option(
    "--shard-size",
    type=click.IntRange(1, 1 << 16),
    metavar="RECORDS",
    help="Records per shard; a killed run loses its unfinished shards.  [default: 128]",
)
@click.option(
    "--pooled",
    "vector",
    flag_value="embedding",
    help="Also store CLIP's pooled embedding.",
)
@click.option(
    "--class-token",
    "vector",
    flag_value="class_token",
    help="Also store the class token of the layer, instead of the pooled embedding.",
)
@click.option(
    "--decoders",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Decoder processes for each device.  [default: its share of the cores]",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(1, MOST_PIXELS),
    default=178_956_970,
    show_default=True,
    help="Reject larger images before decoding them. The limit is a quarter of this number for "
    "WebP, JPEG 2000 and AVIF, and half of it for progressive JPEG.",
)
@click.option(
    "--accept-truncated",
    is_flag=True,
    help="Use damaged and incomplete files as far as they can be decoded, with a remark; for those "
    "of a finished store, add --retry undecodable.",
)
@click.option(
    "--retry",
    type=StatusList("changed"),
    default=(),
    metavar="STATUS,...",
    help="Try ids of a finished store again that have no record, such as missing,undecodable; "
    "changed: those whose file has changed.",
)
@click.option(
    "--shard-range",
    metavar="K/N",
    help="Extract only part K of N on this machine; clipfeat store finish joins the parts.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only estimate grids, shards, disk space and time. Tries a few images.",
)
@click.option("--profile", is_flag=True, help="Print at the end where the time went.")
@click.option("--card", is_flag=True, help="Also write the card of the store: see store card.")
@click.option(
    "--thumbnails",
    type=click.IntRange(1, 100_000),
    is_flag=False,
    flag_value=64,
    metavar="[N]",
    help="Also keep small pictures of N random images in the store, for its card; without N, of 64.",
)
@break_lock
@as_json
@click.option("--strict", is_flag=True, help="Exit with 1 if any image gave no record.")
def extract(
    *,
    images: Path,
    ids: str,
    out: Path | None,
    shard_range: str | None,
    dry_run: bool,
    profile: bool,
    card: bool,
    thumbnails: int | None,
    as_json: bool,
    strict: bool,
    **options: Any,
) -> None:
    """Extract the CLIP grid features of images into a store.

    The same command resumes an interrupted run. With more images, it adds them to a finished
    store. Images that cannot be used are counted, and recorded with the reason.

    \b
    $ clipfeat extract --model RN50x4 --gpus 8
    $ clipfeat extract --model RN50 --pretrained RN50.pt --images images.parquet --out coco.clipfeat
    """
    from ..extract import ExtractConfig, extract_images
    from ..extract.estimate import estimate
    from ..extract.planning.recipe import check_recipe
    from ..featstore.layout import Part

    config = ExtractConfig(
        part=None if shard_range is None else Part.parse(shard_range),
        **options,
    )
    recipe = check_recipe(config.recipe, upright=config.upright)
    if thumbnails is not None:
        from ..extract.thumbnails import check_thumbnails

        check_thumbnails(recipe)
    if shard_range is not None and (card or thumbnails is not None):
        raise ExtractUsageError(
            "--card and --thumbnails need the whole store, and --shard-range writes a part of it; "
            "leave them out, and type clipfeat store card when the store is finished",
            code="E-CARD-PART",
        )
    manifest = load_images(images, ids, upright=recipe.is_upright)
    model = config.model or config.model_config or config.pretrained or ""
    out = out or default_out(images, model, config.recipe)
    if dry_run:
        estimated = estimate(manifest, out, config)
        show(estimated.to_json(), estimated.text(), as_json=as_json)
        return
    if card:
        from ..featstore.card.write import files_in_store

        files_in_store(out)  # those of people are kept: found before anything is computed
    report = extract_images(manifest, out, config)
    show(report.to_json(), report.text(), as_json=as_json)
    if thumbnails is not None:
        from ..extract.thumbnails import write_thumbnails

        write_thumbnails(report.store, manifest.root, thumbnails)
    if card:
        from ..featstore.card.write import write_card

        logger.info(f"{write_card(out).files[1]} written")
    if profile and not as_json:
        tell(report.timings.text(report.images))
    sys.exit(1 if strict and report.refused else 0)


def load_images(images: Path, ids: str = "stem", *, upright: bool = False) -> "Manifest":
    """Return the manifest in a file, or the manifest of a folder of images.

    `ids` and `upright` are for a folder: see `folder_manifest`. Since a manifest may come from
    anywhere, the root that it names is logged before it is read.
    """
    from ..manifests import folder_manifest, read_manifest
    from ..manifests.contents import require_driver

    if not images.is_file():
        return folder_manifest(images, ids, upright=upright)
    if ids != "stem":
        raise ExtractUsageError(
            f"--ids is for a folder of images; {images} is a manifest with ids; drop --ids",
            code="E-MANIFEST-IDS",
        )
    manifest = read_manifest(images)
    require_driver(manifest.root)
    logger.info(f"{images}: images are read from {printable(manifest.root)}")
    return manifest


def default_out(images: Path, model: str, recipe: str) -> Path:
    """Return the store's name, in the working folder, after images, model and recipe.

    The model may also be named by a file, a folder or a repository.
    """
    name = Path(model).name.removesuffix(".json")
    parts = (images.resolve().stem, name, Path(recipe).stem)
    return Path("-".join(re.sub(r"[^\w.-]+", "", part) for part in parts) + ".clipfeat")
