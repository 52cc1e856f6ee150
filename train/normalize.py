"""The scale that models read features in: statistics of a sample of cells, and a layer that applies them."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Num
from torch import Tensor, nn

from ..base.errors import ClipfeatError, UsageError
from ..base.jsonio import field
from ..featstore import FeatureStore
from ..featstore.report.moments import Covariance, Moments
from ..featstore.report.spectrum import (
    FLOOR,
    MAX_COVARIANCE_DIM,
    principal_directions,
    sampled_cells,
    standardised_share,
)
from .settings import AUTO, SplitSettings

S = TypeVar("S", bound=SplitSettings)

# "auto" whitens if one direction has more of the variance of standardised channels than this and the
# 1 / dim of channels that are not correlated. It was 0.45 where whitening was better, and 0.07 where
# it was not.
CORRELATED = 0.25


class ChannelStatistics(NamedTuple):
    """Mean and standard deviation of each channel over cells."""

    mean: Float32[Tensor, " dim"]
    std: Float32[Tensor, " dim"]


class Whitening(NamedTuple):
    """The mean cell, and the principal directions of cells, each over its standard deviation."""

    mean: Float32[Tensor, " dim"]
    projection: Float32[Tensor, "dim component"]


Statistics = ChannelStatistics | Whitening


def feature_statistics(
    store: FeatureStore,
    ids: Sequence[str],
    *,
    norm: str,
    components: int,
    whitening: float,
    seed: int,
) -> Statistics:
    """Return what FeatureNorm needs, from the real cells of a seeded sample of `ids`.

    With `norm` "channel" the mean and std of each channel, with "none" mean 0 and std 1. With
    "whiten" the mean and the `components` directions of largest variance, or all where there are
    fewer. With "auto" those of "whiten" where channels are strongly correlated (CORRELATED), else
    those of "channel", as for more than MAX_COVARIANCE_DIM channels. Computed in float64. Variances
    have a floor, FLOOR of the mean over channels, so that a dead channel or direction, which is
    noise, stays near zero.

    Raises ClipfeatError where the sample is not finite, or constant; UsageError for "whiten" with
    more than MAX_COVARIANCE_DIM channels.
    """
    sample = partial(sampled_cells, store, ids, seed=seed)
    is_narrow = store.dim <= MAX_COVARIANCE_DIM
    if norm == "whiten" and not is_narrow:
        raise UsageError(
            f"norm whiten is for features of at most {MAX_COVARIANCE_DIM:,} channels, and those "
            f"of {store.location} have {store.dim:,}; pass --set norm=channel",
            code="E-FEATURES-WIDE",
        )
    if norm == "whiten" or (norm == AUTO and is_narrow):
        covariance = Covariance.of(sample(), store.dim)
        floor = _floor(covariance.matrix.diagonal(), store)
        if norm == "whiten" or _are_correlated(covariance):
            variances, directions = principal_directions(covariance)
            variances = variances[:components] + floor
            left = variances ** (1 - whitening)  # of variance, before all are scaled alike
            projection = directions[:, :components] * np.sqrt(left / left.mean() / variances)
            return Whitening(_float32(covariance.mean), _float32(projection))
    moments = reduce(Moments.merged, map(Moments.of, sample()))
    variances = np.square(moments.std)
    floor = _floor(variances, store)
    if norm == "none":
        return ChannelStatistics(torch.zeros(store.dim), torch.ones(store.dim))
    return ChannelStatistics(_float32(moments.mean), _float32(np.sqrt(variances + floor)))


def _are_correlated(covariance: Covariance) -> bool:
    """Return whether channels share much more of their variance than chance would have it."""
    share = standardised_share(covariance.matrix)
    return share > CORRELATED + 1 / len(covariance.mean)


def _floor(variances: np.ndarray, store: FeatureStore) -> float:
    """Return what is added to variances, given those of the channels of a store's sample."""
    if not variances.any():
        raise ClipfeatError(
            f"all sampled records of {store.location} have the same feature vector in every cell: "
            "a model cannot learn from this store; extract it again",
            code="E-FEATURES-CONSTANT",
        )
    return FLOOR * float(variances.mean())


def _float32(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))


def statistics_of(
    tensors: Mapping[str, Tensor], name: str, path: Path, *, norm: str, components: int
) -> Statistics:
    """Return the statistics in checkpoint `path`, of the FeatureNorm that is called `name` there.

    `norm` and `components` are the settings of its run. Raises ClipfeatError where the checkpoint
    has none, or others than such a run writes.
    """
    second = "projection" if norm == "whiten" else "std"
    mean, scale = (field(tensors, f"{name}.{part}", Tensor, path) for part in ("mean", second))
    dim = len(mean) if mean.dim() == 1 else 0
    shape = (dim, min(components, dim)) if norm == "whiten" else (dim,)
    if not dim or scale.shape != shape or {mean.dtype, scale.dtype} != {torch.float32}:
        raise ClipfeatError(
            f"{path}: {name}.mean and {name}.{second} must be float32 of shapes (dim,) and "
            f"{shape if dim else '(dim, ...)'}; got {tuple(mean.shape)} of {mean.dtype} and "
            f"{tuple(scale.shape)} of {scale.dtype}; use a checkpoint of a run with norm {norm}",
            code="E-RUN-STATISTICS",
        )
    return Whitening(mean, scale) if norm == "whiten" else ChannelStatistics(mean, scale)


class FeatureNorm(nn.Module):
    """Whiten features, or standardise each channel, in float32; padding cells become zero.

    Whitened components have mean 0 and variance 1 over cells, and are not correlated. That is what
    makes them easy to learn from: one learning rate suits all directions (LeCun et al. 1998,
    "Efficient BackProp", section 4.3).

    `blind` makes every feature zero: the same model then answers from the question alone.
    `regions` says that the cells are regions with boxes, of which a blind model may see nothing
    either. The statistics are buffers, so that a checkpoint carries them.
    """

    mean: Float32[Tensor, " dim"]

    def __init__(self, statistics: Statistics, *, blind: bool, regions: bool = False) -> None:
        super().__init__()
        self.blind, self.regions = blind, regions
        self.whitens = isinstance(statistics, Whitening)
        self.channels = statistics[1].shape[-1]  # of what it returns
        for name, tensor in statistics._asdict().items():
            self.register_buffer(name, tensor)

    @property
    def statistics(self) -> Statistics:
        """The statistics that features are normalised with."""
        if self.whitens:
            return Whitening(self.mean, self.get_buffer("projection"))
        return ChannelStatistics(self.mean, self.get_buffer("std"))

    def seen(
        self, mask: Bool[Tensor, "image cell"], boxes: Num[Tensor, "_ _ place"]
    ) -> tuple[Bool[Tensor, "image cell"], Num[Tensor, "_ _ place"]]:
        """Return which cells the model reads, and the boxes of regions, which are zero in padding.

        A blind model reads one region of each image, without its box: how many there are, and
        where, tells of the image. Of grids both are returned as they are.
        """
        if not self.regions:
            return mask, boxes
        if self.blind:
            first = torch.arange(mask.shape[1], device=mask.device) == 0
            return mask & first, torch.zeros_like(boxes)
        return mask, torch.where(mask[:, :, None], boxes, 0.0)

    def forward(
        self, features: Float[Tensor, "image cell dim"], mask: Bool[Tensor, "image cell"]
    ) -> Float32[Tensor, "image cell channel"]:
        """Return the features normalised, with zeros where `mask` is false; zeros if blind."""
        if self.blind:
            return features.new_zeros((*mask.shape, self.channels), dtype=torch.float32)
        return self.normalised(features, mask)

    def normalised(
        self, features: Float[Tensor, "image cell dim"], mask: Bool[Tensor, "image cell"]
    ) -> Float32[Tensor, "image cell channel"]:
        """Return what the model sees, or would see if it were not blind."""
        # The mean first: where it is large, x @ W - mean @ W would lose all digits in float32.
        centred = features.float() - self.mean
        if self.whitens:
            # bfloat16 has 8 bits, and small directions are differences of large numbers.
            with torch.autocast(features.device.type, enabled=False):
                normal = centred @ self.get_buffer("projection")
        else:
            normal = centred / self.get_buffer("std")
        return torch.where(mask[:, :, None], normal, 0.0)


def feature_norm(model: nn.Module) -> FeatureNorm:
    """Return the layer that normalises features, which every model of a task has."""
    return next(module for module in model.modules() if isinstance(module, FeatureNorm))


def with_chosen_norm(settings: S, model: nn.Module) -> S:
    """Return settings in which the norm that "auto" chose for a model is named."""
    if settings.norm != AUTO:
        return settings
    norm = "whiten" if feature_norm(model).whitens else "channel"
    return dataclasses.replace(settings, norm=norm)
