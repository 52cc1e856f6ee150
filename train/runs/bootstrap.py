"""How sure a mean over questions is, by drawing the images anew."""

import numpy as np
from jaxtyping import Float64, Int

RESAMPLES, SEED = 2000, 0
PERCENTILES = (2.5, 97.5)  # between them lie 95% of the resamples


def interval_of_mean(
    values: Float64[np.ndarray, "example column"], image_of: Int[np.ndarray, " example"]
) -> tuple[Float64[np.ndarray, " column"], Float64[np.ndarray, " column"]]:
    """Return the ends of the 95% bootstrap interval of each column's mean.

    `image_of` numbers the images from 0. They are drawn with replacement, each with all of its
    examples: questions about one image share its features, so that they err together. All
    columns share the draws.
    """
    images = int(image_of.max()) + 1
    columns = [*values.T, np.ones(len(values))]
    sums = np.stack([np.bincount(image_of, column, images) for column in columns], axis=1)
    rng = np.random.default_rng(SEED)
    totals = np.empty((RESAMPLES, len(columns)))
    for total in totals:
        # One at a time: the counts stay in the cache, 0.9 s for VQA v2's 40,504 images; all
        # in chunks take 2.3 s.
        times_drawn = np.bincount(rng.integers(images, size=images), minlength=images)
        total[:] = times_drawn.astype(np.float64) @ sums
    means = totals[:, :-1] / totals[:, -1:]
    low, high = np.percentile(means, PERCENTILES, axis=0)
    return low, high
