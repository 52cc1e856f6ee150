"""Bring the features of any backbone to one scale before a model reads them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn

from ...base.errors import ClipfeatError
from ...featstore import FeatureStore
from ..runs.jsonfile import field

SAMPLE = 256  # records; at 36 cells each, a channel's mean is known to about 1% of its std
FLOOR = 0.01  # of the typical std: below it a channel is noise and is not blown up


class ChannelStatistics(NamedTuple):
    """Mean and standard deviation of each channel over cells."""

    mean: Float32[Tensor, " dim"]
    std: Float32[Tensor, " dim"]


def channel_statistics(store: FeatureStore, ids: Sequence[str], *, seed: int) -> ChannelStatistics:
    """Return each channel's mean and std over the real cells of a seeded sample of `ids`.

    The std has a floor, `FLOOR` of the root mean square over channels, so that a dead channel
    stays near zero. Raises ClipfeatError where the sample is not finite, or constant.
    """
    chosen = np.random.default_rng(seed).permutation(len(ids))[:SAMPLE]
    cells, total, squares = 0, np.zeros(store.dim), np.zeros(store.dim)
    for image_id in (ids[int(number)] for number in np.sort(chosen)):
        grid = store[image_id][store.mask(image_id)].astype(np.float64)  # cell dim
        if not np.isfinite(grid).all():
            raise ClipfeatError(
                f"the features of image {image_id} hold NaN or infinity; extract it again"
            )
        cells += len(grid)
        total += grid.sum(axis=0)
        squares += np.square(grid).sum(axis=0)
    mean = total / cells
    variance = np.maximum(squares / cells - np.square(mean), 0)
    if not variance.any():
        raise ClipfeatError(
            f"all {len(chosen)} sampled records hold one constant feature vector: nothing can "
            "be learned from this store; extract it again"
        )
    std = np.sqrt(variance + FLOOR**2 * variance.mean())
    return ChannelStatistics(*(torch.from_numpy(a.astype(np.float32)) for a in (mean, std)))


def statistics_of(tensors: Mapping[str, Tensor], norm: str, path: Path) -> ChannelStatistics:
    """Return the scale that checkpoint `path` of a model carries; ClipfeatError where it has none.

    `norm` is the name of the model's FeatureNorm in it.
    """
    mean, std = (field(tensors, f"{norm}.{name}", Tensor, path) for name in ("mean", "std"))
    if mean.dim() != 1 or mean.shape != std.shape or {mean.dtype, std.dtype} != {torch.float32}:
        raise ClipfeatError(
            f"{path}: {norm}.mean and std must be a float32 for each channel; got "
            f"{tuple(mean.shape)} of {mean.dtype} and {tuple(std.shape)} of {std.dtype}"
        )
    return ChannelStatistics(mean, std)


class FeatureNorm(nn.Module):
    """Standardise each channel, in float32; padding cells become zero.

    `blind` makes every feature zero: the same model then answers from the question alone.
    The statistics are buffers, so that a checkpoint carries them.
    """

    mean: Float32[Tensor, " dim"]
    std: Float32[Tensor, " dim"]

    def __init__(self, statistics: ChannelStatistics, *, blind: bool) -> None:
        super().__init__()
        self.blind = blind
        self.register_buffer("mean", statistics.mean)
        self.register_buffer("std", statistics.std)

    def forward(
        self, features: Float[Tensor, "image cell dim"], mask: Bool[Tensor, "image cell"]
    ) -> Float32[Tensor, "image cell dim"]:
        """Return the features standardised, with zeros where `mask` is false; zeros if blind."""
        if self.blind:
            return torch.zeros_like(features, dtype=torch.float32)
        return self.standardised(features, mask)

    def standardised(
        self, features: Float[Tensor, "image cell dim"], mask: Bool[Tensor, "image cell"]
    ) -> Float32[Tensor, "image cell dim"]:
        """Return what the model sees, or would see if it were not blind."""
        normal = (features.float() - self.mean) / self.std
        return torch.where(mask[:, :, None], normal, 0.0)
