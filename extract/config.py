"""What a user asks of an extraction."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import ExtractUsageError
from ..base.text import printable
from ..featstore.layout import Part
from ..featstore.metadata import Codec, Dtype, Precision
from ..manifests import Manifest, folder_manifest, read_manifest
from ..manifests.contents import require_driver
from .pixels.images import MAX_PIXELS
from .planning.recipe import Decoder, Layer, Vector

CHANGED = "changed"  # among the statuses of --retry: files with another content than extracted


@dataclass(frozen=True)
class Request:
    """What a user asks for; None means: choose for the devices and the backbone at hand."""

    model: str
    pretrained: str | None = None
    seed: int = 0
    recipe: str = "caption448"
    layer: Layer = "final"
    vector: Vector | None = None  # what is kept beside the grid
    decoder: Decoder = "pillow"  # of JPEG files
    gpus: str | None = None
    device: str | None = None
    procs: int = 1
    scheduler: str | None = None  # of a dask cluster whose workers compute
    precision: Precision | None = None
    dtype: Dtype = "float16"
    codec: Codec = "zstd"
    batch_size: int | None = None
    shard_size: int | None = None
    decoders: int | None = None  # processes that decode, for each device
    max_pixels: int = MAX_PIXELS  # of an image file, above which it is not decoded
    accept_truncated: bool = False
    part: Part | None = None  # of the shards: other machines write the others
    retry: tuple[str, ...] = ()  # statuses of a finished store's ids to try again, or "changed"
    break_lock: bool = False


def load_images(images: Path, ids: str = "stem", *, say: Callable[[str], None]) -> Manifest:
    """Return the manifest that `images` is, or the manifest of the folder that it is.

    `ids` is for a folder: see `folder_manifest`. `say` is told what is passed over there, and,
    since a manifest may come from anywhere, which root one names.
    """
    if not images.is_file():
        return folder_manifest(images, ids)
    if ids != "stem":
        raise ExtractUsageError(f"--ids is for a folder of images; {images} is a manifest with ids")
    manifest = read_manifest(images)
    require_driver(manifest.root)
    say(f"{images}: images are read from {printable(manifest.root)}")
    return manifest


def default_out(images: Path, request: Request) -> Path:
    """Return the store's name, in the working folder, after images, model and recipe."""
    parts = (images.resolve().stem, request.model, Path(request.recipe).stem)
    return Path("-".join(re.sub(r"[^\w.-]+", "", part) for part in parts) + ".clipfeat")
