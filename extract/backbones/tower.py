"""Position tables fitted to explicit rows and columns."""

import contextlib
import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, UInt8
from open_clip.model import ModifiedResNet, VisionTransformer
from open_clip.timm_model import TimmModel
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ...base.errors import ExtractUsageError
from ...base.machine import CLEARLY, slower_than_float32, usable_cores
from ..planning.plan import CHUNK
from ..planning.recipe import Layer, Preprocess, Recipe, Vector

# What timm calls the parameters that belong to places, in any of its towers.
TIMM_TABLES = ("pos_embed", "relative_position_bias_table")


class Positions(ABC):
    """What a tower knows of places. `fit` must not run beside a forward pass."""

    @abstractmethod
    def fit(self, grid: tuple[int, int]) -> None:
        """Make the tower ready for images of (rows, cols) cells.

        Always from the table it was made with, in float32: fitting a table that was fitted before
        would blur it a little more each time.
        """


class TablePositions(Positions):
    """The table `positional_embedding` of open_clip's own modules."""

    def __init__(self, owner: Any, grid: tuple[int, int]):
        self._owner = owner
        self._table = owner.positional_embedding.detach().float().clone()
        self._native = self._grid = grid

    def fit(self, grid: tuple[int, int]) -> None:
        if grid == self._grid:
            return
        now = self._owner.positional_embedding
        table = interpolate_positions(self._table, self._native, grid).to(now.device, now.dtype)
        self._owner.positional_embedding = nn.Parameter(table, requires_grad=False)
        self._grid = grid


class TimmPositions(Positions):
    """Tables, rotary angles and windows of a timm tower, which `set_input_size` fits."""

    def __init__(self, visual: Any, cell: tuple[int, int]):
        self._visual, self._cell = visual, cell
        self._has_any = hasattr(visual.trunk, "set_input_size")  # convolutions know no places
        if self._has_any:
            self._native = self._size = visual.trunk.patch_embed.img_size
            self._tables = {
                name: parameter.detach().float().clone()
                for name, parameter in visual.trunk.named_parameters()
                if name.rpartition(".")[2] in TIMM_TABLES
            }

    def fit(self, grid: tuple[int, int]) -> None:
        size = (grid[0] * self._cell[0], grid[1] * self._cell[1])
        if not self._has_any or size == self._size:
            return
        trunk = self._visual.trunk
        dtypes = {name: trunk.get_parameter(name).dtype for name in self._tables}
        self._visual.set_input_size(self._native)
        for name, table in self._tables.items():
            parameter = trunk.get_parameter(name)
            parameter.data = table.to(parameter.device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of how timm fits the tables of Swin
            self._visual.set_input_size(size)
        for name, dtype in dtypes.items():
            parameter = trunk.get_parameter(name)
            parameter.data = parameter.data.to(dtype)
        self._size = size


def interpolate_positions(
    table: Float[Tensor, "positions dim"], native: tuple[int, int], target: tuple[int, int]
) -> Float[Tensor, "new_positions dim"]:
    """Return a position table made for a grid of `native` (rows, cols), fitted to `target`.

    The first row belongs to the class token and is kept. Bicubic with antialiasing, as
    open_clip resizes its tables; but to explicit rows and cols: a square assumed from the
    number of cells is what silently broke the published ViT grids (CLIP-ViL issue 13).
    """
    first, cells = table[:1], table[1:]
    image = cells.reshape(1, *native, -1).permute(0, 3, 1, 2)
    image = functional.interpolate(
        image, size=target, mode="bicubic", antialias=True, align_corners=False
    )
    return torch.cat([first, image.permute(0, 2, 3, 1).reshape(target[0] * target[1], -1)])


Images = Float[Tensor, "image 3 height width"]
Output = tuple[Float[Tensor, "image row col dim"], Float[Tensor, "image vector"] | None]
LAYERS: tuple[Layer, ...] = ("final", "final-no-norm", "penultimate")


class Tower(ABC):
    """An image tower in eval mode.

    `cell` is the (height, width) in pixels that one grid cell stands for, `dim` its channels and
    `embedding_dim` those of CLIP's own image embedding. `layers` are those it can give.

    A call takes images of as many cells as `positions` was last fitted to. The class token is
    that of the layer, the embedding is what `encode_image` gives.
    """

    visual: Any  # open_clip's module
    positions: Positions
    cell: tuple[int, int]
    dim: int
    embedding_dim: int
    layers: tuple[Layer, ...]
    has_class_token: bool

    @abstractmethod
    def __call__(self, images: Images, layer: Layer, vector: Vector | None) -> Output: ...


def make_tower(visual: Any, embedding_dim: int) -> Tower | None:
    """Return the tower around open_clip's `visual`, or None for a kind that is not known here."""
    if isinstance(visual, ModifiedResNet):
        return ResNetTower(visual)
    if isinstance(visual, VisionTransformer):
        return ViTTower(visual)
    if isinstance(visual, TimmModel) and hasattr(visual.trunk, "num_prefix_tokens"):
        return TimmViTTower(visual, embedding_dim)
    if isinstance(visual, TimmModel) and hasattr(visual.trunk, "feature_info"):
        return TimmPyramidTower(visual, embedding_dim)
    return None


class ResNetTower(Tower):
    """CLIP's ResNets. The grid is the output of layer 4, before the attention pool.

    A remainder smaller than a cell is seen by the convolutions, which drop it on their way; but
    31 pixels would become a cell, as the first convolution rounds up, and so lose the last one.
    """

    layers = ("final",)
    has_class_token = False

    def __init__(self, visual: Any):
        fold_batch_norms(visual.eval())
        self.visual = visual
        self.cell = (32, 32)  # five strides of two (CLIP, section 2.4: a ResNet-50 variant)
        self.dim = visual.attnpool.k_proj.in_features
        self.embedding_dim = visual.attnpool.c_proj.out_features
        side = visual.image_size // 32
        self.positions = TablePositions(visual.attnpool, (side, side))

    def __call__(self, images: Images, layer: Layer, vector: Vector | None) -> Output:
        height, width = (side - (side % 32 == 31) for side in images.shape[2:])
        output = self.visual.forward_intermediates(
            images[:, :, :height, :width], indices=[4], intermediates_only=vector is None
        )
        return output["image_intermediates"][0].permute(0, 2, 3, 1), output.get("image_features")


class ViTTower(Tower):
    """open_clip's own ViTs."""

    layers = LAYERS
    has_class_token = True

    def __init__(self, visual: Any):
        self.visual = visual.eval()
        self.cell = visual.patch_size
        self.dim = visual.conv1.out_channels
        self.embedding_dim = visual.output_dim
        # CLIPA and CoCa norm the vector that their pooling makes, and no token ever.
        self._norms_tokens = visual.attn_pool is None and not visual.final_ln_after_pool
        self.positions = TablePositions(visual, visual.grid_size)

    def __call__(self, images: Images, layer: Layer, vector: Vector | None) -> Output:
        blocks = len(self.visual.transformer.resblocks)
        norm = layer == "final" and self._norms_tokens
        return _forward_vit(self.visual, images, blocks, layer, vector, norm=norm)


class TimmViTTower(Tower):
    """timm's ViTs: SigLIP, EVA, PE, and hybrids that put convolutions before the blocks."""

    layers = LAYERS

    def __init__(self, visual: Any, embedding_dim: int):
        self.visual = visual.eval()
        self.cell = visual.trunk.patch_embed.feat_ratio(as_scalar=False)
        self.dim = visual.trunk.num_features
        self.embedding_dim = embedding_dim
        self.has_class_token = visual.trunk.cls_token is not None
        self.positions = TimmPositions(visual, self.cell)

    def __call__(self, images: Images, layer: Layer, vector: Vector | None) -> Output:
        blocks, norm = len(self.visual.trunk.blocks), layer == "final"
        images = whole_cells(images, self.cell)
        return _forward_vit(self.visual, images, blocks, layer, vector, norm=norm)


class TimmPyramidTower(Tower):
    """timm's towers of stages: ConvNeXt, FastViT, Swin. The grid is what their pooling reads."""

    layers = ("final",)
    has_class_token = False

    def __init__(self, visual: Any, embedding_dim: int):
        self.visual = visual.eval()
        stride = visual.trunk.feature_info[-1]["reduction"]
        self.cell = (stride, stride)
        self.dim = visual.trunk.num_features
        self.embedding_dim = embedding_dim
        self.positions = TimmPositions(visual, self.cell)

    def __call__(self, images: Images, layer: Layer, vector: Vector | None) -> Output:
        trunk = self.visual.trunk
        features = trunk.forward_features(whole_cells(images, self.cell))
        channels_last = getattr(trunk, "output_fmt", "NCHW") == "NHWC"
        grid = features if channels_last else features.permute(0, 2, 3, 1)
        return grid, None if vector is None else self.visual.head(trunk.forward_head(features))


def _forward_vit(
    visual: Any, images: Images, blocks: int, layer: Layer, vector: Vector | None, *, norm: bool
) -> Output:
    """Return a layer's patch tokens as a grid, and the vector; open_clip's two classes agree."""
    output = visual.forward_intermediates(
        images,
        indices=[blocks - 2 if layer == "penultimate" else blocks - 1],
        stop_early=vector != "embedding",
        normalize_intermediates=norm,
        intermediates_only=vector != "embedding",
        output_extra_tokens=vector == "class_token",
    )
    grid = output["image_intermediates"][0].permute(0, 2, 3, 1)
    if vector == "class_token":
        return grid, output["image_intermediates_prefix"][0][:, 0]
    return grid, output.get("image_features")


def whole_cells(
    images: Images, cell: tuple[int, int]
) -> Float[Tensor, "image 3 whole_height whole_width"]:
    """Return images less the remainder that is smaller than a cell, at the right and the bottom.

    timm's towers would pad it, refuse it or drop it, each in its own way.
    """
    height, width = images.shape[2] // cell[0] * cell[0], images.shape[3] // cell[1] * cell[1]
    return images[:, :, :height, :width]


def fold_batch_norms(tower: nn.Module) -> None:
    """Fold each batch norm of a CLIP ResNet into the convolution before it, in place.

    Only there: its modules are named in the order in which they run, and its norms do nothing
    else; some of timm's act as well. The numbers are the same up to rounding (1.5e-6 of the
    largest in float32; in bfloat16 the deviation shrinks, as one rounding goes), and the tower
    runs 1.15 to 1.2 times as fast.
    """
    for module in list(tower.modules()):
        for (name, conv), (norm_name, norm) in itertools.pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Compute in this block without shortcuts: float32 not as TF32, sums of 16-bit products in 32.

    cudnn takes TF32 for convolutions by default, which keeps 10 of the 23 bits. The switches are
    the whole process's, and are put back at the end.
    """
    old = [(owner, name, _value(owner, name)) for owner, name in _switches()]
    matrices = _value(torch, "get_float32_matmul_precision")
    try:
        torch.set_float32_matmul_precision("highest")
        for owner, name in _switches():
            setattr(owner, name, "ieee" if name == "fp32_precision" else False)
        yield
    finally:
        if matrices is not None:
            torch.set_float32_matmul_precision(matrices)
        for owner, name, value in old:
            if value is not None:
                setattr(owner, name, value)


def _switches() -> list[tuple[Any, str]]:
    """Return the switches by owner and name, those first that set others as well.

    torch 2.9 has brought new ones for the same things. Kernels ask for either, and torch raises
    where the two contradict each other, so both are set.
    """
    backends: Any = torch.backends
    matmul, cudnn = backends.cuda.matmul, backends.cudnn
    kinds: tuple[Any, ...] = ()
    if hasattr(cudnn, "conv"):
        kinds = (matmul, cudnn.conv, cudnn.rnn, backends.mkldnn.matmul, backends.mkldnn.conv)
    return [
        (cudnn, "allow_tf32"),
        *((kind, "fp32_precision") for kind in kinds),
        (matmul, "allow_fp16_reduced_precision_reduction"),
        (matmul, "allow_bf16_reduced_precision_reduction"),
    ]


def _value(owner: Any, name: str) -> Any:
    """Return a switch's value, None where torch does not tell: old and new ones contradict."""
    try:
        value = getattr(owner, name)
        return value() if callable(value) else value
    except RuntimeError:
        return None


def slow_precision(precision: str, device: str) -> str | None:
    """Return a warning if a processor only emulates a 16-bit precision: float32 is faster there."""
    if device != "cpu" or precision == "float32":
        return None
    times = slower_than_float32(precision)
    if times <= CLEARLY:
        return None
    return (
        f"--precision {precision}: this processor has no fast instructions for it, and is "
        f"{times:.1f} times as fast in float32; use --precision float32 here, unless the store "
        f"must be of this precision"
    )


def cpu_threads() -> int:
    """Return how many threads compute on a CPU: as many as torch has, on the cores there are."""
    return min(torch.get_num_threads(), usable_cores())


class Backbone:
    """A tower, frozen, in eval mode, channels last, on a device and in a precision.

    `cell` is the (height, width) in pixels that one grid cell stands for, `dim` its channels,
    `pooled_dim` the width of CLIP's own image embedding.
    """

    def __init__(self, tower: Tower, native: Preprocess, precision: str, device: str):
        self.tower = tower
        self.native = native
        self.dtype = DTYPES[precision]
        self.device = torch.device(device)
        self.cell, self.dim, self.pooled_dim = tower.cell, tower.dim, tower.embedding_dim
        tower.visual.eval().requires_grad_(requires_grad=False)
        # Channels last is what the convolution kernels want: 1.2x on CPU.
        tower.visual.to(self.device, self.dtype, memory_format=torch.channels_last)
        self._threads = None
        if self.device.type == "cpu":
            self._threads = ThreadPoolExecutor(
                cpu_threads(), initializer=torch.set_num_threads, initargs=(1,)
            )

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise ExtractUsageError unless the tower has the recipe's layer and vector."""
        visual, layers = self.tower.visual, self.tower.layers
        kind = type(getattr(visual, "trunk", visual)).__name__
        if recipe.layer not in layers:
            raise ExtractUsageError(
                f"--layer {recipe.layer}: this image tower ({kind}) has no such layer; "
                f"it has {', '.join(layers)}"
            )
        if recipe.vector == "class_token" and not self.tower.has_class_token:
            raise ExtractUsageError(
                f"--class-token: this image tower ({kind}) has no class token; "
                f"--pooled keeps CLIP's embedding instead"
            )

    def vector_dim(self, recipe: Recipe) -> int | None:
        """Return the width of what the recipe keeps beside the grid."""
        return {None: None, "embedding": self.pooled_dim, "class_token": self.dim}[recipe.vector]

    def grids(self, pixels: UInt8[Tensor, "image height width 3"], recipe: Recipe) -> Output:
        """Return the grids of the recipe's layer, and its vectors (not normalised) if it has any.

        ResNet: the output of layer 4, before the attention pool. ViT: the patch tokens of the
        layer, class token dropped. Other towers: what their pooling reads.

        On a CPU the images go through in chunks of CHUNK; where their number is a multiple of
        it, an image's numbers do not depend on the others, nor on the number of threads.
        """
        self.check_recipe(recipe)
        grid = (pixels.shape[1] // self.cell[0], pixels.shape[2] // self.cell[1])
        if 0 in grid:
            raise ExtractUsageError(
                f"images of {pixels.shape[1]}x{pixels.shape[2]} pixels (height, width) hold no "
                f"cell of {self.cell[0]}x{self.cell[1]}; choose a recipe with larger sides"
            )
        self.tower.positions.fit(grid)  # before the threads, which share the tables
        with full_precision():
            if self._threads is None:
                return self._forward(pixels, recipe, grid)
            forward = partial(self._forward, recipe=recipe, grid=grid)
            grids, vectors = zip(*self._threads.map(forward, pixels.split(CHUNK)), strict=True)
        return torch.cat(grids), torch.cat(vectors) if recipe.vector else None

    @torch.inference_mode()
    def _forward(
        self, pixels: UInt8[Tensor, "image height width 3"], recipe: Recipe, grid: tuple[int, int]
    ) -> Output:
        assert not self.tower.visual.training, "a tower in train mode mixes the images of a batch"
        images = normalised(pixels.to(self.device, non_blocking=True), recipe)
        images = images.to(self.dtype, memory_format=torch.channels_last)
        features, vector = self.tower(images, recipe.layer, recipe.vector)
        expected = (len(pixels), *grid, self.dim)
        assert features.shape == expected, f"the tower gave {tuple(features.shape)}, not {expected}"
        return features, vector


def normalised(
    pixels: UInt8[Tensor, "image height width 3"], recipe: Recipe
) -> Float[Tensor, "image 3 height width"]:
    """Return pixels scaled to 0...1, less the mean, over the standard deviation, in float32."""
    images = pixels.permute(0, 3, 1, 2).float().div(255)
    mean = torch.tensor(recipe.mean, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(recipe.std, device=pixels.device).view(3, 1, 1)
    return images.sub_(mean).div_(std)
