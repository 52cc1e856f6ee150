"""The features of all viewpoints of some scans, in one tensor."""

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Num
from torch import Tensor

from ...base.errors import UsageError
from ...base.text import counted
from ...featstore import FeatureStore
from ...featstore.lookup import Status
from .graphs import Scan, image_id
from .views import VIEWS

READ_TOGETHER = 256  # records
NAMED = 3  # viewpoints that a message names


def viewpoint_ids(scans: Mapping[str, Scan]) -> list[str]:
    """Return the image ids of all viewpoints, scan by scan: the numbers of `Environment`."""
    return [image_id(scan.name, name) for scan in scans.values() for name in scan.viewpoints]


def require_features(store: FeatureStore, scans: Mapping[str, Scan]) -> None:
    """Raise UsageError (E-NAV-FEATURES) unless each viewpoint has a record of 36 views.

    The message counts and names the viewpoints without one, by scan and reason. No record is read.
    """
    ids = viewpoint_ids(scans)
    statuses = store.statuses(ids)
    without = [i for i, status in zip(ids, statuses, strict=True) if status is not Status.OK]
    if without:
        unknown = sum(status is None for status in statuses)
        refused = len(without) - unknown
        reasons = [f"{unknown:,} not in the store"] * (unknown > 0)
        reasons += [f"{refused:,} that could not be extracted"] * (refused > 0)
        raise UsageError(
            f"{store.location}: {counted(len(without), 'viewpoint')} of {len(ids):,} without "
            f"features ({', '.join(reasons)}): {_named(without)}; extract them into the same store, or "
            "train on other scans",
            code="E-NAV-FEATURES",
        )
    shapes = store.shapes(ids)
    other = [i for i, shape in zip(ids, shapes.tolist(), strict=True) if shape != [VIEWS, 1]]
    if other:
        raise UsageError(
            f"{store.location}: {counted(len(other), 'record')} without {VIEWS} views: "
            f"{_named(other)}; extract with --recipe views",
            code="E-NAV-FEATURES",
        )


def read_features(
    store: FeatureStore, scans: Mapping[str, Scan], device: str | torch.device = "cpu"
) -> Num[Tensor, "viewpoint view dim"]:
    """Return the features of all viewpoints in the store's dtype, in the order of `viewpoint_ids`.

    On a GPU, no batch of a training waits for a copy; the 10,567 viewpoints of Matterport3D take
    390 MB with 512 channels in float16. Raises as `require_features` does, and CorruptStoreError.
    """
    require_features(store, scans)
    ids = viewpoint_ids(scans)
    first = torch.from_numpy(store.read(ids[:1]).features)
    features = torch.empty((len(ids), VIEWS, store.dim), dtype=first.dtype)
    for start in range(0, len(ids), READ_TOGETHER):
        part = features[start : start + READ_TOGETHER]
        store.fetch(ids[start : start + READ_TOGETHER])
        store.read(ids[start : start + READ_TOGETHER], part.numpy())
    return features.to(device)


def _named(ids: Iterable[str]) -> str:
    names = list(ids)
    return ", ".join(f"{name!r:.80}" for name in names[:NAMED]) + (", ..." * (len(names) > NAMED))
