"""From pixels to grids: open_clip's image towers, frozen, at any image size.

First the position tables that are fitted to a grid, then the kinds of towers.
"""

import itertools
import warnings
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from open_clip.model import ModifiedResNet, VisionTransformer
from open_clip.timm_model import TimmModel
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..planning.recipe import Layer, Vector

# What timm calls the parameters that depend on positions, in any of its towers.
TIMM_TABLES = ("pos_embed", "relative_position_bias_table")


class Positions(ABC):
    """The positions of a tower's cells. `fit` must not run during a forward pass."""

    @abstractmethod
    def fit(self, grid: tuple[int, int]) -> None:
        """Make the tower ready for images of (rows, cols) cells.

        The original table is fitted each time, in float32: fitting one that was fitted before would
        blur it more.
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
        old = self._owner.positional_embedding
        table = interpolate_positions(self._table, self._native, grid).to(old.device, old.dtype)
        self._owner.positional_embedding = nn.Parameter(table, requires_grad=False)
        self._grid = grid


class TimmPositions(Positions):
    """Tables, rotary angles and windows of a timm tower, which `set_input_size` fits."""

    def __init__(self, visual: Any, cell: tuple[int, int]):
        self._visual, self._cell = visual, cell
        self._depends_on_size = hasattr(visual.trunk, "set_input_size")  # not so convolutions
        if self._depends_on_size:
            patches = getattr(visual.trunk, "patch_embed", None)  # MaxViT has none
            self._native: tuple[int, int] = getattr(patches, "img_size", visual.image_size)
            self._size: tuple[int, int] | None = self._native
            self._tables = {
                name: parameter.detach().float().clone()
                for name, parameter in visual.trunk.named_parameters()
                if name.rpartition(".")[2] in TIMM_TABLES
            }

    def fit(self, grid: tuple[int, int]) -> None:
        size = (grid[0] * self._cell[0], grid[1] * self._cell[1])
        if not self._depends_on_size or size == self._size:
            return
        self._size = None  # until it is fitted: timm may refuse the size half-way
        trunk = self._visual.trunk
        dtypes = {name: trunk.get_parameter(name).dtype for name in self._tables}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from torch, about how timm fits the tables of Swin
            self._visual.set_input_size(self._native)
            for name, table in self._tables.items():
                parameter = trunk.get_parameter(name)
                parameter.data = table.to(parameter.device)
            self._visual.set_input_size(size)
        for name, dtype in dtypes.items():
            parameter = trunk.get_parameter(name)
            parameter.data = parameter.data.to(dtype)
        self._size = size


def interpolate_positions(
    table: Float[Tensor, "positions dim"], native: tuple[int, int], target: tuple[int, int]
) -> Float[Tensor, "new_positions dim"]:
    """Return a position table made for a grid of `native` (rows, cols), fitted to `target`.

    The first row belongs to the class token and is kept. Bicubic with antialiasing, as open_clip
    resizes its tables, but to explicit rows and columns: the published ViT grids are wrong because
    their code took the grid for a square (CLIP-ViL issue 13).
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

    `cell` is the (height, width) in pixels of one grid cell, `dim` its channels and `embedding_dim`
    those of CLIP's own image embedding, or 0. `layers` are those that it can return.

    A call takes images of as many cells as `positions` was last fitted to. The class token is
    that of the layer, the embedding is the output of `encode_image`; of a model of timm, it is the
    input of the classifier.
    """

    visual: Any  # open_clip's module
    positions: Positions
    cell: tuple[int, int]
    dim: int
    embedding_dim: int
    layers: tuple[Layer, ...]
    has_class_token: bool

    is_rectified: bool = False  # the grid is the output of a ReLU

    @abstractmethod
    def __call__(self, images: Images, layer: Layer, vector: Vector | None) -> Output: ...


def make_tower(visual: Any, embedding_dim: int) -> Tower | None:
    """Return the tower around open_clip's `visual`, or None for a kind that is not known here."""
    if isinstance(visual, ModifiedResNet):
        return ResNetTower(visual)
    if isinstance(visual, VisionTransformer):
        return ViTTower(visual)
    if isinstance(visual, TimmModel) and _is_vit(visual.trunk):
        return TimmViTTower(visual, embedding_dim)
    if isinstance(visual, TimmModel) and hasattr(visual.trunk, "feature_info"):
        return TimmPyramidTower(visual, embedding_dim)
    return None


def _is_vit(trunk: Any) -> bool:
    """Return whether a timm model keeps its cells as tokens from the first block to the last."""
    return all(hasattr(trunk, name) for name in ("num_prefix_tokens", "patch_embed", "blocks"))


class ResNetTower(Tower):
    """CLIP's ResNets. The grid is the output of layer 4, before the attention pool.

    The convolutions see a remainder smaller than a cell and drop it on the way. A remainder of 31
    pixels would become a cell, as the first convolution rounds up, so its last pixel is cut off.
    """

    layers = ("final",)
    has_class_token = False
    is_rectified = True

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
        # CLIPA and CoCa norm the vector that their pooling makes, and never the tokens.
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
    """timm's towers of stages: ConvNeXt, FastViT, Swin. The grid is the input of their pooling."""

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
    """Return a layer's patch tokens as a grid, and the vector.

    `forward_intermediates` has the same arguments in open_clip's own ViT and in its timm wrapper.
    """
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
    """Return images without the remainder that is smaller than a cell, at the right and the bottom.

    timm's towers would pad it, refuse it or drop it, each in its own way.
    """
    height, width = images.shape[2] // cell[0] * cell[0], images.shape[3] // cell[1] * cell[1]
    return images[:, :, :height, :width]


def fold_batch_norms(tower: nn.Module) -> None:
    """Fold each batch norm of a CLIP ResNet into the convolution before it, in place.

    For CLIP's ResNets only: their modules are named in the order in which they run, and their
    norms have no activation, as some of timm's have. The numbers are the same up to rounding
    (1.5e-6 of the largest in float32; in bfloat16 the deviation shrinks, as there is one rounding
    less), and the tower runs 1.15 to 1.2 times as fast.
    """
    for module in list(tower.modules()):
        for (name, conv), (norm_name, norm) in itertools.pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
