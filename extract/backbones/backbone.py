"""A CLIP image tower that gives grids at any resolution: pixels in, (row, col, dim) out."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ...base.machine import usable_cores
from ..errors import ExtractUsageError
from ..planning.passes import CHUNK
from ..recipes.recipe import Preprocess, Recipe
from .precision import DTYPES, full_precision
from .towers import Output, Tower


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
