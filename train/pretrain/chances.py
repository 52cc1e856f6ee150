"""Random numbers of an example: they depend on nothing but (seed, epoch, example)."""

from enum import IntEnum

import numpy as np
from jaxtyping import Float64, Int


class Purpose(IntEnum):
    """What random numbers are for; those of one purpose say nothing of another's."""

    TEXT = 0
    GRID = 1


def chances(
    seed: int, epoch: int, purpose: Purpose, numbers: Int[np.ndarray, " example"], width: int
) -> Float64[np.ndarray, "example width"]:
    """Return `width` uniform numbers, 0 to 1, for each example (or image) that is numbered.

    Whatever batch, part of a batch or process an example is in, it has the same ones: a resumed
    run sees what it would have seen, and so does one in more parts or processes.
    """
    rows = [
        np.random.default_rng((seed, epoch, purpose, n)).random(width) for n in numbers.tolist()
    ]
    return np.stack(rows)
