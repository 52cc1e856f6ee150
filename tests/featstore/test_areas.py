"""The mask of cells that hold pixels: the rule, and a store that keeps it."""

import json
import math

import msgspec
import numpy as np
import pytest
from hostile import reseal
from hypothesis import given
from hypothesis import strategies as st
from refused import refuses
from stores import make_store, padded_store

from clipfeat.featstore import (
    CorruptStoreError,
    FeatureStore,
    GridShape,
    IndexRow,
    MissingRecordError,
    StoreError,
)
from clipfeat.featstore.audit.contents import Depth
from clipfeat.featstore.audit.repair import repair
from clipfeat.featstore.audit.verify import verify
from clipfeat.featstore.geometry import (
    BICUBIC,
    BILINEAR,
    RGB,
    Area,
    Fit,
    Pad,
    ShortestMaskRCNN,
    area_rule,
    real_area,
)
from clipfeat.featstore.lookup import LookupBuilder, lookup_bytes
from clipfeat.featstore.tables import index_batch

PRETRAIN = (
    ShortestMaskRCNN(384, 640, **BILINEAR),
    RGB(),
    Pad(384, 640, turn=True, odd="first", cell=(32, 32)),
)
# 64 x 96 pixels, 2 x 3 cells.
SMALL = {
    "name": "small",
    "steps": [
        msgspec.to_builtins(Fit(64, 96, **BICUBIC)),
        msgspec.to_builtins(Pad(64, 96, turn=False, odd="last", cell=(32, 32))),
        {"step": "rgb"},
    ],
}
SIDES = st.integers(1, 300)


class TestRule:
    @pytest.mark.parametrize(
        ("size", "area"),
        [
            ((640, 480), "12x16+0+2"),  # 512 x 384: 64 px of black left and right
            ((480, 640), "16x12+2+0"),  # 384 x 512 in 640 x 384: 64 px above and below
            ((1000, 300), "6x20+3+0"),  # 640 x 192: 96 px above and below
            ((333, 500), "18x12+1+0"),  # 384 x 576: 32 px above and below
            ((502, 500), "12x13+0+4"),  # 385 x 384: 128 px left, 127 right, a cell is cut
            ((1000, 312), "8x20+2+0"),  # 641 x 200: 92 px above and below; a pixel is cut off
            ((640, 384), None),
            ((384, 640), None),
            ((0, 0), None),
            ((5000, 2), None),  # nothing is left of it: it has no record
        ],
    )
    def test_pretraining_by_hand(self, size, area):
        area_of_image = real_area(PRETRAIN, size)
        assert (None if area_of_image is None else str(area_of_image)) == area

    @given(SIDES, SIDES, SIDES, SIDES, st.booleans(), st.sampled_from(["first", "last"]),
           st.sampled_from([(8, 8), (14, 14), (16, 8), (32, 32)]))  # fmt: skip
    def test_it_is_where_pixels_are(self, width, height, wide, high, turn, odd, cell):
        frame = (high, wide) if turn and width <= height else (wide, high)
        cols, rows = frame[0] // cell[1], frame[1] // cell[0]
        area = real_area((Pad(high, wide, turn=turn, odd=odd, cell=cell),), (width, height))
        if not rows or not cols:
            assert area is None  # no backbone takes it
            return
        margin = math.ceil if odd == "first" else math.floor
        canvas = np.zeros((frame[1], frame[0]), bool)
        left, top = (margin((f - s) / 2) for f, s in zip(frame, (width, height), strict=True))
        canvas[max(top, 0) : top + height, max(left, 0) : left + width] = True
        cells = canvas[: rows * cell[0], : cols * cell[1]]
        expected = cells.reshape(rows, cell[0], cols, cell[1]).any(axis=(1, 3))
        mask = np.ones((rows, cols), bool) if area is None else area.mask(GridShape(rows, cols))
        np.testing.assert_array_equal(mask, expected)
        assert area is None or not expected.all()

    @pytest.mark.parametrize(
        "recipe",
        [
            {"name": "test"},
            {"steps": 5},
            {"steps": [{"step": "rgb"}]},
            {"steps": [{"step": "pad"}]},
            {"steps": SMALL["steps"] * 6},
            {**SMALL, "views": 36},
        ],
    )
    def test_recipes_that_say_nothing_of_padding(self, recipe):
        assert area_rule(recipe) is None

    @pytest.mark.parametrize(
        "text", ["", "1x1", "1x1+0", "0x1+0+0", "01x1+0+0", "1x1+0+0 ", "1x1-1+0", "1x99999+0+0"]
    )
    def test_other_texts_are_not_areas(self, text):
        with refuses("E-STORE-AREA", repr(text), kind=StoreError):
            Area.parse(text)

    def test_a_text_comes_back(self):
        assert str(Area.parse("12x16+0+2")) == "12x16+0+2"


# Sizes of files, and which of the 2 x 3 cells hold pixels of them, by hand.
MASKS = {
    "a": ((96, 64), [[1, 1, 1], [1, 1, 1]]),
    "b": ((64, 64), [[1, 1, 1], [1, 1, 1]]),  # 16 px of black left and right: no whole cell
    "c": ((10, 20), [[0, 1, 0], [0, 1, 0]]),  # 32 x 64, 32 px left and right
    "d": ((960, 10), [[1, 1, 1], [0, 0, 0]]),  # 96 x 1, 31 px above: in the first row alone
    "e": ((20, 40), [[0, 1, 0], [0, 1, 0]]),
}


class TestStore:
    @pytest.fixture
    def store(self, tmp_path):
        sizes = {image_id: size for image_id, (size, _) in MASKS.items()}
        return padded_store(tmp_path / "s", SMALL, sizes, GridShape(2, 3))

    def test_it_keeps_the_mask_and_the_features_of_all_cells(self, store):
        assert store.metadata.areas == ("1x3+0+0", "2x1+0+1")
        batch = store.read(list(MASKS))
        for k, (image_id, (_, mask)) in enumerate(MASKS.items()):
            np.testing.assert_array_equal(store.mask(image_id), np.array(mask, bool))
            np.testing.assert_array_equal(batch.mask[k], store.mask(image_id).ravel())
            np.testing.assert_array_equal(batch.features[k], store[image_id].reshape(6, 4))
        assert (batch.features != 0).all()
        assert (batch.grid_shapes == (2, 3)).all()
        assert "c" in store
        assert store.statuses(["c", "d", "x"]) == ["ok", "ok", None]
        assert verify(store.path, Depth.DEEP) == []

    def test_padding_of_a_batch_comes_on_top(self, store, tmp_path):
        out = np.full((2, 9, 4), 7, np.float16)
        batch = store.read(["c", "a"], out=out)
        assert batch.mask.astype(int).tolist() == [
            [0, 1, 0, 0, 1, 0, 0, 0, 0],
            [1, 1, 1, 1, 1, 1, 0, 0, 0],
        ]
        assert (batch.features[:, 6:] == 0).all()

    def test_refused_ids_have_none(self, tmp_path):
        sizes = {"a": (96, 64), "b": None}
        store = padded_store(tmp_path / "s", SMALL, sizes, GridShape(2, 3))
        assert "areas" not in store.metadata.to_json()
        with refuses("E-STORE-NO-RECORD", kind=MissingRecordError):
            store.mask("b")

    def test_a_store_without_padding_knows_no_areas(self, tmp_path):
        path = make_store(tmp_path / "s", {"a": np.ones((2, 3, 4), np.float16)})
        assert "areas" not in json.loads((path / "store.json").read_text())
        assert FeatureStore.open(path).mask("a").all()

    def test_a_new_area_changes_the_numbers_of_old_ones(self, tmp_path):
        sizes = {image_id: size for image_id, (size, _) in MASKS.items()}
        few = {image_id: sizes[image_id] for image_id in "abc"}
        store = padded_store(tmp_path / "s", SMALL, few, GridShape(2, 3))
        assert store.metadata.areas == ("2x1+0+1",)
        grown = padded_store(store.path, SMALL, sizes, GridShape(2, 3), parent=store)
        assert grown.metadata.areas == ("1x3+0+0", "2x1+0+1")
        for image_id, (_, mask) in MASKS.items():
            np.testing.assert_array_equal(grown.mask(image_id), np.array(mask, bool))
        assert not store.mask("c")[:, 0].any()  # opened before, it reads what it has opened
        assert verify(grown.path) == []

    def test_repair_makes_the_look_up_anew(self, store):
        before = (store.path / "lookup.bin").read_bytes()
        (store.path / "lookup.bin").write_bytes(before[:-1] + b"\0")
        assert repair(store.path).mended == ("lookup.bin",)
        assert (store.path / "lookup.bin").read_bytes() == before

    @pytest.mark.parametrize(
        ("areas", "name"),
        [
            ("2x1+0+1", "'2x1+0+1'"),
            (["2x1+0+1", "1x3+0+0"], "sorted"),
            (["1x3+0+0", "1x3+0+0"], "duplicates"),
            (["1x3+0+0", "2x1+0+3"], "2x1+0+3"),
            (["1x3+0+0", 5], "areas.1: expected str; got 5"),
            ([[1, 2, 3, 4]], "areas.0"),
            (["1x3"], "'1x3'"),
            ([f"1x1+0+{k}" for k in range(256)], "255"),
        ],
    )
    def test_areas_that_make_no_sense_are_refused(self, store, areas, name):
        reseal(store.path, areas=areas)
        with refuses("E-STORE-METADATA", "areas", name, kind=StoreError):
            FeatureStore.open(store.path)

    def test_fewer_areas_than_the_look_up_names(self, store):
        reseal(store.path, areas=["1x3+0+0"])
        opened = FeatureStore.open(store.path)
        assert opened.mask("d").tolist() == [[True] * 3, [False] * 3]
        for read in (opened.mask, opened.__getitem__, lambda i: opened.read([i])):
            with refuses("E-LOOKUP-PLACE", "unknown area", kind=CorruptStoreError):
                read("c")
        problems = {problem.problem for problem in verify(store.path)}
        assert "areas are not those of the index and the recipe" in problems

    def test_an_area_outside_of_a_records_grid(self, tmp_path):
        sizes = {"a": (960, 10), "b": (20, 40)}
        shapes = {"a": GridShape(2, 3), "b": GridShape(1, 2)}  # of another backbone, or forged
        store = padded_store(tmp_path / "s", SMALL, sizes, shapes)
        assert store.mask("a").sum() == 3
        for read in (store.mask, store.__getitem__, lambda i: store.read([i])):
            with refuses("E-LOOKUP-PLACE", "2x1+0+1", "1x2", kind=CorruptStoreError):
                read("b")

    def test_a_look_up_with_another_area_is_found_by_verify(self, store):
        builder = LookupBuilder(["2x3"], {})  # as if there were no padding
        for batch in store.index_batches():
            builder.add(batch)
        (store.path / "lookup.bin").write_bytes(lookup_bytes(builder.columns()))
        reseal(store.path)
        assert FeatureStore.open(store.path).mask("c").all()
        problems = [(problem.path, problem.problem) for problem in verify(store.path)]
        assert ("lookup.bin", "is not that of the index") in problems


def test_a_store_holds_255_areas():
    frame = Pad(4096, 4096, turn=False, odd="last", cell=(14, 14))
    builder = LookupBuilder(["292x292"], {"steps": [msgspec.to_builtins(frame)]})
    rows = [
        IndexRow(str(k), "ok", "", "292x292", k, 4096, k, "", "", "00000000")
        for k in range(1, 4096, 14)
    ]
    builder.add(index_batch(rows[:255]))
    with refuses("E-STORE-AREAS", "255", kind=StoreError):
        builder.add(index_batch([rows[255]]))
    builder.add(index_batch([rows[0]._replace(image_id="again")]))
    assert len(builder.areas) == 255
    assert list(builder.areas) == list(map(str, sorted(map(Area.parse, builder.areas))))
