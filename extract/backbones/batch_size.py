"""How many images go through the backbone at once: as many as fit, found without crashing."""

import numpy as np
import torch

from ..planning.plan import CHUNK
from ..planning.recipe import Recipe
from .tower import Backbone, cpu_threads

CPU_CHUNKS = 2  # for each thread, so that none waits long for the others; more is no faster
GPU_IMAGES = 256  # more gains nothing on an 80 GB GPU and needs pinned memory on the host
SHARE = 0.8  # of the free memory; allocators waste some, and kernels want workspaces
PROBES = (4, 8)  # images, whose peaks of memory tell what one costs


def choose_batch_size(backbone: Backbone, recipe: Recipe, size: tuple[int, int]) -> int:
    """Return how many images of (height, width) pixels to compute at once.

    A power of two on a GPU, so that small changes of free memory do not change it: kernels sum
    in another order for another batch.
    """
    if backbone.device.type != "cuda":
        return cpu_images(cpu_threads())
    shapes = [(images, *size, 3) for images in PROBES]
    try:
        # The first pass makes the workspaces that all share and keep: they are no image's cost.
        _peak_bytes(backbone, recipe, shapes[0])
        peaks = [_peak_bytes(backbone, recipe, shape) for shape in shapes]
    except torch.OutOfMemoryError:
        return 1  # if that does not fit either, the run says so
    free, _ = torch.cuda.mem_get_info(backbone.device)
    return fitting(free, dict(zip(PROBES, peaks, strict=True)))


def cpu_images(threads: int) -> int:
    """Return how many images to compute at once on a CPU."""
    return CPU_CHUNKS * CHUNK * threads


def fitting(free: int, peaks: dict[int, int]) -> int:
    """Return the largest power of two of images, GPU_IMAGES at most, that fits `free` bytes.

    `peaks` are the bytes that two other numbers of images took; memory grows linearly with them.

    >>> fitting(10_000_000_000, {4: 500_000_000, 8: 900_000_000})  # 100 MB each, 100 MB beside
    64
    """
    (few, low), (many, high) = sorted(peaks.items())
    each = max(1.0, (high - low) / (many - few))
    beside = max(0.0, low - few * each)
    most = int((SHARE * free - beside) / each)
    return min(GPU_IMAGES, 1 << max(0, most.bit_length() - 1)) if most > 0 else 1


def _peak_bytes(backbone: Backbone, recipe: Recipe, shape: tuple[int, ...]) -> int:
    """Return how much memory of the GPU the features of black images take at their peak."""
    torch.cuda.reset_peak_memory_stats(backbone.device)
    before = torch.cuda.memory_allocated(backbone.device)
    backbone.grids(torch.from_numpy(np.zeros(shape, np.uint8)), recipe)
    torch.cuda.synchronize(backbone.device)
    peak = torch.cuda.max_memory_allocated(backbone.device) - before
    torch.cuda.empty_cache()
    return peak
