"""Colours of cells, PNG files and places of a grid, compared with numpy, Pillow and plain loops."""

import io
import re

import numpy as np
import pytest
from PIL import Image
from stores import make_store, padded_store

from clipfeat.featstore import FeatureStore, GridShape
from clipfeat.featstore.card import survey as surveys
from clipfeat.featstore.card.charts import cells_png, histogram, number_text
from clipfeat.featstore.card.colours import colours_of_numbers, png
from clipfeat.featstore.card.places import PlaceSums
from clipfeat.featstore.card.style import PROPERTIES
from clipfeat.featstore.card.survey import survey
from clipfeat.featstore.report.sample import sample_rows

RNG = np.random.default_rng(1)


class TestColours:
    def test_numbers_are_from_dark_to_light(self):
        colours = colours_of_numbers(np.linspace(2, 5, 50), 2, 5).astype(float)
        luminance = colours @ (0.2126, 0.7152, 0.0722)  # ITU-R BT.709
        assert (np.diff(luminance) > 0).all()


class TestPNG:
    def test_pillow_reads_the_same_pixels(self):
        pixels = RNG.integers(0, 256, (5, 9, 3)).astype(np.uint8)
        mask = RNG.random((5, 9)) < 0.7
        with Image.open(io.BytesIO(png(pixels, mask))) as image:
            image.verify()
        with Image.open(io.BytesIO(png(pixels, mask))) as image:
            assert image.mode == "RGBA"
            found = np.asarray(image)
        np.testing.assert_array_equal(found[..., :3], pixels)
        np.testing.assert_array_equal(found[..., 3], np.where(mask, 255, 0))

    def test_a_large_grid_becomes_a_small_picture(self):
        content = cells_png(np.zeros((4096, 2, 3), np.uint8), np.ones((4096, 2), bool))
        with Image.open(io.BytesIO(content)) as image:
            assert max(image.size) < 400


class TestPlaces:
    def test_they_are_those_of_plain_loops(self):
        shape, features = GridShape(2, 3), RNG.standard_normal((7, 6, 4)).astype(np.float16)
        mask = np.ones((7, 6), bool)
        mask[:3, 0] = mask[:, 5] = False
        features[:, 2] = 0
        sums = PlaceSums.zeros_of(shape, 4)
        sums.add(features[:4], mask[:4])
        sums.add(features[4:], mask[4:])
        stats = sums.stats()
        assert stats.bias is not None
        every = features.astype(np.float64)[mask]
        total, between = ((every - every.mean(axis=0)) ** 2).sum(), 0.0
        for place in range(6):
            row, col = divmod(place, 3)
            real = features[mask[:, place], place].astype(np.float64)
            if not len(real):
                assert np.isnan(stats.norm[row, col])
                continue
            norms = [sum(float(x) ** 2 for x in cell) ** 0.5 for cell in real]
            assert stats.norm[row, col] == pytest.approx(np.mean(norms))
            assert stats.spread[row, col] == pytest.approx(np.std(norms), abs=1e-7)
            away = real.mean(axis=0) - every.mean(axis=0)
            assert stats.bias.distance[row, col] == pytest.approx(np.linalg.norm(away))
            between += len(real) * (away**2).sum()
        assert stats.bias.share == pytest.approx(between / total)
        assert stats.dead == [(0, 2)]
        assert stats.images == 7

    def test_cells_that_do_not_depend_on_their_place_have_the_share_of_chance(self):
        shares, chances = [], set()
        for seed in range(20):
            sums = PlaceSums.zeros_of(GridShape(4, 4), 8)
            rng = np.random.default_rng(seed)
            sums.add(rng.standard_normal((40, 16, 8)), np.ones((40, 16), bool))
            bias = sums.stats().bias
            assert bias is not None
            shares.append(bias.share)
            chances.add(bias.chance)
        assert chances == {15 / 639}
        assert np.mean(shares) == pytest.approx(15 / 639, rel=0.05)

    def test_a_position_embedding_shows(self):
        sums = PlaceSums.zeros_of(GridShape(4, 4), 8)
        positions = RNG.standard_normal((16, 8))
        content = RNG.standard_normal((40, 16, 8))
        sums.add(content + positions, np.ones((40, 16), bool))
        bias = sums.stats().bias
        assert bias is not None
        assert bias.share == pytest.approx(0.5, abs=0.1)
        assert bias.share > 10 * bias.chance


class TestSurvey:
    def test_the_first_rows_of_a_sample_do_not_depend_on_its_size(self, tmp_path):
        records = {f"i{k:02}": np.ones((1, 1, 2)) if k != 7 else None for k in range(30)}
        store = FeatureStore.open(make_store(tmp_path / "s", records))
        every = [row.image_id for row in sample_rows(store, 100, 0)]
        assert sorted(every) == list(store.ids)
        assert every != sorted(every)
        assert [row.image_id for row in sample_rows(store, 5, 0)] == every[:5]
        assert [row.image_id for row in sample_rows(store, 5, 1)] != every[:5]

    def test_it_reads_no_more_than_its_limits(self, tmp_path, monkeypatch):
        records = {f"i{k:02}": np.ones((2, 2, 4)) for k in range(30)}
        store = FeatureStore.open(make_store(tmp_path / "s", records))
        assert survey(store).records == 30
        monkeypatch.setattr(surveys, "MOST_NUMBERS", 5 * 16 + 3)
        assert survey(store).records == 5
        monkeypatch.setattr(surveys, "MOST_NUMBERS", 1)
        assert survey(store).records == 1

    def test_its_statistics_are_those_of_the_arrays(self, tmp_path):
        records = {f"i{k}": RNG.standard_normal((2, 3, 5)).astype(np.float16) for k in range(9)}
        records["nan"] = np.full((2, 3, 5), np.nan, np.float16)
        found = survey(FeatureStore.open(make_store(tmp_path / "s", records)))
        cells = np.concatenate([g.reshape(-1, 5) for i, g in records.items() if i != "nan"])
        assert found.grid is not None
        np.testing.assert_allclose(found.grid.channels.mean, cells.astype(float).mean(axis=0))
        assert [(each.image_id, each.reason) for each in found.unreadable] == [
            ("nan", "contains NaN or Inf")
        ]

    def test_a_large_grid_is_shown_by_some_of_its_cells(self, tmp_path, monkeypatch):
        grid = RNG.standard_normal((300, 5, 2)).astype(np.float16)
        store = FeatureStore.open(make_store(tmp_path / "s", {"a": grid}))
        found = survey(store)
        (picture,) = found.pictures
        assert picture.shape == (300, 5)
        assert picture.colours.shape == (75, 2, 3)  # every fourth row and col
        assert found.basis is not None
        np.testing.assert_array_equal(picture.colours, found.basis.colours(grid[::4, ::4]))
        assert len(found.places) == 1
        monkeypatch.setattr(surveys, "MOST_PLACES", 1499)
        assert survey(store).places == ()

    def test_padding_is_left_out(self, tmp_path):
        pad = {
            "step": "pad",
            "height": 64,
            "width": 128,
            "turn": False,
            "odd": "first",
            "cell": [32, 32],
        }
        resize = {"interpolation": "bicubic", "passes": "horizontal-first"}
        recipe = {
            "steps": [{"step": "fit", "height": 64, "width": 128, **resize}, {"step": "rgb"}, pad]
        }
        sizes = {"square": (64, 64), "wide": (128, 64)}
        store = padded_store(tmp_path / "s", recipe, sizes, GridShape(2, 4))
        found = survey(store)
        assert found.grid is not None
        assert found.grid.channels.n == 4 + 8  # the square covers two of four columns
        (places,) = found.places
        assert [picture.mask.sum() for picture in found.pictures] in ([4, 8], [8, 4])
        assert places.shape == (2, 4)


def test_a_histogram_has_a_column_for_each_count_above_zero():
    text = histogram(np.arange(5.0), np.array([3, 0, 1, 1000]), name="x")
    assert text.count('class="column"') == 3
    assert number_text(2640) == "2.64k"


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours (WCAG 2.2, relative luminance)."""

    def luminance(colour: str) -> float:
        shares = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted([luminance(one), luminance(other)])
    return (lighter + 0.05) / (darker + 0.05)


def test_texts_and_marks_can_be_seen_in_light_and_dark():
    light, dark = (
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", part))
        for part in PROPERTIES.split("@media (prefers-color-scheme: dark)")
    )
    assert light.keys() == dark.keys()
    for scheme in (light, dark):
        for paper in ("paper", "raised"):
            for text in ("ink", "faint", "accent"):
                assert contrast(scheme[text], scheme[paper]) >= 4.5
            for mark in ("second", "warning", "mark"):
                assert contrast(scheme[mark], scheme[paper]) >= 3
        assert contrast(scheme["ink"], scheme["warning-paper"]) >= 4.5
