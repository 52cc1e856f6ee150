"""Features that cannot be right: NaN, Inf, numbers beyond the dtype, one grid for every image."""

import math

import numpy as np

from ..errors import ExtractError

MIN_IMAGES = 8  # different images in a shard, below which nothing is concluded from them
# Median distance of the images' mean cells from their common mean, relative to that mean. Random
# ResNets and ViTs on photographs and on grey squares gave 0.007 to 1.1 (docs/log.md).
MIN_SPREAD = 5e-4


def number_problem(peak: float, dtype: str) -> str | None:
    """Return why features whose largest absolute value is `peak` cannot be stored, or None.

    >>> number_problem(70000.0, "float16")
    'reaches 7e+04, beyond the 65504 of float16; try --dtype float32'
    """
    if math.isnan(peak):
        return "holds NaN"
    if math.isinf(peak):
        return "holds Inf"
    largest = float(np.finfo(dtype).max)
    if peak > largest:
        return f"reaches {peak:.4g}, beyond the {largest:.5g} of {dtype}; try --dtype float32"
    return None


def spread(vectors: np.ndarray) -> float:
    """Return the median distance of (image, dim) vectors from their mean, relative to its norm."""
    mean = vectors.mean(axis=0)
    distances = np.linalg.norm(vectors - mean, axis=1)
    return float(np.median(distances) / max(float(np.linalg.norm(mean)), 1e-30))


class ShardGate:
    """Collects what the images of one shard gave and says whether it can be right.

    The published code once wrote the same vector for every image, and nobody noticed
    (CLIP-ViL, issue 18).
    """

    def __init__(self) -> None:
        self._problems: list[str] = []
        self._images = 0
        self._means: dict[str, dict[str, np.ndarray]] = {}

    def add(self, sha256: str, problem: str, means: dict[str, np.ndarray]) -> None:
        """Add a decoded image: its file's sha256, why it was refused or "", its mean vectors."""
        self._images += 1
        if problem:
            self._problems.append(problem)
            return
        for name, mean in means.items():
            self._means.setdefault(name, {})[sha256] = mean

    def check(self) -> None:
        """Raise ExtractError if most images were refused for their numbers, or all are alike."""
        if self._images >= MIN_IMAGES and len(self._problems) > self._images / 2:
            raise ExtractError(
                f"{len(self._problems)} of the {self._images} images of a shard gave no usable "
                f"features ({self._problems[0]}), so the run stops: check the weights, "
                f"--precision and --dtype"
            )
        for name, means in self._means.items():
            found = spread(np.stack(list(means.values())))
            if len(means) >= MIN_IMAGES and found < MIN_SPREAD:
                raise ExtractError(
                    f"the {name} features of {len(means)} different images are all the same "
                    f"(relative spread {found:.1g}; expected {MIN_SPREAD} or more), "
                    f"so the run stops: check the weights"
                )
