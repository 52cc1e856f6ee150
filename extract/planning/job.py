"""What an extraction was asked to do, as plain values that travel to worker processes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...featstore import Identity
from ..recipes.recipe import Recipe
from .passes import Passes


@dataclass(frozen=True)
class BackboneSpec:
    """Which backbone, with which weights, computing in which precision."""

    model: str  # open_clip's name
    pretrained: str | None  # a tag of open_clip's, a file, or "none"; None: openai if there
    seed: int  # of random weights
    precision: str  # float32, bfloat16 or float16


@dataclass(frozen=True)
class Job:
    """Everything a device needs to turn shard tasks into shards."""

    store: Path
    image_root: str  # a folder or a URL
    backbone: BackboneSpec
    recipe: Recipe
    identity: Identity
    shard_records: int
    passes: Passes
    picture_bytes: int  # of the largest picture of the plan, as it enters the backbone
    decoders: int  # processes that decode, per device
    threads: int  # that compress, per device
    max_pixels: int  # of an image file, above which it is not decoded
    accept_truncated: bool
    libraries: Mapping[str, str]  # versions of what touches pixels, by name
