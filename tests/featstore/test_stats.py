"""Statistics of a store are those of its arrays, taken whole, with numpy in float64."""

from pathlib import Path

import numpy as np
import pytest
from refused import refuses
from stores import make_identity, make_store

from clipfeat.featstore import CorruptStoreError, FeatureStore, GridShape, StoreError
from clipfeat.featstore.layout import Grids, lay_out
from clipfeat.featstore.lookup import Status
from clipfeat.featstore.report import stats
from clipfeat.featstore.report.moments import Covariance, Moments
from clipfeat.featstore.report.spectrum import Spectrum, sampled_cells
from clipfeat.featstore.report.stats import EDGES, VectorStats, stats_text, store_stats
from clipfeat.featstore.shards import RecordHashes, as_bytes, encode
from clipfeat.featstore.tables import IndexRow
from clipfeat.featstore.writing.writer import ShardTransaction, StoreWriter, write_store

DIM = 12
DEAD, CONSTANT = 3, 7


def ragged(seed=0):
    """Return records of two grid shapes with a dead and a constant channel.

    Channels are far from 0 and close to it, wide and narrow.
    """
    rng = np.random.default_rng(seed)
    mean, spread = rng.normal(0, 20, DIM), 10.0 ** rng.uniform(-2, 1, DIM)
    records = {}
    for k in range(23):
        rows, cols = (2, 3) if k % 3 else (4, 1)
        grid = mean + spread * rng.standard_normal((rows, cols, DIM))
        grid[rng.random(grid.shape) < 0.3] = 0
        grid[..., DEAD], grid[..., CONSTANT] = 0, -1.5
        records[f"i{k:02}"] = grid.astype(np.float16)
    return records


def cells_of(records):
    return np.concatenate([g.reshape(-1, DIM) for g in records.values() if g is not None]).astype(
        np.float64
    )


def assert_sums(result: VectorStats, vectors: np.ndarray):
    channels = result.channels
    assert channels.n == len(vectors)
    np.testing.assert_allclose(channels.mean, vectors.mean(0), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(channels.std, vectors.std(0), rtol=1e-13)
    np.testing.assert_array_equal(channels.low, vectors.min(0))
    np.testing.assert_array_equal(channels.high, vectors.max(0))
    np.testing.assert_array_equal(channels.zero_rate, (vectors == 0).mean(0))
    norms = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(result.norms.mean, [norms.mean()], rtol=1e-13)
    np.testing.assert_allclose(result.norms.std, [norms.std()], rtol=1e-12)
    np.testing.assert_allclose(result.norms.high, [norms.max()], rtol=1e-15)
    assert result.norms.zeros.item() == (norms == 0).sum()
    edges, counts = result.histogram()
    np.testing.assert_array_equal(counts, np.histogram(norms[norms > 0], edges)[0])
    assert counts.sum() == (norms > 0).sum()
    assert (counts[0] > 0, counts[-1] > 0) == (True, True)


def test_grids_of_all_shapes_and_no_refused_image(tmp_path):
    records = {**ragged(), "gone": None}
    result = store_stats(FeatureStore.open(make_store(tmp_path / "s", records)))
    assert_sums(result.grid, cells_of(records))
    assert (result.records, result.pooled) == (23, None)
    assert (result.grid.channels.dead, result.grid.channels.constant) == ([DEAD], [CONSTANT])
    assert result.grid.channels.std[CONSTANT] == 0
    written = result.to_json()
    assert (written["cells"], written["pooled"]) == (len(cells_of(records)), None)
    assert written["grid"]["channels"]["mean"] == result.grid.channels.mean.tolist()


def test_blocks_threads_and_the_tree_do_not_show(tmp_path, monkeypatch):
    records = ragged()
    store = FeatureStore.open(make_store(tmp_path / "s", records, shard_size=1))
    first = store_stats(store).to_json()
    assert store_stats(store).to_json() == first
    monkeypatch.setattr(stats, "thread_count", lambda: 1)
    assert store_stats(store).to_json() == first
    monkeypatch.setattr(stats, "BLOCK_NUMBERS", 2 * DIM)
    monkeypatch.setattr(stats, "FAN_IN", 2)
    assert_sums(store_stats(store).grid, cells_of(records))


def test_small_records_are_read_many_at_a_time(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    records = {f"{k:03}": rng.normal(5, 3, (1, 2, 4)).astype(np.float16) for k in range(100)}
    store = FeatureStore.open(make_store(tmp_path / "s", records, shard_size=40))
    sizes = []
    monkeypatch.setattr(stats, "store_spectrum", lambda _: None)  # which reads a sample
    read = FeatureStore.read
    monkeypatch.setattr(FeatureStore, "read", lambda s, ids: sizes.append(len(ids)) or read(s, ids))
    result = store_stats(store)
    assert sorted(sizes) == [20, 40, 40]
    numbers = np.stack(list(records.values())).reshape(-1, 4).astype(np.float64)
    np.testing.assert_allclose(result.grid.channels.mean, numbers.mean(0), rtol=1e-13)
    monkeypatch.setattr(stats, "BLOCK_NUMBERS", 7 * 8)  # seven records
    sizes.clear()
    again = store_stats(store)
    assert sorted(sizes) == [5, 5, 6, *[7] * 12]
    np.testing.assert_allclose(again.grid.channels.std, numbers.std(0), rtol=1e-13)


def make_pooled_store(path: Path, records: dict[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    """Write `{image_id: (grid, pooled vector)}` as a finished store of float32."""
    pooled_dim = len(next(iter(records.values()))[1])
    identity = make_identity(DIM, "none", dtype="float32", pooled_dim=pooled_dim)
    layout = lay_out(
        Grids.of({i: GridShape(*grid.shape[:2]) for i, (grid, _) in records.items()}), 4
    )
    with StoreWriter(path, identity, layout) as writer:
        for shard in writer.pending:
            with ShardTransaction(path, identity, 4, shard, libraries={}) as files:
                rows = []
                for image_id, row in zip(shard.ids, shard.rows, strict=True):
                    arrays = zip(("grid", "pooled"), records[image_id], strict=True)
                    encoded = {
                        name: encode("none", as_bytes(array.astype("<f4")))
                        for name, array in arrays
                    }
                    files.append(row - shard.first_row, encoded)
                    hashes = RecordHashes.of(encoded.values())
                    rows.append(
                        IndexRow(
                            image_id, Status.OK, "", str(shard.shape), row, 0, 0, "", "", *hashes
                        )
                    )
                files.commit(tuple(rows))
        writer.commit()
    return path


def test_pooled_vectors_have_statistics_of_their_own(tmp_path):
    rng = np.random.default_rng(1)
    pooled = {i: rng.standard_normal(5).astype(np.float32) for i in ragged()}
    for vector in pooled.values():
        vector[2] = 0.25
    records = {i: (grid, pooled[i]) for i, grid in ragged().items()}
    result = store_stats(FeatureStore.open(make_pooled_store(tmp_path / "s", records)))
    assert_sums(result.grid, cells_of(ragged()))
    assert result.pooled is not None
    assert_sums(result.pooled, np.stack(list(pooled.values())).astype(np.float64))
    assert (result.pooled.channels.dead, result.pooled.channels.constant) == ([], [2])
    text = stats_text(result)
    assert "pooled vectors: 23 of 5 channels" in text
    assert "1 of 5 are constant channels (one other value in all pooled vectors): 2" in text


@pytest.mark.parametrize("offset", [1.0, 3e4, 1e30])
def test_a_narrow_spread_about_a_large_mean_keeps_its_digits(offset):
    rng = np.random.default_rng(0)
    numbers = (offset * (1 + 1e-6 * rng.standard_normal((4096, 2)))).astype(np.float32)
    blocks = np.array_split(numbers.astype(np.float64), 77)
    merged = Moments.of(blocks[0])
    for block in blocks[1:]:
        merged = merged.merged(Moments.of(block))
    exact = numbers.astype(np.longdouble).std(axis=0)
    np.testing.assert_allclose(merged.std, exact.astype(np.float64), rtol=1e-11)


def test_every_norm_that_a_store_can_hold_has_a_bin():
    smallest, largest = np.float32(2**-149), np.finfo(np.float32).max
    vectors = np.zeros((2, 1 << 16))
    vectors[0, 0], vectors[1] = smallest, largest
    result = VectorStats.of(vectors)
    assert result.counts.sum() == 2
    assert np.flatnonzero(result.counts)[0] == 0
    assert result.norms.high.item() < EDGES[-1]


@pytest.mark.parametrize("most_bins", [2, 3, 16, 500])
def test_joined_bins_hold_the_same_vectors(most_bins):
    rng = np.random.default_rng(0)
    vectors = 10.0 ** rng.uniform(-3, 3, (500, 1)) * rng.standard_normal((500, 4))
    result = VectorStats.of(vectors)
    edges, counts = result.histogram(most_bins)
    assert len(counts) <= most_bins
    assert len(edges) == len(counts) + 1
    norms = np.linalg.norm(vectors, axis=1)
    np.testing.assert_array_equal(counts, np.histogram(norms, edges)[0])


def test_nothing_but_zeros(tmp_path):
    zeros = {"a": np.zeros((1, 2, 4), np.float16)}
    result = store_stats(FeatureStore.open(make_store(tmp_path / "s", zeros)))
    assert result.grid.channels.dead == [0, 1, 2, 3]
    assert result.to_json()["grid"]["norms"]["counts"] == []
    assert "2 of 2 cells are 0 in every channel" in stats_text(result)


def test_one_cell_has_no_constant_channel(tmp_path):
    one = {"a": np.ones((1, 1, 4), np.float16)}
    result = store_stats(FeatureStore.open(make_store(tmp_path / "s", one)))
    assert result.grid.channels.constant == []
    assert "No channel is dead or constant" in stats_text(result)


def test_a_store_without_a_record_is_refused(tmp_path):
    shapes = {"a": GridShape(1, 1), "b": GridShape(2, 2)}
    store = write_store(tmp_path / "s", make_identity(DIM), shapes, lambda _: None)
    with refuses("E-STORE-EMPTY", "clipfeat store ls", kind=StoreError):
        store_stats(store)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_named(tmp_path, value):
    records = ragged()
    records["i05"][0, 0, 4] = value
    store = FeatureStore.open(make_store(tmp_path / "s", records))
    with refuses("E-STORE-NUMBERS", "'i05'", "verify --deep", kind=StoreError):
        store_stats(store)


@pytest.mark.parametrize("codec", ["zstd", "none"])
def test_a_flipped_bit_is_an_error(tmp_path, codec):
    path = make_store(tmp_path / "s", ragged(), codec)
    shard = path / "features.zarr/2x3/grid/c.1.0.0.0"
    content = bytearray(shard.read_bytes())
    content[40] ^= 4
    shard.write_bytes(content)
    with refuses("E-SHARD-DATA", "c.1.0.0.0", "clipfeat store verify", kind=CorruptStoreError):
        store_stats(FeatureStore.open(path))


def test_the_spectrum_is_that_of_the_covariance_of_all_cells(tmp_path):
    records = ragged()
    result = store_stats(FeatureStore.open(make_store(tmp_path / "s", records)))
    variances = np.linalg.eigvalsh(np.cov(cells_of(records).T, bias=True))[::-1]
    spectrum = result.spectrum
    assert spectrum is not None
    assert spectrum.cells == len(cells_of(records))  # few enough to take all
    np.testing.assert_allclose(spectrum.variances[:10], variances[:10], rtol=1e-9)
    assert spectrum.variances[10:].tolist() == [0, 0]  # the dead and the constant channel
    shares = variances.cumsum() / variances.sum()
    assert [spectrum.share(n) for n in (1, 10)] == pytest.approx([shares[0], shares[9]], rel=1e-9)
    alive = cells_of(records)[:, cells_of(records).std(axis=0) > 0]
    share = np.linalg.eigvalsh(np.corrcoef(alive.T))[-1] / alive.shape[1]
    assert spectrum.standardised == pytest.approx(share, rel=1e-2)  # the floor adds 1e-4
    assert spectrum.condition == np.inf
    assert result.to_json()["spectrum"]["condition"] is None
    text = stats_text(result)
    assert f"variance in the first   1, %{100 * shares[0]:>16.4g}" in text
    assert "condition number of the first  12        inf" in text


def test_the_condition_number_compares_the_first_direction_with_the_100th():
    variances = 2.0 ** -np.arange(128)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(128, 128)))[0]
    few = Spectrum.of(Covariance(1, np.zeros(128), turn[:30] @ turn[:30].T))
    assert few.condition == pytest.approx(1)
    many = Spectrum(1, variances, 0.5)
    assert many.condition == 2.0**99
    assert many.to_json()["shares"] == pytest.approx({"1": 0.5, "10": 1 - 2**-10, "100": 1})


def test_a_covariance_of_blocks_is_that_of_all_their_vectors():
    rng = np.random.default_rng(0)
    vectors = 1e4 + rng.normal(size=(500, 5)) @ rng.normal(size=(5, 5))
    blocks = np.split(vectors, [3, 3, 40, 41, 300])
    result = Covariance.of(blocks, 5)
    assert result.n == 500
    np.testing.assert_allclose(result.mean, vectors.mean(axis=0), rtol=1e-15)
    np.testing.assert_allclose(result.matrix, np.cov(vectors.T, bias=True), rtol=1e-10)


def test_a_sample_takes_an_equal_share_of_large_grids_and_all_of_small_ones(tmp_path):
    large = {f"l{k:03}": np.full((20, 20, 2), k, np.float16) for k in range(150)}
    small = {f"s{k:03}": np.full((2, 2, 2), 1000 + k, np.float16) for k in range(150)}
    store = FeatureStore.open(make_store(tmp_path / "s", large | small, shard_size=150))
    cells = np.concatenate(list(sampled_cells(store, store.ids, seed=0)))[:, 0]
    _, counts = np.unique(cells, return_counts=True)
    assert set(counts) == {4, 64}  # 16,384 cells of 256 records are 64 of each
    assert len(counts) == 300  # 256 would have too few cells
    assert len(cells) == 150 * 64 + 150 * 4


def test_a_sample_of_many_records_has_no_more_than_it_needs(tmp_path):
    grids = {f"{k:03}": np.full((20, 20, 2), k, np.float16) for k in range(300)}
    store = FeatureStore.open(make_store(tmp_path / "s", grids, shard_size=300))
    first, again, other = (
        np.concatenate(list(sampled_cells(store, store.ids, seed=seed))) for seed in (0, 0, 1)
    )
    assert first.shape == (256 * 64, 2)
    assert (first == again).all()
    assert set(first[:, 0]) != set(other[:, 0])


def test_a_wide_store_has_no_spectrum(tmp_path):
    wide = {"a": np.ones((1, 2, 6145), np.float16)}
    result = store_stats(FeatureStore.open(make_store(tmp_path / "s", wide)))
    assert result.spectrum is None
    assert result.to_json()["spectrum"] is None
    assert "principal directions" not in stats_text(result)
