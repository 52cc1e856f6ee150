"""Statistics of a store, and what the norm makes of features."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refused import refuses
from stores import make_store

from clipfeat.featstore import FeatureStore, convert
from clipfeat.train.normalize import (
    ChannelStatistics,
    FeatureNorm,
    Statistics,
    Whitening,
    feature_statistics,
    statistics_of,
)


def open_store(path: Path, grids: list[np.ndarray], **changes: Any) -> FeatureStore:
    records = {f"{i:03}": grid for i, grid in enumerate(grids)}
    dtype = str(grids[0].dtype)
    return FeatureStore.open(make_store(path, records, dtype=dtype, shard_size=128, **changes))


def channel_statistics(store: FeatureStore) -> Statistics:
    return feature_statistics(store, store.ids, norm="channel", components=1, whitening=1.0, seed=0)


def whitening(
    store: FeatureStore, components: int = 1000, power: float = 1.0, seed: int = 0
) -> Whitening:
    statistics = feature_statistics(
        store, store.ids, norm="whiten", components=components, whitening=power, seed=seed
    )
    assert isinstance(statistics, Whitening)
    return statistics


def whitened(store: FeatureStore, power: float = 1.0) -> np.ndarray:
    """Return the whitened cells of all records, without padding, as float64: (cell, component)."""
    norm = FeatureNorm(whitening(store, power=power), blind=False)
    records = store.read(store.ids)
    mask = torch.from_numpy(records.mask)
    return norm(torch.from_numpy(records.features), mask)[mask].double().numpy()


def test_statistics_are_those_of_all_cells(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    scale = np.array([1000.0, 1.0, 0.5])
    grids = [
        (random.normal(3, 1, (rows, 4, 3)) * scale).astype(np.float16) for rows in (2, 3, 4) * 5
    ]
    store = open_store(tmp_path / "s.clipfeat", grids)
    mean, std = channel_statistics(store)
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
    mean, _ = channel_statistics(store)
    cells = np.stack([grid[0, 0], grid[0, 1], grid[1, 0]]).astype(np.float64)
    np.testing.assert_allclose(mean.numpy(), cells.mean(axis=0), rtol=1e-5)


def test_a_dead_channel_stays_at_zero_and_scale_drops_out(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    grid = random.normal(size=(6, 6, 4)).astype(np.float16)
    grid[:, :, 3] = 7
    outcomes = []
    for name, factor in (("a", 1), ("b", 1024)):
        store = open_store(tmp_path / name, [grid * np.float16(factor)])
        norm = FeatureNorm(channel_statistics(store), blind=False)
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


@pytest.mark.parametrize("norm", ["whiten", "channel", "none"])
@pytest.mark.parametrize(
    ("value", "code"),
    [(np.nan, "E-FEATURES-FINITE"), (5.0, "E-FEATURES-CONSTANT")],
)
def test_features_that_teach_nothing_are_refused(
    tmp_path: Path, value: float, code: str, norm: str
) -> None:
    store = open_store(tmp_path / "s.clipfeat", [np.full((2, 2, 3), value, np.float16)])
    with refuses(code):
        feature_statistics(store, store.ids, norm=norm, components=2, whitening=0.5, seed=0)


@pytest.mark.parametrize(
    ("shared", "scales", "norm"),
    [
        (0.0, (1, 1, 1, 1), "channel"),
        (0.0, (100, 1, 1, 1), "channel"),  # the channel with most of the variance stands alone
        (2.0, (1, 1, 1, 1), "whiten"),
        (2.0, (100, 1, 1, 1), "whiten"),
    ],
)
def test_auto_whitens_channels_that_are_correlated(
    tmp_path: Path, shared: float, scales: tuple[float, ...], norm: str
) -> None:
    # With a shared part of variance s^2 beside each channel's own of 1, channels correlate by
    # r = s^2 / (1 + s^2), and the largest eigenvalue of their correlations is 1 + 3 r.
    random = np.random.default_rng(0)
    parts = random.normal(size=(20, 4, 4, 4)) + shared * random.normal(size=(20, 4, 4, 1))
    store = open_store(tmp_path / "s.clipfeat", list((parts * scales).astype(np.float32)))
    auto, named = (
        feature_statistics(store, store.ids, norm=name, components=3, whitening=0.5, seed=0)
        for name in ("auto", norm)
    )
    assert type(auto) is type(named)
    assert all(torch.equal(one, other) for one, other in zip(auto, named, strict=True))


def test_auto_standardises_channels_of_which_there_are_too_many_to_whiten(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s.clipfeat", [np.random.rand(2, 2, 6145).astype(np.float16)])
    auto = feature_statistics(store, store.ids, norm="auto", components=3, whitening=0.5, seed=0)
    assert isinstance(auto, ChannelStatistics)


def correlated(dim: int, *, seed: int = 0, count: int = 40) -> list[np.ndarray]:
    """Return ragged grids whose channels are mixtures of others, with stds from 0.2 to 3."""
    random = np.random.default_rng(seed)
    mixture = np.linalg.qr(random.normal(size=(dim, dim)))[0] * np.linspace(0.2, 3, dim)
    return [
        (5 + random.normal(size=(rows, 5, dim)) @ mixture.T).astype(np.float32)
        for rows in (3, 4, 6, 7) * (count // 4)
    ]


def test_whitened_cells_have_no_correlation_and_variance_1(tmp_path: Path) -> None:
    cells = whitened(open_store(tmp_path / "s.clipfeat", correlated(6)))
    assert cells.shape == (40 * 25, 6)
    np.testing.assert_allclose(cells.mean(axis=0), 0, atol=1e-5)
    # Variance v becomes v / (v + floor), floor 1e-4 of the mean: at least 0.04 / (0.04 + 4e-4).
    np.testing.assert_allclose(np.cov(cells.T, bias=True), np.eye(6), atol=0.01)


def test_whitening_is_the_projection_on_eigenvectors(tmp_path: Path) -> None:
    grids = correlated(6)
    store = open_store(tmp_path / "s.clipfeat", grids)
    cells = np.concatenate([grid.reshape(-1, 6) for grid in grids]).astype(np.float64)
    # Right singular vectors of the centred cells, a different way to the same directions.
    _, singular, directions = np.linalg.svd(cells - cells.mean(axis=0), full_matrices=False)
    variances = singular**2 / len(cells)
    expected = directions.T / np.sqrt(variances + 1e-4 * variances.mean())
    mean, projection = whitening(store)
    np.testing.assert_allclose(mean.numpy(), cells.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(np.abs(projection.numpy()), np.abs(expected), atol=1e-5)
    assert (projection.gather(0, projection.abs().argmax(dim=0, keepdim=True)) > 0).all()
    torch.testing.assert_close(whitening(store, components=2).projection, projection[:, :2])


@pytest.mark.parametrize("power", [0.0, 0.5, 0.8])
def test_partial_whitening_leaves_a_power_of_each_variance(tmp_path: Path, power: float) -> None:
    """Over std^power, a variance v becomes v^(1 - power); then all are scaled to a mean of 1."""
    grids = correlated(6)
    cells = np.concatenate([grid.reshape(-1, 6) for grid in grids]).astype(np.float64)
    variances = np.linalg.svd(cells - cells.mean(axis=0), compute_uv=False) ** 2
    expected = variances ** (1 - power) / np.mean(variances ** (1 - power))
    seen = np.cov(whitened(open_store(tmp_path / "s.clipfeat", grids), power).T, bias=True)
    np.testing.assert_allclose(seen, np.diag(expected), atol=0.01)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_scale_of_features_drops_out_of_whitening(tmp_path: Path, power: float) -> None:
    one, other = (
        whitened(
            open_store(tmp_path / name, [grid * np.float32(factor) for grid in correlated(4)]),
            power,
        )
        for name, factor in (("a", 1), ("b", 1024))
    )
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_rotated_features_have_the_same_whitened_distances(tmp_path: Path) -> None:
    grids = correlated(5)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    turned = [(grid @ rotation).astype(np.float32) for grid in grids]
    one, other = (
        whitened(open_store(tmp_path / name, some))[:100]
        for name, some in (("a", grids), ("b", turned))
    )
    distances, others = (np.linalg.norm(cells[:, None] - cells, axis=-1) for cells in (one, other))
    np.testing.assert_allclose(distances, others, atol=1e-3)


def test_a_direction_without_variance_stays_near_zero(tmp_path: Path) -> None:
    grids = correlated(4)
    for grid in grids:
        grid[..., 3] = grid[..., 0] + 1e-4 * grid[..., 1]
    cells = whitened(open_store(tmp_path / "s.clipfeat", grids))
    assert cells[:, :3].std(axis=0) == pytest.approx([1, 1, 1], abs=0.01)
    assert cells[:, 3].std() < 0.02


def test_a_small_spread_about_a_large_mean_is_whitened_exactly_enough(tmp_path: Path) -> None:
    """float32 has steps of 6e-5 at 1000: 0.6 % of a spread of 0.01."""
    random = np.random.default_rng(0)
    grids = [(1000 + 0.01 * random.normal(size=(8, 8, 4))).astype(np.float32) for _ in range(20)]
    cells = whitened(open_store(tmp_path / "s.clipfeat", grids))
    np.testing.assert_allclose(cells.mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose(np.cov(cells.T, bias=True), np.eye(4), atol=0.01)


def test_cells_that_the_recipe_has_padded_do_not_count_in_whitening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids = correlated(3, count=8)
    real = np.random.default_rng(2).random((8, 35)) < 0.6

    def mask_padding(store: FeatureStore, mask: np.ndarray, places: object) -> None:
        mask &= real[: len(mask), : mask.shape[1]]

    monkeypatch.setattr(FeatureStore, "_mask_padding", mask_padding)
    store = open_store(tmp_path / "s.clipfeat", grids)
    cells = np.concatenate(
        [g.reshape(-1, 3)[real[i, : g.shape[0] * 5]] for i, g in enumerate(grids)]
    ).astype(np.float64)
    mean, projection = whitening(store)
    np.testing.assert_allclose(mean.numpy(), cells.mean(axis=0), rtol=1e-5)
    scaled = (cells - cells.mean(axis=0)) @ projection.double().numpy()
    np.testing.assert_allclose(np.cov(scaled.T, bias=True), np.eye(3), atol=0.01)


def test_the_order_on_disk_changes_nothing(tmp_path: Path) -> None:
    one, other = (
        open_store(tmp_path / order, correlated(4), order=order)
        for order in ("channels_last", "channels_first")
    )
    assert (whitened(one) == whitened(other)).all()


def test_a_store_of_uint8_is_whitened_by_its_values(tmp_path: Path) -> None:
    store = convert(open_store(tmp_path / "s", correlated(4)), tmp_path / "o", dtype="uint8")
    assert store.identity.stored_dtype == np.uint8
    np.testing.assert_allclose(np.cov(whitened(store).T, bias=True), np.eye(4), atol=0.01)


def test_a_norm_of_none_changes_no_feature(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s.clipfeat", correlated(4, count=4))
    statistics = feature_statistics(
        store, store.ids, norm="none", components=2, whitening=0.5, seed=0
    )
    features = torch.randn(2, 3, 4, dtype=torch.float16)
    norm = FeatureNorm(statistics, blind=False)
    seen = norm(features, torch.tensor([[True, True, False]]).expand(2, 3))
    assert (norm.channels, seen.dtype) == (4, torch.float32)
    assert torch.equal(seen[:, :2], features[:, :2].float())
    assert (seen[:, 2] == 0).all()


def test_a_blind_norm_has_the_width_of_its_components() -> None:
    norm = FeatureNorm(Whitening(torch.ones(4), torch.randn(4, 3)), blind=True)
    seen = norm(torch.randn(2, 5, 4), torch.ones(2, 5, dtype=torch.bool))
    assert torch.equal(seen, torch.zeros(2, 5, norm.channels))
    assert norm.channels == 3


def test_padding_that_is_not_a_number_does_not_reach_whitened_cells() -> None:
    norm = FeatureNorm(Whitening(torch.ones(2), torch.tensor([[2.0], [1.0]])), blind=False)
    features = torch.tensor([[[3.0, 1.0], [torch.nan, torch.inf]]], dtype=torch.float16)
    assert norm(features, torch.tensor([[True, False]])).tolist() == [[[4.0], [0.0]]]


def test_whitening_is_float32_under_autocast() -> None:
    norm = FeatureNorm(Whitening(torch.randn(64), torch.randn(64, 8)), blind=False)
    features, mask = torch.randn(2, 3, 64), torch.ones(2, 3, dtype=torch.bool)
    exact = norm(features, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(norm(features, mask), exact)


def test_a_seed_has_one_sample_and_another_seed_another(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    grids = [random.normal(size=(9, 9, 4)).astype(np.float32) for _ in range(260)]
    store = open_store(tmp_path / "s.clipfeat", grids)
    one, again, other = (whitening(store, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.projection, again.projection)
    assert not torch.equal(one.mean, other.mean)


def test_too_many_channels_for_a_covariance_are_refused_before_it(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s.clipfeat", [np.ones((1, 1, 6145), np.float16)])
    with refuses("E-FEATURES-WIDE", "norm=channel"):
        whitening(store)


STORED = {
    "channel": {"m.mean": torch.zeros(4), "m.std": torch.ones(4)},
    "none": {"m.mean": torch.zeros(4), "m.std": torch.ones(4)},
    "whiten": {"m.mean": torch.zeros(4), "m.projection": torch.ones(4, 3)},
}


@pytest.mark.parametrize("norm", STORED)
def test_statistics_come_back_from_a_checkpoint(norm: str) -> None:
    first = statistics_of(STORED[norm], "m", Path("c"), norm=norm, components=3)
    state = FeatureNorm(first, blind=False).state_dict(prefix="m.")
    assert state.keys() == STORED[norm].keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in STORED[norm].items())


@pytest.mark.parametrize(
    ("norm", "changes"),
    [
        ("channel", {"m.std": torch.ones(3)}),
        ("channel", {"m.mean": torch.zeros(4, 1)}),
        ("none", {"m.std": torch.ones(4).double()}),
        ("whiten", {"m.mean": torch.tensor(1.0)}),
        ("whiten", {"m.mean": torch.zeros(0), "m.projection": torch.ones(0, 0)}),
        ("whiten", {"m.projection": torch.ones(4, 4)}),
        ("whiten", {"m.projection": torch.ones(3, 4)}),
        ("whiten", {"m.projection": torch.ones(4)}),
        ("whiten", {"m.projection": torch.ones(4, 3).half()}),
    ],
)
def test_forged_statistics_are_refused(norm: str, changes: dict[str, torch.Tensor]) -> None:
    with refuses("E-RUN-STATISTICS"):
        statistics_of(STORED[norm] | changes, "m", Path("c"), norm=norm, components=3)


def test_a_checkpoint_of_another_norm_is_refused() -> None:
    with refuses("E-JSON-KEY"):
        statistics_of(STORED["channel"], "m", Path("c"), norm="whiten", components=3)
