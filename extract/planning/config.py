"""What a user asks of an extraction, checked before anything heavy is imported."""

from dataclasses import dataclass
from typing import Literal, get_args

from ...base.errors import ExtractUsageError
from ...featstore import Status
from ...featstore.identity import Codec, FloatDtype, Precision
from ...featstore.layout import Part
from ...featstore.metadata import MAX_SHARD_RECORDS
from .recipe import Layer, Vector

# Pillow's own limit against decompression bombs (twice 1 GiB of 4:4:4 pixels / 3).
MAX_PIXELS = 178_956_970
CHANGED = "changed"  # among the statuses of `retry`: files whose content has changed

Device = Literal["cpu", "cuda"]

# What values other than the defaults must be.
CHOICES = {
    "layer": Layer,
    "vector": Vector,
    "device": Device,
    "precision": Precision,
    "dtype": FloatDtype,
    "codec": Codec,
}
COUNTS = ("procs", "batch_size", "shard_size", "decoders", "max_pixels")
RETRIES = (CHANGED, *(status for status in Status if status != Status.OK))


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """The options of an extraction; those of `clipfeat extract` have the same names.

    One of `model`, `model_config` and a `pretrained` that describes its model is required. `None`
    means: choose by the devices and the backbone.

    Attributes:
        model: open_clip's name of a model, such as `RN50x4` or `ViT-B-32`, or timm's with
            `timm/` before it: `timm/resnet50.a1_in1k`; `local-dir:FOLDER` and `hf-hub:OWNER/NAME`
            name a model with its weights.
        model_config: A file with an architecture of your own, in open_clip's format.
        pretrained: The weights: a tag of open_clip, the path of a file or folder, `hf-hub:OWNER/NAME`,
            or `"none"` for random weights; for a model of timm also a tag of timm, or `"package"`
            for those in an installed Python package. `None` takes `openai`, or the tag in timm's
            name.
        ema: Use the averaged weights of a training checkpoint.
        seed: Seed of random weights.
        recipe: How images become pixels: `caption448`, `vqa600`, `pretrain384`, `square:N`,
            `aspect:S,L`, `model`, `views`, or the path of a TOML file.
        upright: Turn images as their EXIF orientation says, before all other steps of the recipe.
        layer: Output of a ViT: `final`, `final-no-norm` (before the last norm) or `penultimate`,
            which is recommended for grids of CLIP's ViTs.
        vector: What is stored beside the grid: CLIP's `embedding`, the `class_token`, or nothing.
        gpus: A count of GPUs (`"8"`), their numbers (`"0,3"`), or one number (`"3,"`).
        device: Where to compute: `cpu` or `cuda`.
        procs: Processes that compute, with `device="cpu"`.
        scheduler: Address of a dask scheduler whose workers compute.
        precision: Type of the forward pass: `float32`, `bfloat16` or `float16`.
        dtype: Type of the numbers on disk: `float16` or `float32`.
        codec: Compression on disk: `zstd` or `none`.
        batch_size: Images per forward pass.
        shard_size: Records per shard.
        decoders: Decoder processes for each device.
        max_pixels: Largest image that is decoded, in pixels.
        accept_truncated: Use damaged and incomplete files as far as they can be decoded.
        part: The part of the shards to write; other machines write the others.
        retry: Statuses of images of a finished store to try again, or `changed`.
        break_lock: Take over the lock of a dead process on another host.

    Raises:
        UsageError: An option has an invalid value (`E-CONFIG-VALUE`), or options exclude each
            other (`E-CONFIG-CONFLICT`).

    Example:
        >>> ExtractConfig(model="RN50x4", vector="embedding").recipe
        'caption448'
    """

    model: str | None = None
    model_config: str | None = None
    pretrained: str | None = None
    ema: bool = False
    seed: int = 0
    recipe: str = "caption448"
    upright: bool = False
    layer: Layer = "final"
    vector: Vector | None = None
    gpus: str | None = None
    device: Device | None = None
    procs: int = 1
    scheduler: str | None = None
    precision: Precision | None = None
    dtype: FloatDtype = "float16"
    codec: Codec = "zstd"
    batch_size: int | None = None
    shard_size: int | None = None
    decoders: int | None = None
    max_pixels: int = MAX_PIXELS
    accept_truncated: bool = False
    part: Part | None = None
    retry: tuple[str, ...] = ()
    break_lock: bool = False

    def __post_init__(self) -> None:
        for name, kind in CHOICES.items():
            allowed = (getattr(type(self), name), *get_args(kind))
            if getattr(self, name) not in allowed:
                raise self._refused(name, f"one of {', '.join(get_args(kind))}")
        for name in COUNTS:
            value, default = getattr(self, name), getattr(type(self), name)
            if value is not default and (type(value) is not int or value < 1):
                raise self._refused(name, "1 or more")
        if self.shard_size is not None and self.shard_size > MAX_SHARD_RECORDS:
            raise self._refused("shard_size", f"at most {MAX_SHARD_RECORDS:,} records")
        if not set(self.retry) <= set(RETRIES):
            raise self._refused("retry", f"a tuple of some of {', '.join(RETRIES)}")
        if self.scheduler == "":
            raise self._refused("scheduler", "an address, such as tcp://host:8786")
        if self.scheduler and (self.gpus is not None or self.device or self.procs != 1):
            raise _conflict(
                "--scheduler: the workers of the cluster compute, each on its own device; drop "
                "--gpus, --device and --procs"
            )
        if self.scheduler and self.part:
            raise _conflict("--scheduler and --shard-range exclude each other; drop one")
        if self.gpus is not None and self.device == "cpu":
            raise _conflict("--gpus and --device cpu exclude each other; drop one")
        if self.procs != 1 and self.device != "cpu":
            raise _conflict("--procs is for --device cpu; for GPUs type --gpus N")

    def _refused(self, name: str, rule: str) -> ExtractUsageError:
        value = getattr(self, name)
        return ExtractUsageError(
            f"{name}: expected {rule}; got {value!r:.80}", code="E-CONFIG-VALUE"
        )


def _conflict(text: str) -> ExtractUsageError:
    return ExtractUsageError(text, code="E-CONFIG-CONFLICT")
