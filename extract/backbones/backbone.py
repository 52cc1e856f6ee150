"""A frozen image tower on a device: pixels in, grids out, bit for bit the same in any batch.

Beside it: exact arithmetic, the threads of a CPU, and how many images fit the device at once.
"""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ...base.errors import ExtractUsageError
from ...base.machine import CLEARLY, slower_than_float32, usable_cores
from ..planning.plan import CHUNK
from ..planning.recipe import Preprocess, Recipe
from .tower import Output, Tower

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CPU_CHUNKS = 2  # for each thread, so that none waits long for the others; more is no faster
GPU_IMAGES = 256  # more gains nothing on an 80 GB GPU and needs pinned memory on the host
MEMORY_SHARE = 0.8  # of the free memory; allocators waste some, and kernels need workspaces
PROBES = (4, 8)  # images in two batches, whose peaks of memory tell what one image costs


class Backbone:
    """A tower, frozen, in eval mode, channels last, on a device and in a precision.

    `cell` is the (height, width) in pixels of one grid cell, `dim` its channels, `pooled_dim` those
    of CLIP's own image embedding.
    """

    def __init__(self, tower: Tower, native: Preprocess, precision: str, device: str):
        self.tower = tower
        self.native = native
        self.dtype = DTYPES[precision]
        self.device = torch.device(device)
        self.cell, self.dim, self.pooled_dim = tower.cell, tower.dim, tower.embedding_dim
        tower.visual.eval().requires_grad_(requires_grad=False)
        # Convolutions are faster with channels last: 1.2x on a CPU.
        tower.visual.to(self.device, self.dtype, memory_format=torch.channels_last)
        self._threads = None
        if self.device.type == "cpu":
            self._threads = _single_thread_pool(cpu_threads())

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise ExtractUsageError unless the tower has the recipe's layer and vector."""
        visual, layers = self.tower.visual, self.tower.layers
        kind = type(getattr(visual, "trunk", visual)).__name__
        if recipe.layer not in layers:
            raise ExtractUsageError(
                f"--layer {recipe.layer}: this image tower ({kind}) has no such layer; "
                f"it has {', '.join(layers)}",
                code="E-RECIPE-LAYER",
            )
        if recipe.vector == "embedding" and not self.tower.embedding_dim:
            raise ExtractUsageError(
                f"--pooled: this image tower ({kind}) has no pooled vector; drop it",
                code="E-RECIPE-VECTOR",
            )
        if recipe.vector == "class_token" and not self.tower.has_class_token:
            raise ExtractUsageError(
                f"--class-token: this image tower ({kind}) has no class token; "
                f"--pooled keeps the pooled embedding instead",
                code="E-RECIPE-VECTOR",
            )

    def vector_dim(self, recipe: Recipe) -> int | None:
        """Return the channels of the vector that the recipe keeps beside the grid, or None."""
        return {None: None, "embedding": self.pooled_dim, "class_token": self.dim}[recipe.vector]

    def grids(self, pixels: UInt8[Tensor, "image height width 3"], recipe: Recipe) -> Output:
        """Return the grids of the recipe's layer, and its vectors (not normalised) if it has any.

        ResNet: the output of layer 4, before the attention pool. ViT: the patch tokens of the
        layer, without the class token. Other towers: the input of their pooling. Raises
        ExtractUsageError for images smaller than one cell, and as `check_recipe`.

        On a CPU the images go through in chunks of CHUNK; where their number is a multiple of
        it, an image's numbers do not depend on the others, nor on the number of threads.
        """
        self.check_recipe(recipe)
        grid = (pixels.shape[1] // self.cell[0], pixels.shape[2] // self.cell[1])
        if 0 in grid:
            raise ExtractUsageError(
                f"images of {pixels.shape[1]}x{pixels.shape[2]} pixels (height, width) hold no "
                f"cell of {self.cell[0]}x{self.cell[1]}; choose a recipe with larger sides",
                code="E-RECIPE-SIZE",
            )
        self.tower.positions.fit(grid)  # before the threads start, which share the tables
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
        images = normalised(pixels.to(self.device, non_blocking=True), recipe, self.dtype)
        features, vector = self.tower(images, recipe.layer, recipe.vector)
        expected = (len(pixels), *grid, self.dim)
        assert features.shape == expected, f"the tower gave {tuple(features.shape)}, not {expected}"
        return features, vector


def normalised(
    pixels: UInt8[Tensor, "image height width 3"],
    recipe: Recipe,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "image 3 height width"]:
    """Return pixels scaled to 0...1, less the mean, over the standard deviation, channels last.

    The arithmetic is in float32; the last step rounds its result to `dtype`.
    """
    images = pixels.div(255).sub_(_constant(recipe.mean, pixels.device))
    out = torch.empty_like(images, dtype=dtype)
    return torch.div(images, _constant(recipe.std, pixels.device), out=out).permute(0, 3, 1, 2)


@lru_cache(maxsize=32)
def _constant(values: tuple[float, float, float], device: torch.device) -> Float[Tensor, "3"]:
    """Return numbers on a device. They are kept, since copying them waits for a GPU's last pass."""
    return torch.tensor(values, device=device)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Compute in this block without shortcuts: float32 not as TF32, sums of 16-bit products in 32.

    cudnn takes TF32 for convolutions by default, which keeps 10 of the 23 bits. The switches are
    those of the whole process, and are put back at the end.
    """
    switches = _precision_switches()
    before = [_value(owner, name) for owner, name in switches]
    matmul_precision = _value(torch, "get_float32_matmul_precision")
    try:
        torch.set_float32_matmul_precision("highest")
        for owner, name in switches:
            setattr(owner, name, "ieee" if name == "fp32_precision" else False)
        yield
    finally:
        if matmul_precision is not None:
            torch.set_float32_matmul_precision(matmul_precision)
        for (owner, name), value in zip(switches, before, strict=True):
            if value is not None:
                setattr(owner, name, value)


def _precision_switches() -> list[tuple[Any, str]]:
    """Return the switches by owner and name; one that sets others comes before them.

    torch 2.9 has new ones for the same things. Kernels read either, and torch raises where the two
    contradict each other, so both are set.
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
    """Return a switch's value, None where torch refuses: old and new switches contradict."""
    try:
        value = getattr(owner, name)
        return value() if callable(value) else value
    except RuntimeError:
        return None


def slow_precision(precision: str, device: str) -> str | None:
    """Return a warning where a CPU only emulates a 16-bit precision, so that float32 is faster."""
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
    """Return how many threads compute on a CPU: torch's number, but at most one a core."""
    return min(torch.get_num_threads(), usable_cores())


def _single_thread_pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool of threads in each of which torch computes on that thread alone.

    `set_num_threads` is for the calling thread, and for threads that first use torch later. So all
    threads of the pool start here, and the number for later ones is put back.
    """
    pool, all_started = ThreadPoolExecutor(threads), threading.Barrier(threads)

    def start(_: int) -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # fixes the number of this thread
        all_started.wait()

    before = torch.get_num_threads()
    list(pool.map(start, range(threads)))
    torch.set_num_threads(before)
    return pool


def choose_batch_size(backbone: Backbone, recipe: Recipe, size: tuple[int, int]) -> int:
    """Return how many images of (height, width) pixels to compute at once.

    A power of two on a GPU, so that small changes of free memory do not change it: kernels sum
    in another order for another batch.
    """
    if backbone.device.type != "cuda":
        return cpu_images(cpu_threads())
    shapes = [(images, *size, 3) for images in PROBES]
    try:
        # The first pass creates the workspaces that all passes share: not a cost of an image.
        _peak_bytes(backbone, recipe, shapes[0])
        peaks = [_peak_bytes(backbone, recipe, shape) for shape in shapes]
    except torch.OutOfMemoryError:
        return 1  # if one image does not fit either, the run reports it
    free, _ = torch.cuda.mem_get_info(backbone.device)
    return largest_batch(free, dict(zip(PROBES, peaks, strict=True)))


def cpu_images(threads: int) -> int:
    """Return how many images to compute at once on a CPU."""
    return CPU_CHUNKS * CHUNK * threads


def largest_batch(free: int, peaks: dict[int, int]) -> int:
    """Return the largest power of two of images, GPU_IMAGES at most, that fits `free` bytes.

    `peaks` are the bytes that two other numbers of images took; memory grows linearly with them.

    >>> largest_batch(10**10, {4: 500_000_000, 8: 900_000_000})  # 100 MB an image, 100 MB fixed
    64
    """
    (few, low), (many, high) = sorted(peaks.items())
    per_image = max(1.0, (high - low) / (many - few))
    fixed = max(0.0, low - few * per_image)
    images = int((MEMORY_SHARE * free - fixed) / per_image)
    return min(GPU_IMAGES, 1 << max(0, images.bit_length() - 1)) if images > 0 else 1


def _peak_bytes(backbone: Backbone, recipe: Recipe, shape: tuple[int, ...]) -> int:
    """Return the GPU memory in bytes that the features of black images take at their peak."""
    torch.cuda.reset_peak_memory_stats(backbone.device)
    before = torch.cuda.memory_allocated(backbone.device)
    backbone.grids(torch.zeros(shape, dtype=torch.uint8), recipe)
    torch.cuda.synchronize(backbone.device)
    peak = torch.cuda.max_memory_allocated(backbone.device) - before
    torch.cuda.empty_cache()
    return peak
