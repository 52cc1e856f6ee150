"""Records of a store as tensors, and the scale that models read them in."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor, nn

from ..base.errors import ClipfeatError, UsageError
from ..base.jsonio import field
from ..base.text import is_url
from ..featstore import FeatureStore
from ..featstore.reading import BufferPool
from .batches import READ_AHEAD

# Batches in memory at once: those read ahead, the one being read, the one computed on, and the
# previous one, which Python frees when the next arrives.
ALIVE = READ_AHEAD + 3
SPARED = 0.9  # of the free memory: the share that a cache may take


class Records(NamedTuple):
    """The grids of some images, padded to the largest among them, in the store's dtype."""

    features: Float[Tensor, "image cell dim"]
    mask: Bool[Tensor, "image cell"]  # True where a cell holds pixels of the image
    grid_shapes: Int[Tensor, "image 2"]  # rows, cols


class RecordReader:
    """Reads records by image id, for batches that `device` will compute on.

    For a GPU they are in pinned memory, so that it can copy them by itself. With `cache` "memory"
    or "device", each record is read from the disk once and then kept in that memory.
    """

    def __init__(self, store: FeatureStore, device: torch.device, cache: str = "none") -> None:
        self._store = store
        self._pins = device.type == "cuda"
        self._home = device if cache == "device" else torch.device("cpu")
        self._kept: dict[str, Records] | None = None if cache == "none" else {}
        self._pool = BufferPool(ALIVE)

    def require_room(self, ids: Collection[str], *, processes: int) -> None:
        """Raise UsageError unless the cache, if there is one, can hold the records of `ids`."""
        if self._kept is None:
            return
        needed = int(self._store.shapes(list(ids)).prod(axis=1).sum()) * self._cell_bytes
        if self._home.type == "cuda":
            free, cache = torch.cuda.mem_get_info(self._home)[0], "device"
        else:  # each process keeps what it has read
            needed, free, cache = needed * processes, psutil.virtual_memory().available, "memory"
        if needed > SPARED * free:
            raise UsageError(
                f"cache {cache} needs {needed / 1e9:.1f} GB for {len(ids):,} records, and "
                f"{free / 1e9:.1f} GB are free; pass --set cache=none",
                code="E-RUN-CACHE",
            )

    def pinned(self, tensor: Tensor) -> Tensor:
        """Return the tensor in memory that a GPU can copy from by itself, if there is one."""
        return tensor.pin_memory() if self._pins else tensor

    def select(
        self, features: Float[Tensor, "image cell dim"], cells: Int[Tensor, "image chosen"]
    ) -> Float[Tensor, "image chosen dim"]:
        """Return some cells of each image, in pinned memory if `read` returns such."""
        images, count, dim = features.shape
        rows = (torch.arange(images)[:, None] * count + cells).flatten().to(features.device)
        pins = self._pins and features.device.type == "cpu"
        chosen = features.new_empty(len(rows), dim, pin_memory=pins)
        torch.index_select(features.flatten(0, 1), 0, rows, out=chosen)
        return chosen.unflatten(0, cells.shape)

    def read(self, ids: Sequence[str]) -> Records:
        """Return the records of `ids`, each id once; raises as `FeatureStore.read` does."""
        if self._kept is None:
            return self._from_store(ids)
        self._keep([image_id for image_id in ids if image_id not in self._kept])
        return self._gathered([self._kept[image_id] for image_id in ids])

    def fetch(self, ids: Sequence[str]) -> None:
        """Bring the records of `ids` to this machine, unless they are here or kept in memory."""
        if not is_url(self._store.location):
            return
        kept = self._kept or {}
        self._store.fetch([image_id for image_id in ids if image_id not in kept])

    @property
    def _cell_bytes(self) -> int:
        return self._store.dim * self._store.identity.numpy_dtype.itemsize

    def _from_store(self, ids: Sequence[str]) -> Records:
        cells = int(self._store.shapes(list(ids)).prod(axis=1).max(initial=0))
        features = self._memory(len(ids), cells, pins=self._pins)
        batch = self._store.read(ids, out=features.numpy())
        return Records(
            features,
            self.pinned(torch.from_numpy(batch.mask)),
            self.pinned(torch.from_numpy(batch.grid_shapes)),
        )

    def _memory(self, images: int, cells: int, *, pins: bool) -> Tensor:
        """Return an empty (image, cell, dim) tensor on the host."""
        shape, dtype = (images, cells, self._store.dim), self._store.identity.numpy_dtype
        if pins:  # torch keeps pinned memory by itself, until the GPU has copied from it
            kind = torch.from_numpy(np.empty(0, dtype)).dtype
            return torch.empty(shape, dtype=kind, pin_memory=True)
        memory = self._pool.take(images * cells * self._cell_bytes)
        return torch.from_numpy(memory.view(dtype).reshape(shape))

    def _keep(self, ids: Sequence[str]) -> None:
        """Read the records of `ids` and keep a copy of each, without its padding."""
        if not ids or self._kept is None:
            return
        records = self._from_store(ids)
        for number, (image_id, cells) in enumerate(
            zip(ids, records.grid_shapes.prod(dim=1).tolist(), strict=True)
        ):
            self._kept[image_id] = Records(
                records.features[number, :cells].to(self._home, copy=True),
                records.mask[number, :cells].to(self._home, copy=True),
                records.grid_shapes[number].clone(),
            )

    def _gathered(self, kept: Sequence[Records]) -> Records:
        """Return kept records as one batch, in the memory in which they are kept."""
        shapes = torch.stack([record.grid_shapes for record in kept])
        cells = max(len(record.mask) for record in kept)
        if self._home.type == "cuda":
            features = kept[0].features.new_empty(len(kept), cells, self._store.dim)
        else:
            features = self._memory(len(kept), cells, pins=self._pins)
        mask = kept[0].mask.new_zeros(len(kept), cells)
        for number, record in enumerate(kept):
            real = len(record.mask)
            features[number, :real] = record.features
            features[number, real:] = 0
            mask[number, :real] = record.mask
        return Records(features, mask, self.pinned(shapes))


SAMPLE = 256  # records; at 36 cells each, a channel's mean is known to about 1% of its std
AT_A_TIME = 32  # records of it that are read together
FLOOR = 0.01  # of the typical std: a channel with less is noise, and is not amplified


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
    sample = [ids[int(number)] for number in np.sort(chosen)]
    for start in range(0, len(sample), AT_A_TIME):
        part = sample[start : start + AT_A_TIME]
        batch = store.read(part)
        for image_id, padded, mask in zip(part, batch.features, batch.mask, strict=True):
            grid = padded[mask].astype(np.float64)  # cell dim
            if not np.isfinite(grid).all():
                raise ClipfeatError(
                    f"the features of image {image_id} hold NaN or infinity; extract it again",
                    code="E-FEATURES-FINITE",
                )
            cells += len(grid)
            total += grid.sum(axis=0)
            squares += np.square(grid).sum(axis=0)
    mean = total / cells
    variance = np.maximum(squares / cells - np.square(mean), 0)
    if not variance.any():
        raise ClipfeatError(
            f"all {len(chosen)} sampled records have the same feature vector in every cell: a model "
            "cannot learn from this store; extract it again",
            code="E-FEATURES-CONSTANT",
        )
    std = np.sqrt(variance + FLOOR**2 * variance.mean())
    return ChannelStatistics(*(torch.from_numpy(a.astype(np.float32)) for a in (mean, std)))


def statistics_of(tensors: Mapping[str, Tensor], norm: str, path: Path) -> ChannelStatistics:
    """Return the statistics in checkpoint `path` of a model; ClipfeatError if it has none.

    `norm` is the name of the model's FeatureNorm in it.
    """
    mean, std = (field(tensors, f"{norm}.{name}", Tensor, path) for name in ("mean", "std"))
    if mean.dim() != 1 or mean.shape != std.shape or {mean.dtype, std.dtype} != {torch.float32}:
        raise ClipfeatError(
            f"{path}: {norm}.mean and std must be a float32 for each channel; got "
            f"{tuple(mean.shape)} of {mean.dtype} and {tuple(std.shape)} of {std.dtype}",
            code="E-RUN-STATISTICS",
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
