"""The colours of a store's cells, compared with numpy's singular value decomposition."""

import numpy as np
import pytest
from stores import make_store

from clipfeat.featstore import FeatureStore
from clipfeat.featstore.report import colours
from clipfeat.featstore.report.colours import ColourBasis, sampled_basis

RNG = np.random.default_rng(1)


class TestBasis:
    @pytest.mark.parametrize("cells", [500, 20])  # more than channels, and fewer
    def test_they_are_the_principal_components_of_standardised_cells(self, cells):
        mixed = RNG.standard_normal((cells, 40)) * np.geomspace(1, 300, 40)
        mixed = mixed + 5 * RNG.standard_normal((cells, 1))
        basis = ColourBasis.of(mixed)
        variance = mixed.var(axis=0)
        standard = (mixed - mixed.mean(axis=0)) / np.sqrt(variance + 1e-4 * variance.mean())
        _, sizes, rows = np.linalg.svd(standard, full_matrices=False)
        for number in range(3):
            direction, expected = basis.directions[:, number], rows[number]
            expected = expected * np.sign(expected[np.abs(expected).argmax()])
            np.testing.assert_allclose(direction, expected, atol=1e-8)
        assert basis.explained == pytest.approx(sizes[:3] ** 2 / (sizes**2).sum())

    def test_a_fiftieth_of_the_cells_lies_at_the_ends_of_a_colour(self):
        cells = RNG.standard_normal((5000, 6)).astype(np.float32)
        colours = ColourBasis.of(cells).colours(cells)
        assert colours.shape == (5000, 3)
        for channel in colours.T.astype(int):
            assert (channel == 0).mean() == pytest.approx(0.02, abs=0.004)
            assert (channel == 255).mean() == pytest.approx(0.02, abs=0.004)

    def test_one_channel_of_large_scale_does_not_decide_them(self):
        cells = RNG.standard_normal((2000, 8))
        cells[:, 1:4] += 3 * RNG.standard_normal((2000, 1))
        cells[:, 7] *= 1e3
        first = ColourBasis.of(cells).directions[:, 0]
        assert set(np.argsort(-np.abs(first))[:3]) == {1, 2, 3}

    @pytest.mark.parametrize("cells", [np.ones((4, 5)), np.zeros((1, 1)), np.eye(2)])
    def test_few_and_equal_cells_have_colours_too(self, cells):
        colours = ColourBasis.of(cells).colours(cells)
        assert colours.shape == (len(cells), 3)
        assert (colours[:, 2] == 128).all()  # there is no third direction

    def test_percentiles_of_the_sample_become_black_and_full(self):
        cells = np.linspace(-1, 1, 101)[:, None]
        red = ColourBasis.of(cells).colours(cells)[:, 0]
        assert (red[:3] == 0).all()  # the 2nd percentile is the third of 101
        assert (red[-3:] == 255).all()
        assert red[50] == 128  # 127.5, and the nearest even number

    def test_nan_and_numbers_beyond_float64_have_colours_too(self):
        cells = RNG.standard_normal((50, 4))
        odd = np.array([[np.nan, 0, 0, 0], [np.inf, -np.inf, 0, 0], [1e308, 1e308, -1e308, 0]])
        assert ColourBasis.of(cells).colours(odd).shape == (3, 3)


def grids(count, shape=(3, 4), dim=8):
    mixing = RNG.standard_normal((dim, dim))
    return {
        f"i{k:03d}": (RNG.standard_normal((*shape, dim)) @ mixing).astype(np.float16)
        for k in range(count)
    }


class TestSample:
    def test_it_is_of_cells_of_each_image_that_can_be_read(self, tmp_path):
        records = grids(9)
        records["nan"] = np.full((3, 4, 8), np.nan, np.float16)
        store = FeatureStore.open(make_store(tmp_path / "s", records))
        found = sampled_basis(store, [*reversed(records)])
        cells = np.concatenate([g.reshape(-1, 8) for i, g in records.items() if i != "nan"])
        assert found is not None
        np.testing.assert_allclose(found.mean, cells.astype(float).mean(axis=0), atol=1e-6)
        assert sampled_basis(store, ["nan"]) is None
        assert sampled_basis(store, []) is None

    def test_what_is_read_is_bounded(self, tmp_path, monkeypatch):
        records = grids(4, (2, 2))
        store = FeatureStore.open(make_store(tmp_path / "s", records))
        monkeypatch.setattr(colours, "READ_NUMBERS", 1)
        found = sampled_basis(store, [*records])
        assert found is not None
        first = records["i000"].reshape(-1, 8).astype(float)
        np.testing.assert_allclose(found.mean, first.mean(axis=0), atol=1e-6)
        monkeypatch.setattr(colours, "BASIS_NUMBERS", 3 * 8)
        found = sampled_basis(store, [*records])
        assert found is not None
        means = [np.delete(first, k, axis=0).mean(axis=0) for k in range(4)]  # three of four cells
        assert min(np.abs(found.mean - mean).max() for mean in means) < 1e-6
