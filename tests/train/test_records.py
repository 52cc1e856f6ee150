"""Records as tensors: from the disk, from a cache, ragged, and in bounded memory."""

from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from refused import refuses
from stores import make_store

from clipfeat.base.errors import UsageError
from clipfeat.featstore import FeatureStore, GridShape, MissingRecordError
from clipfeat.featstore.deriving.pool import adaptive_average
from clipfeat.train.records import RecordReader

CPU = torch.device("cpu")
RANDOM = np.random.default_rng(0)
GRIDS = {
    f"{n:02}": RANDOM.normal(size=(rows, 3, 8)).astype(np.float16)
    for n, rows in enumerate((2, 4, 3, 2, 1))
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    path = tmp_path_factory.mktemp("stores") / "s.clipfeat"
    return FeatureStore.open(make_store(path, {**GRIDS, "gone": None}))


@pytest.mark.parametrize("cache", ["none", "memory", "device"])
def test_records_are_those_of_the_store(store: FeatureStore, cache: str) -> None:
    reader = RecordReader(store, CPU, cache)
    for ids in (["03", "00"], ["01", "04", "00"], ["01"], ["04", "02", "01", "00", "03"]):
        features, mask, shapes, boxes = reader.read(ids)
        assert not boxes.numel()
        assert features.dtype == torch.float16
        assert features.shape[1] == max(GRIDS[image_id].shape[0] for image_id in ids) * 3
        for row, image_id in enumerate(ids):
            grid = GRIDS[image_id].reshape(-1, 8)
            assert shapes[row].tolist() == list(GRIDS[image_id].shape[:2])
            assert mask[row].tolist() == [True] * len(grid) + [False] * (len(mask[row]) - len(grid))
            np.testing.assert_array_equal(features[row, : len(grid)], grid)
            assert features[row, len(grid) :].abs().sum() == 0


def test_a_cache_reads_a_record_once(store: FeatureStore, monkeypatch) -> None:
    asked: list[str] = []
    read = FeatureStore.read

    def spied(self, ids, out=None):
        asked.extend(ids)
        return read(self, ids, out)

    monkeypatch.setattr(FeatureStore, "read", spied)
    reader = RecordReader(store, CPU, "memory")
    for ids in (["00", "01"], ["01", "02"], ["02", "00"]):
        reader.read(ids)
    assert asked == ["00", "01", "02"]


def test_a_batch_is_not_overwritten_while_others_are_read(store: FeatureStore) -> None:
    reader = RecordReader(store, CPU)
    first = reader.read(["00", "03"])
    before = first.features.clone()
    for _ in range(20):
        reader.read(["01", "02"])
    assert torch.equal(first.features, before)


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_an_image_without_features_raises(store: FeatureStore, cache: str) -> None:
    with pytest.raises(MissingRecordError, match="'gone' has no record"):
        RecordReader(store, CPU, cache).read(["00", "gone"])


def test_a_cache_that_does_not_fit_is_refused(store: FeatureStore, monkeypatch) -> None:
    # 12 rows of 3 cells of 8 float16 channels
    needed = 12 * 3 * 8 * 2
    free = psutil.virtual_memory()._replace(available=int(needed / 0.9) + 1)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    reader = RecordReader(store, CPU, "memory")
    reader.require_room(GRIDS, processes=1)
    with refuses("E-RUN-CACHE", "cache memory", "5 records", kind=UsageError):
        reader.require_room(GRIDS, processes=2)
    RecordReader(store, CPU).require_room(GRIDS, processes=1000)


def test_reading_a_store_again_and_again_takes_no_more_memory(tmp_path: Path) -> None:
    grids = {f"{n:03}": RANDOM.normal(size=(8, 8, 256)).astype(np.float16) for n in range(64)}
    store = FeatureStore.open(make_store(tmp_path / "s.clipfeat", grids, shard_size=16))
    reader = RecordReader(store, CPU)
    process = psutil.Process()

    def epoch(seed: int) -> int:
        order = np.random.default_rng(seed).permutation(sorted(grids))
        for start in range(0, 64, 16):
            reader.read(order[start : start + 16].tolist())
        return process.memory_info().rss

    before = [epoch(seed) for seed in range(10)][-1]
    after = [epoch(seed) for seed in range(10, 60)][-1]
    # 200 batches of 524 kB were read in between: 105 MB, had they stayed
    assert after - before < 8 << 20


@pytest.mark.parametrize("size", [(14, 14), (9, 12), (5, 3)])
def test_pooled_grids_are_those_of_torch(size: tuple[int, int]) -> None:
    grid = RANDOM.normal(size=(*size, 8)).astype(np.float32)
    pooled = torch.nn.functional.adaptive_avg_pool2d(torch.tensor(grid).permute(2, 0, 1), (7, 5))
    means = torch.tensor(adaptive_average(grid, GridShape(7, 5)))
    torch.testing.assert_close(means, pooled.permute(1, 2, 0))
