"""A store as a torch Dataset, in loaders with real workers, and the recipes of docs/interop.md."""

import pickle
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from refused import refuses
from region_world import write_regions
from stores import make_store
from torch.utils.data import DataLoader

from clipfeat.featstore import FeatureStore, MissingRecordError
from clipfeat.train.datasets import StoreDataset, collate

PAGE = Path(__file__).parents[2] / "docs" / "interop.md"
RNG = np.random.default_rng(0)
GRIDS = {
    f"i{n}": RNG.normal(size=(rows, 2, 4)).astype(np.float16) for n, rows in enumerate((2, 3, 1, 2))
}
# Ids as LXMERT's and mmf's files name images of COCO, and as mmf's LMDB has those of Visual Genome.
REGIONS = {
    image_id: (RNG.normal(size=(count, 4)), RNG.uniform(0, 200, (count, 4)))
    for image_id, count in (("COCO_train2014_000000000009", 3), ("2354786", 5))
}
SIZES = {"COCO_train2014_000000000009": (640, 480), "2354786": (200, 200)}


@pytest.fixture(scope="module")
def grids(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    path = tmp_path_factory.mktemp("grids") / "s.clipfeat"
    return FeatureStore.open(make_store(path, {**GRIDS, "gone": None}))


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return write_regions(tmp_path_factory.mktemp("regions") / "s.clipfeat", REGIONS, SIZES)


def printed(number: int) -> dict[str, Any]:
    """Run a block of code as the page prints it; return its names."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[number]
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names


def block_with(text: str) -> int:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return next(number for number, block in enumerate(blocks) if text in block)


def test_an_item_is_a_record(grids: FeatureStore) -> None:
    dataset = StoreDataset(grids)
    assert len(dataset) == 4
    for number, (image_id, grid) in enumerate(GRIDS.items()):
        item = dataset[number]
        assert item.keys() == {"image_id", "features", "mask", "grid_shape"}
        assert item["image_id"] == image_id
        assert item["grid_shape"].tolist() == list(grid.shape[:2])
        np.testing.assert_array_equal(item["features"], grid.reshape(-1, 4))
        assert item["mask"].all()
        assert len(item["mask"]) == len(grid) * 2
    assert dataset[-1]["image_id"] == "i3"


def test_the_ids_are_those_asked_for(grids: FeatureStore) -> None:
    assert [item["image_id"] for item in StoreDataset(grids.path, ["i2", "i0"])] == ["i2", "i0"]
    for missing in ("gone", "unknown"):
        with refuses("E-STORE-NO-RECORD" if missing == "gone" else "E-STORE-NO-ID", missing,
                     kind=MissingRecordError):  # fmt: skip
            StoreDataset(grids, ["i0", missing])


def test_regions_come_with_boxes_and_sizes(regions: FeatureStore) -> None:
    batch = next(iter(DataLoader(StoreDataset(regions), batch_size=2, collate_fn=collate)))
    assert batch["image_id"] == ["2354786", "COCO_train2014_000000000009"]
    assert batch["image_size"].tolist() == [[200, 200], [640, 480]]
    for row, image_id in enumerate(batch["image_id"]):
        features, boxes = REGIONS[image_id]
        count = len(boxes)
        np.testing.assert_array_equal(batch["features"][row, :count], features.astype(np.float16))
        np.testing.assert_array_equal(batch["boxes"][row, :count], boxes.astype(np.float32))
        assert batch["mask"][row].tolist() == [True] * count + [False] * (5 - count)
        assert not batch["boxes"][row, count:].any()
        assert not batch["features"][row, count:].any()


def test_a_batch_is_one_read(grids: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    read = FeatureStore.read

    def spied(self, ids):
        asked.append(list(ids))
        return read(self, ids)

    monkeypatch.setattr(FeatureStore, "read", spied)
    list(DataLoader(StoreDataset(grids), batch_size=3, collate_fn=collate))
    assert asked == [["i0", "i1", "i2"], ["i3"]]


class Labelled(StoreDataset):
    """What a user adds is in the batch, too; at module level, so that a spawned worker finds it."""

    def __getitems__(self, numbers):
        items = super().__getitems__(numbers)
        return [
            {**item, "label": torch.tensor(number), "text": f"n{number}"}
            for item, number in zip(items, numbers, strict=True)
        ]


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_what_this_process_reads(grids: FeatureStore, method: str) -> None:
    dataset = Labelled(grids)
    dataset[0]  # threads and files have been used before the workers start
    loader = DataLoader(
        dataset, 2, collate_fn=collate, num_workers=2, multiprocessing_context=method
    )
    batches = list(loader)
    assert [batch["text"] for batch in batches] == [["n0", "n1"], ["n2", "n3"]]
    assert torch.cat([batch["label"] for batch in batches]).tolist() == [0, 1, 2, 3]
    for batch, expected in zip(batches, DataLoader(dataset, 2, collate_fn=collate), strict=True):
        assert batch.keys() == expected.keys()
        for name, value in batch.items():
            same = torch.equal(value, expected[name]) if torch.is_tensor(value) else None
            assert same or value == expected[name], name


def test_a_dataset_can_be_pickled(grids: FeatureStore) -> None:
    copy = pickle.loads(pickle.dumps(StoreDataset(grids, ["i1"])))
    np.testing.assert_array_equal(copy[0]["features"], GRIDS["i1"].reshape(-1, 4))


def test_the_printed_recipe_of_mmf_reads_as_its_readers(
    regions: FeatureStore, grids: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rules are those of PaddedFasterRCNNFeatureReader and LMDBFeatureReader."""
    module: Any = ModuleType("mmf.datasets.databases.features_database")
    module.FeatureReader = None
    for name in ("mmf", "mmf.datasets", "mmf.datasets.databases"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["mmf.datasets.databases"].features_database = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    printed(block_with("features_database"))

    reader = module.FeatureReader(base_path=str(regions.path), depth_first=False, max_features=4)
    for path, image_id in (
        ("COCO_train2014_000000000009.npy", "COCO_train2014_000000000009"),
        ("VG_100K_2354786.npy", "2354786"),
    ):
        features, info = reader.read(path)
        expected, boxes = REGIONS[image_id]
        padded = np.zeros((4, 4), np.float32)
        padded[: len(expected)] = expected.astype(np.float16)[:4]
        np.testing.assert_array_equal(features, padded)
        assert features.dtype == torch.float32
        assert info["max_features"] == info["num_boxes"] == len(expected)
        assert (info["image_width"], info["image_height"]) == SIZES[image_id]
        np.testing.assert_array_equal(info["bbox"], boxes.astype(np.float32))
    features, info = module.FeatureReader(str(grids.path), depth_first=False).read("i1.npy")
    np.testing.assert_array_equal(features, GRIDS["i1"].reshape(-1, 4).astype(np.float32))
    assert "bbox" not in info


def test_the_printed_recipe_of_lxmert_serves_its_dataset(
    regions: FeatureStore, grids: FeatureStore
) -> None:
    """What VQATorchDataset does with an image: it copies, and normalises boxes to 0...1."""
    images_of = printed(block_with("imgid2img"))["StoreImages"]
    images, image_id = images_of(str(regions.path)), "COCO_train2014_000000000009"
    assert image_id in images
    assert "COCO_train2014_000000000010" not in images
    info = images[image_id]
    assert info["num_boxes"] == len(info["boxes"]) == len(info["features"]) == 3
    boxes = info["boxes"].copy()
    boxes[:, (0, 2)] /= info["img_w"]
    boxes[:, (1, 3)] /= info["img_h"]
    expected = REGIONS[image_id][1] / np.array([640, 480, 640, 480])
    np.testing.assert_allclose(boxes, expected, rtol=1e-5)
    assert info["features"].dtype == np.float32

    info = images_of(str(grids.path))["i1"]  # 3 rows, 2 columns
    assert (info["img_h"], info["img_w"], info["num_boxes"]) == (1, 1, 6)
    np.testing.assert_allclose(info["boxes"][3], (0.5, 1 / 3, 1, 2 / 3), rtol=1e-6)
