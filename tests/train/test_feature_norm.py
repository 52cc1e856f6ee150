"""Statistics of a store, and what the norm makes of features."""

from pathlib import Path

import numpy as np
import pytest
import torch
from refused import refuses
from stores import make_store

from clipfeat.featstore import FeatureStore
from clipfeat.train.records import ChannelStatistics, FeatureNorm, channel_statistics


def open_store(path: Path, grids: list[np.ndarray]) -> FeatureStore:
    return FeatureStore.open(make_store(path, {f"{i:03}": grid for i, grid in enumerate(grids)}))


def test_statistics_are_those_of_all_cells(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    scale = np.array([1000.0, 1.0, 0.5])
    grids = [
        (random.normal(3, 1, (rows, 4, 3)) * scale).astype(np.float16) for rows in (2, 3, 4) * 5
    ]
    store = open_store(tmp_path / "s.clipfeat", grids)
    mean, std = channel_statistics(store, store.ids, seed=0)
    cells = np.concatenate([grid.reshape(-1, 3) for grid in grids]).astype(np.float64)
    floor = 0.01 * np.sqrt(cells.var(axis=0).mean())
    np.testing.assert_allclose(mean.numpy(), cells.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(std.numpy(), np.hypot(cells.std(axis=0), floor), rtol=1e-5)


def test_cells_that_the_recipe_has_padded_do_not_count(tmp_path: Path, monkeypatch) -> None:
    grid = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float16)
    store = open_store(tmp_path / "s.clipfeat", [grid])
    real = np.array([True, True, False, True, False, False])

    def mask_padding(_: FeatureStore, mask: np.ndarray, places: object) -> None:
        mask[0] = real

    monkeypatch.setattr(FeatureStore, "_mask_padding", mask_padding)
    mean, _ = channel_statistics(store, store.ids, seed=0)
    cells = np.stack([grid[0, 0], grid[0, 1], grid[1, 0]]).astype(np.float64)
    np.testing.assert_allclose(mean.numpy(), cells.mean(axis=0), rtol=1e-5)


def test_a_dead_channel_stays_at_zero_and_scale_drops_out(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    grid = random.normal(size=(6, 6, 4)).astype(np.float16)
    grid[:, :, 3] = 7
    outcomes = []
    for name, factor in (("a", 1), ("b", 1024)):
        store = open_store(tmp_path / name, [grid * np.float16(factor)])
        norm = FeatureNorm(channel_statistics(store, store.ids, seed=0), blind=False)
        records = store.read(store.ids)
        mask = torch.from_numpy(records.mask)
        outcomes.append(norm(torch.from_numpy(records.features), mask))
    assert outcomes[0][:, :, 3].abs().max() == 0
    assert outcomes[0][:, :, :3].std().item() == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(outcomes[0], outcomes[1], rtol=1e-5, atol=1e-5)


def test_padding_becomes_zero_whatever_it_holds() -> None:
    norm = FeatureNorm(ChannelStatistics(torch.ones(2), torch.ones(2)), blind=False)
    features = torch.tensor([[[3.0, 1.0], [torch.nan, torch.inf]]], dtype=torch.float16)
    assert norm(features, torch.tensor([[True, False]])).tolist() == [[[2.0, 0.0], [0.0, 0.0]]]


def test_blind_makes_all_features_zero() -> None:
    norm = FeatureNorm(ChannelStatistics(torch.ones(2), torch.ones(2)), blind=True)
    features = torch.randn(2, 3, 2)
    assert norm(features, torch.ones(2, 3, dtype=torch.bool)).abs().sum() == 0


@pytest.mark.parametrize(
    ("value", "code"),
    [(np.nan, "E-FEATURES-FINITE"), (5.0, "E-FEATURES-CONSTANT")],
)
def test_features_that_teach_nothing_are_refused(tmp_path: Path, value: float, code: str) -> None:
    store = open_store(tmp_path / "s.clipfeat", [np.full((2, 2, 3), value)])
    with refuses(code):
        channel_statistics(store, store.ids, seed=0)
