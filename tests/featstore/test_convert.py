"""Converted stores: smaller numbers, a measured loss, an identity of their own."""

import json
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from refused import refuses
from stores import make_identity, make_store

from clipfeat.base.errors import UsageError
from clipfeat.cli.main import clipfeat
from clipfeat.featstore import (
    CorruptStoreError,
    FeatureStore,
    GridShape,
    StoreError,
    convert,
    subset,
    verify,
    write_store,
)
from clipfeat.featstore.audit.contents import Depth
from clipfeat.featstore.deriving import convert as convert_module
from clipfeat.featstore.deriving import derive
from clipfeat.featstore.deriving.numbers import rounded

RNG = np.random.default_rng(0)
DIM = 8


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A store of two grid shapes; a channel has negative numbers, and one is always 0."""
    grids: dict[str, np.ndarray | None] = {"gone": None}
    for k in range(20):
        grid = np.maximum(RNG.standard_normal(((3, 4), (2, 3))[k % 2] + (DIM,)), 0)
        grid[..., 0] -= 1
        grid[..., 1] = 0
        grids[f"i{k}"] = grid.astype(np.float16)
    return FeatureStore.open(make_store(tmp_path_factory.mktemp("c") / "s", grids, shard_size=4))


def cells_of(store):
    return np.concatenate([store[image_id].reshape(-1, DIM) for image_id in store.ids])


@pytest.mark.parametrize(
    "options",
    [{"dtype": "uint8"}, {"mantissa_bits": 7}, {"codec": "none"}, {"dtype": "float32"}],
    ids=lambda options: "-".join(map(str, options.values())),
)
class TestConvert:
    def test_it_has_the_same_ids_and_an_identity_of_its_own(self, source, tmp_path, options):
        store = convert(source, tmp_path / "o", **options)
        assert store.ids == source.ids
        assert store.statuses(["gone", "i0"]) == source.statuses(["gone", "i0"])
        origin = store.identity.derived_from
        assert origin is not None
        assert (origin.digest, origin.operation) == (source.digest, "convert")
        assert {key: origin.settings[key] for key in options} == options
        assert store.identity.to_json() != source.identity.to_json()
        assert verify(store.path, Depth.DEEP) == []
        old = {row.image_id: row for row in source.index}
        for row in store.index:
            before = old[row.image_id]
            assert (row.status, row.reason, row.source) == (
                before.status,
                before.reason,
                before.source,
            )

    def test_the_loss_is_that_of_what_readers_get(self, source, tmp_path, options):
        store = convert(source, tmp_path / "o", **options)
        x, y = cells_of(source).astype(np.float64), cells_of(store).astype(np.float64)
        loss = store.metadata.loss
        assert loss is not None
        cosines = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
        assert loss.cosine_distance == pytest.approx(1 - cosines.mean(), abs=1e-7)
        assert loss.relative_l2 == pytest.approx(
            np.linalg.norm(x - y) / np.linalg.norm(x), rel=1e-4
        )
        assert loss.largest == pytest.approx(np.abs(x - y).max(), rel=1e-4)
        assert loss.relative_l2 < 5e-3

    def test_a_second_run_changes_nothing(self, source, tmp_path, options):
        store = convert(source, tmp_path / "o", **options)
        text = (store.path / "store.json").read_text()
        assert convert(source, tmp_path / "o", **options).digest == store.digest
        assert (store.path / "store.json").read_text() == text


class TestUint8:
    def test_values_are_low_and_steps(self, source, tmp_path):
        store = convert(source, tmp_path / "o", dtype="uint8")
        values = cells_of(source).astype(np.float32)
        scale: Any = zarr.open_array(store.path / "features.zarr/scale", mode="r")
        low, step = scale[:]
        assert np.array_equal(low, np.minimum(values.min(0), 0))
        assert np.allclose(step, (values.max(0) - low) / 255)
        ids = list(store.ids)
        raw, read = store.read(ids, raw=True), store.read(ids)
        assert (raw.features.dtype, read.features.dtype) == (np.uint8, np.float16)
        by_hand = (raw.features * step + low).astype(np.float16)
        assert np.array_equal(read.features[read.mask], by_hand[read.mask])
        group: Any = store.zarr()
        row = next(row for row in store.index if row.image_id == "i1")
        assert np.array_equal(
            group["2x3/grid"][row.row].reshape(6, DIM), raw.features[ids.index("i1"), :6]
        )

    def test_zeros_of_a_relu_stay_zeros_and_nothing_is_clipped(self, source, tmp_path):
        store = convert(source, tmp_path / "o", dtype="uint8")
        x, y = cells_of(source), cells_of(store)
        assert not y[:, 1:][x[:, 1:] == 0].any()
        assert store.scale is not None
        assert (np.abs(x.astype(np.float32) - y) <= store.scale.step * 0.51 + 2e-3).all()

    def test_the_bounds_are_measured_once(self, source, tmp_path, monkeypatch):
        whole = convert(source, tmp_path / "whole", dtype="uint8")
        with monkeypatch.context() as patch:
            patch.setattr(convert_module, "as_stored", lambda *_: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                convert(source, tmp_path / "o", dtype="uint8")
        with monkeypatch.context() as patch:
            patch.setattr(convert_module, "measure_bounds", lambda _: 1 // 0)
            for _ in range(2):  # it continues, and is finished
                assert convert(source, tmp_path / "o", dtype="uint8").digest == whole.digest
        other = subset(source, tmp_path / "other", ids=["i0"])  # with other bounds
        with refuses("E-STORE-OTHER", kind=StoreError):
            convert(other, tmp_path / "o", dtype="uint8")

    def test_a_changed_scale_is_found(self, source, tmp_path):
        store = convert(source, tmp_path / "o", dtype="uint8")
        file = store.path / "features.zarr/scale/c.0.0"
        content = bytearray(file.read_bytes())
        content[3] ^= 1
        file.write_bytes(content)
        with refuses("E-STORE-SCALE", kind=CorruptStoreError):
            FeatureStore.open(store.path)
        assert [problem.path for problem in verify(store.path)] == ["features.zarr/scale/c.0.0"]
        file.unlink()
        with refuses("E-STORE-SCALE", kind=CorruptStoreError):
            FeatureStore.open(store.path)


class TestRounded:
    @pytest.mark.parametrize("bits", range(1, 10))
    def test_it_is_the_nearest_number_of_so_few_bits(self, bits):
        numbers = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
        numbers = numbers[np.isfinite(numbers)]
        few = rounded(numbers, bits)
        drop = 10 - bits
        assert not (few.view(np.uint16) & ((1 << drop) - 1)).any()
        grid = np.unique(
            numbers[(numbers.view(np.uint16) & ((1 << drop) - 1)) == 0].astype(np.float64)
        )
        wide = numbers.astype(np.float64)
        above = np.clip(np.searchsorted(grid, wide), 1, len(grid) - 1)
        nearest = np.minimum(np.abs(wide - grid[above - 1]), np.abs(wide - grid[above]))
        assert np.array_equal(np.abs(few.astype(np.float64) - wide), nearest)

    def test_a_tie_goes_to_the_even_one(self):
        ties = np.array([1 + 1 / 64, 1 + 3 / 64], np.float16)  # between 1, 1 + 1/32, 1 + 2/32
        assert rounded(ties, 5).tolist() == [1, 1 + 2 / 32]


def test_a_number_beyond_float16_is_refused(tmp_path):
    grid = np.full((1, 1, 2), 70000, np.float32)
    store = FeatureStore.open(make_store(tmp_path / "s", {"a": grid}, dtype="float32"))
    with refuses("E-STORE-RANGE", "7e+04", kind=StoreError):
        convert(store, tmp_path / "o", dtype="float16")


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    grid = np.array([[[1, np.nan]]], np.float16)
    store = FeatureStore.open(make_store(tmp_path / "s", {"a": grid}))
    with refuses("E-STORE-NUMBERS", kind=StoreError):
        convert(store, tmp_path / "o", codec="none")
    with refuses("E-STORE-RANGE", kind=StoreError):
        convert(store, tmp_path / "p", dtype="uint8")


def test_grids_that_no_reader_accepts_are_refused(source, tmp_path, monkeypatch):
    monkeypatch.setattr(derive, "MAX_RECORD_BYTES", 3 * 4 * DIM * 2)
    convert(source, tmp_path / "o", codec="none")
    with refuses("E-DERIVE-SIZE", "3x4", kind=UsageError):
        convert(source, tmp_path / "p", dtype="float32")
    assert not (tmp_path / "p").exists()


def test_what_no_option_names_stays(source, tmp_path):
    few = convert(source, tmp_path / "few", mantissa_bits=5)
    assert convert(few, tmp_path / "a", codec="none").identity.mantissa_bits == 5
    small = convert(source, tmp_path / "small", dtype="uint8")
    raw = convert(small, tmp_path / "b", codec="none")
    assert raw.identity.scale_sha256 == small.identity.scale_sha256
    ids = list(small.ids)
    old, new = (store.read(ids, raw=True).features for store in (small, raw))
    assert np.array_equal(old, new)
    assert raw.metadata.loss is not None
    assert raw.metadata.loss.largest == 0


def test_a_store_without_a_record_is_converted(tmp_path):
    identity = make_identity(2)
    store = write_store(tmp_path / "s", identity, {"a": GridShape(1, 1)}, lambda _: None)
    few = convert(store, tmp_path / "few", dtype="uint8")
    for new in (few, convert(few, tmp_path / "raw", codec="none")):
        assert (len(new), new.statuses(["a"])) == (0, ["missing"])
        assert verify(new.path, Depth.DEEP) == []


@pytest.mark.parametrize(
    "options", [{"mantissa_bits": 10}, {"mantissa_bits": 4, "dtype": "uint8"}], ids=str
)
def test_options_that_exclude_each_other_are_refused(source, tmp_path, options):
    with refuses("E-STORE-CONVERT", kind=UsageError):
        convert(source, tmp_path / "o", **options)


def test_a_store_is_not_converted_onto_itself_or_another(source, tmp_path):
    with refuses("E-DERIVE-OUT", kind=UsageError):
        convert(source, source.path, dtype="uint8")
    convert(source, tmp_path / "o", codec="none")
    with refuses("E-STORE-OTHER", "dtype", kind=StoreError):
        convert(source, tmp_path / "o", dtype="uint8")


def test_the_command_says_what_was_lost(source, tmp_path):
    out = tmp_path / "o"
    done = CliRunner().invoke(
        clipfeat, ["store", "convert", str(source.path), str(out), "--dtype", "uint8"]
    )
    assert done.exit_code == 0
    assert f"from      sha256:{source.digest}, by convert (dtype uint8)" in done.output
    assert "loss      cosine distance" in done.output
    done = CliRunner().invoke(
        clipfeat, ["store", "convert", str(source.path), str(out), "--json", "--dtype", "uint8"]
    )
    assert json.loads(done.output)["loss"]["relative_l2"] > 0
    done = CliRunner().invoke(clipfeat, ["store", "convert", str(source.path), str(tmp_path / "p")])
    assert isinstance(done.exception, UsageError)
    assert done.exception.code == "E-STORE-CONVERT"
