"""A CLIP image tower that gives grids at any resolution: pixels in, (row, col, dim) out."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .recipe import Preprocess, Recipe

# Images that a CPU thread computes at a time. The number is fixed, and each thread's kernels run
# on it alone: how they sum then depends neither on the number of threads nor on the batch.
CHUNK = 4
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Backbone:
    """An open_clip ResNet or ViT tower, frozen, in eval mode, channels last.

    `cell` is the (height, width) in pixels that one grid cell stands for, `dim` its channels,
    `pooled_dim` the width of CLIP's own image embedding.
    """

    def __init__(self, visual: Any, native: Preprocess, precision: str, device: str):
        self.native = native
        self.dtype = DTYPES[precision]
        self.device = torch.device(device)
        self._is_vit = hasattr(visual, "class_embedding")
        if self._is_vit:
            self.cell: tuple[int, int] = tuple(visual.patch_size)
            self.dim: int = visual.conv1.out_channels
            self.pooled_dim: int = visual.output_dim
            self._positions_owner, self._native_grid = visual, visual.grid_size
        else:
            self.cell = (32, 32)  # five strides of two (CLIP, section 2.4: a ResNet-50 variant)
            self.dim = visual.attnpool.k_proj.in_features
            self.pooled_dim = visual.attnpool.c_proj.out_features
            side = visual.image_size // 32
            self._positions_owner, self._native_grid = visual.attnpool, (side, side)
        self._positions = self._positions_owner.positional_embedding.detach().float()
        self._grid = self._native_grid
        visual = visual.eval().requires_grad_(requires_grad=False)
        fold_batch_norms(visual)
        # Channels last is what the convolution kernels want: 1.2x on CPU.
        self._visual: Any = visual.to(self.device, self.dtype, memory_format=torch.channels_last)
        self._threads = None
        if self.device.type == "cpu":
            self._threads = ThreadPoolExecutor(
                torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)
            )

    def grids(
        self, pixels: UInt8[Tensor, "image height width 3"], recipe: Recipe
    ) -> tuple[Float[Tensor, "image row col dim"], Float[Tensor, "image pooled"] | None]:
        """Return the grids, and CLIP's pooled embeddings (not normalised) where asked for.

        ResNet: the output of layer 4, before the attention pool. ViT: the patch tokens after
        the last block and the final norm, class token dropped.

        On a CPU the images go through in chunks of CHUNK; where their number is a multiple of
        it, an image's numbers do not depend on the others, nor on the number of threads.
        """
        self._set_positions((pixels.shape[1] // self.cell[0], pixels.shape[2] // self.cell[1]))
        pooled = recipe.vector is not None
        if self._threads is None:
            return self._forward(pixels, recipe)
        forward = partial(self._forward, recipe=recipe)
        grids, vectors = zip(*self._threads.map(forward, pixels.split(CHUNK)), strict=True)
        return torch.cat(grids), torch.cat(vectors) if pooled else None

    @torch.inference_mode()
    def _forward(
        self, pixels: UInt8[Tensor, "image height width 3"], recipe: Recipe
    ) -> tuple[Float[Tensor, "image row col dim"], Float[Tensor, "image pooled"] | None]:
        pooled = recipe.vector is not None
        assert not self._visual.training, "a tower in train mode mixes the images of a batch"
        images = normalised(pixels.to(self.device, non_blocking=True), recipe)
        images = images.to(self.dtype, memory_format=torch.channels_last)
        if self._is_vit:
            norm = not self._visual.final_ln_after_pool
            last: dict[str, Any] = {"indices": 1, "normalize_intermediates": norm}
        else:
            last = {"indices": [4]}
        output = self._visual.forward_intermediates(images, intermediates_only=not pooled, **last)
        grid = output["image_intermediates"][-1].permute(0, 2, 3, 1)
        return grid, output.get("image_features")

    def full_batch(self, images):
        return images if self._threads is None else -(-images // CHUNK) * CHUNK

    def check_recipe(self, recipe):
        pass

    def vector_dim(self, recipe):
        return self.pooled_dim if recipe.vector else None

    def _set_positions(self, grid: tuple[int, int]) -> None:
        """Fit the position table to a grid of (rows, cols)."""
        if grid == self._grid:
            return
        table = interpolate_positions(self._positions, self._native_grid, grid)
        table = table.to(self.device, self.dtype)
        self._positions_owner.positional_embedding = nn.Parameter(table, requires_grad=False)
        self._grid = grid


def fold_batch_norms(tower: nn.Module) -> None:
    """Fold each batch norm of an eval-mode tower into the convolution before it, in place.

    The numbers are the same up to rounding (1.5e-6 of the largest in float32; in bfloat16 the
    deviation shrinks, as one rounding goes), and the tower runs 1.15 to 1.2 times as fast.
    """
    for module in list(tower.modules()):
        for (name, conv), (norm_name, norm) in itertools.pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())


def normalised(
    pixels: UInt8[Tensor, "image height width 3"], recipe: Recipe
) -> Float[Tensor, "image 3 height width"]:
    """Return pixels scaled to 0...1, less the mean, over the standard deviation, in float32."""
    images = pixels.permute(0, 3, 1, 2).float().div(255)
    mean = torch.tensor(recipe.mean, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(recipe.std, device=pixels.device).view(3, 1, 1)
    return images.sub_(mean).div_(std)


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
