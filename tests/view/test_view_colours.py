"""Colours and neighbours against a covariance, brute force and the store's own numbers."""

import json

import numpy as np
import pytest
from explorers import client_of
from stores import make_identity, make_pooled_store, make_store, padded_store

from clipfeat.featstore import FeatureStore, GridShape
from clipfeat.featstore.card.survey import survey
from clipfeat.view import nearest
from clipfeat.view.nearest import best


def random_grids(count: int, shape: tuple[int, int] = (3, 4), dim: int = 8, seed: int = 0):
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(dim, dim))
    return {
        f"i{k:03d}": (random.normal(size=(*shape, dim)) @ mixing).astype(np.float16)
        for k in range(count)
    }


def cosines(cells: np.ndarray, cell: np.ndarray) -> np.ndarray:
    cells, cell = cells.astype(np.float64), cell.astype(np.float64)
    return np.array([c @ cell / np.linalg.norm(c) / np.linalg.norm(cell) for c in cells])


def test_a_channel_goes_from_black_to_white_over_its_range(tmp_path):
    grid = np.array([[[0, 1.0, 9], [0, 3.0, 9]], [[0, 2.0, 9], [0, 5.0, 9]]])
    client = client_of(make_store(tmp_path / "s", {"i": grid}))
    found = client.get("colours", store="a", id="i", show="channel:1")
    assert found["range"] == [1, 5]
    assert found["rgb"] == [[v] * 3 for v in (0, 128, 64, 255)]  # 127.5 and 63.75, rounded
    flat = client.get("colours", store="a", id="i", show="channel:2")
    assert (flat["range"], flat["rgb"]) == ([9, 9], [[0, 0, 0]] * 4)
    for show in ("channel:3", "channel:-1", "channel:", "channel:1.0", "norms", "channel:\u0661"):
        assert client.refused("colours", 400, store="a", id="i", show=show) == "E-VIEW-SHOW"


def test_colours_of_a_store_are_comparable_between_images(tmp_path):
    grids = random_grids(20)
    grids["twin"] = grids["i000"][::-1].copy()
    client = client_of(make_store(tmp_path / "s", grids))
    one, twin = (client.get("colours", store="a", id=i)["rgb"] for i in ("i000", "twin"))
    turned = np.array(one).reshape(3, 4, 3)[::-1].reshape(-1, 3).tolist()
    assert twin == turned
    again = client_of(tmp_path / "s").get("colours", store="a", id="i000")
    assert again["rgb"] == one
    assert sum(again["explained"]) <= 1 + 1e-9


@pytest.mark.parametrize("shape", [(3, 4), (40, 60)])  # few cells an image, and more
def test_card_and_explorer_show_the_same_colours(tmp_path, monkeypatch, shape):
    monkeypatch.setattr("clipfeat.featstore.report.colours.READ_NUMBERS", 12 * 8 * 90)
    grids = random_grids(80, shape)
    grids["nan"] = np.full((*shape, 8), np.nan, np.float16)
    path = make_store(tmp_path / "s", {**grids, "gone": None})
    card = survey(FeatureStore.open(path))
    client = client_of(path)
    assert card.pictures
    for picture in card.pictures:
        shown = client.get("colours", store="a", id=picture.row.image_id)
        assert shown["rgb"] == picture.colours.reshape(-1, 3).tolist()
        assert card.basis is not None
        assert shown["explained"] == [*card.basis.explained]


class TestSimilar:
    def test_all_cells_of_this_image_and_of_others(self, tmp_path):
        grids = random_grids(3)
        grids["zero"] = np.zeros((1, 2, 8), np.float16)
        client = client_of(make_store(tmp_path / "s", {**grids, "gone": None}))
        others = ["i001", "zero", "gone", "unknown"]
        found = client.get("similar", store="a", id="i000", cell=7, others=others)
        cell = grids["i000"].reshape(-1, 8)[7]
        assert found["similar"].keys() == {"i000", "i001", "zero"}
        for image_id in ("i000", "i001"):
            expected = cosines(grids[image_id].reshape(-1, 8), cell)
            np.testing.assert_allclose(found["similar"][image_id], expected, atol=1e-4)
        assert found["similar"]["i000"][7] == 1
        assert found["similar"]["zero"] == [0, 0]
        assert found["missing"].keys() == {"gone", "unknown"}
        assert "no such file" in found["missing"]["gone"]

    def test_a_cell_or_a_number_of_others_that_cannot_be(self, tmp_path):
        client = client_of(make_store(tmp_path / "s", random_grids(1)))
        wanted = {"store": "a", "id": "i000"}
        assert client.refused("similar", 400, **wanted, cell=12) == "E-VIEW-CELL"
        assert client.refused("similar", 400, **wanted, cell=-1) == "E-VIEW-QUERY"
        assert client.refused("similar", 400, **wanted, cell=0, others=["x"] * 51) == "E-VIEW-QUERY"
        assert client.refused("similar", 404, store="a", id="x", cell=0) == "E-STORE-NO-ID"

    def test_nan_is_null(self, tmp_path):
        grid = np.ones((1, 2, 4))
        grid[0, 1] = np.nan
        client = client_of(make_store(tmp_path / "s", {"i": grid}))
        assert client.get("record", store="a", id="i")["norms"] == [2, None]
        found = client.get("similar", store="a", id="i", cell=0)
        assert found["similar"]["i"] == [1, None]
        client.get("colours", store="a", id="i")


class TestNearest:
    def test_cells_are_those_of_a_loop_over_all(self, tmp_path):
        grids = {
            **random_grids(12),
            **{f"j{k}": g for k, g in random_grids(5, (2, 2), seed=1).items()},
        }
        client = client_of(make_store(tmp_path / "s", grids))
        found = client.get("nearest/cells", store="a", id="i003", cell=5, count=30)
        cell = grids["i003"].reshape(-1, 8)[5]
        expected = sorted(
            (
                (-float(value), image_id, k)
                for image_id, grid in grids.items()
                if image_id != "i003"
                for k, value in enumerate(cosines(grid.reshape(-1, 8), cell))
            )
        )[:30]
        assert found["scanned"] == {"images": 17, "of": 17, "how": "all"}
        assert [(c["id"], c["cell"]) for c in found["cells"]] == [(i, k) for _, i, k in expected]
        values = [c["similarity"] for c in found["cells"]]
        np.testing.assert_allclose(values, [-v for v, _, _ in expected], atol=1e-4)
        assert found["cells"][0]["shape"] == [*grids[found["cells"][0]["id"]].shape[:2]]

    def test_images_without_vectors_are_compared_by_the_mean_of_their_cells(self, tmp_path):
        grids = random_grids(9)
        client = client_of(make_store(tmp_path / "s", grids))
        found = client.get("nearest/images", store="a", id="i004", count=3)

        def mean(grid):
            cells = grid.reshape(-1, 8).astype(np.float64)
            return (cells / np.linalg.norm(cells, axis=1, keepdims=True)).mean(axis=0)

        others = [i for i in grids if i != "i004"]
        values = cosines(np.array([mean(grids[i]) for i in others]), mean(grids["i004"]))
        expected = [others[k] for k in np.argsort(-values)[:3]]
        assert found["by"] == "mean of cells"
        assert [each["id"] for each in found["images"]] == expected

    def test_pooled_vectors_are_taken_where_there_are_any(self, tmp_path):
        grids = random_grids(6)
        pooled = {i: np.eye(6)[k] + 0.1 * (k == 2) for k, i in enumerate(grids)}
        pooled["i003"] = pooled["i002"] + 0.01
        identity = make_identity(8, pooled_dim=6)
        vectors = {i: v.astype(np.float16) for i, v in pooled.items()}
        path = make_pooled_store(tmp_path / "s", identity, grids, vectors, 4)
        found = client_of(path).get("nearest/images", store="a", id="i002", count=5)
        assert found["by"] == "pooled vector"
        assert found["images"][0]["id"] == "i003"
        assert len(found["images"]) == 5

    def test_a_large_store_is_sampled_and_says_so(self, tmp_path, monkeypatch):
        monkeypatch.setattr(nearest, "SAMPLE_IMAGES", 4)
        client = client_of(make_store(tmp_path / "s", random_grids(9)))
        found = client.get("nearest/cells", store="a", id="i000", cell=0, count=500)
        assert found["scanned"] == {"images": 4, "of": 9, "how": "sample"}
        assert len({c["id"] for c in found["cells"]} - {"i000"}) in (3, 4)

    def test_memory_is_bounded(self, tmp_path, monkeypatch):
        monkeypatch.setattr(nearest, "SAMPLE_BYTES", 3 * 12 * 8 * 4)  # three grids as float32
        client = client_of(make_store(tmp_path / "s", random_grids(9)))
        found = client.get("nearest/images", store="a", id="i000", count=9)
        assert found["scanned"]["images"] == 3

    def test_padding_is_no_neighbour(self, tmp_path):
        pad = {"step": "pad", "height": 64, "width": 64, "turn": False, "odd": "first",
               "cell": [32, 32]}  # fmt: skip
        recipe = {"name": "padded", "steps": [pad, {"step": "rgb"}]}
        sizes = {"a": (64, 20), "b": (64, 64)}
        padded_store(tmp_path / "s", recipe, sizes, GridShape(2, 2))
        client = client_of(tmp_path / "s")
        # 20 pixels in the middle of 64 lie in rows 22 to 42: in both rows of cells.
        assert client.get("record", store="a", id="a")["mask"] is None
        found = client.get("nearest/cells", store="a", id="b", cell=0, count=9)
        assert len(found["cells"]) == 4

    def test_where_numbers_are_equal_the_first_comes_first(self):
        assert best(np.array([1.0, 3, np.nan, 3, 2]), 4) == [1, 3, 4, 0]
        assert best(np.array([]), 4) == []


def damage(store_path, image_id: str) -> None:
    """Change the last bytes of a record's shard where that record lies."""
    store = FeatureStore.open(store_path)
    number = int(store.shard_numbers([image_id])[0])
    shard = sorted(store_path.rglob("c.*"))[number]
    content = bytearray(shard.read_bytes())
    for k in range(0, len(content) - 600, 3):
        content[k] ^= 0xFF
    shard.write_bytes(content)


def test_a_corrupt_record_is_named_and_the_rest_goes_on(tmp_path):
    grids = random_grids(6, (6, 6), 32)
    path = make_store(tmp_path / "s", grids, shard_size=1, codec="none")
    damage(path, "i002")
    client = client_of(path)
    for name, more in (("record", {}), ("colours", {}), ("similar", {"cell": 0})):
        error = client.get(name, 422, store="a", id="i002", **more)
        assert (error["id"], error["code"][:8]) == ("i002", "E-SHARD-"), json.dumps(error)
    assert client.get("record", store="a", id="i003")["status"] == "ok"
    client.get("colours", store="a", id="i003")
    found = client.get("similar", store="a", id="i003", cell=0, others=["i002", "i004"])
    assert found["missing"].keys() == {"i002"}
    assert found["similar"].keys() == {"i003", "i004"}
    found = client.get("nearest/cells", store="a", id="i003", cell=0, count=500)
    assert found["scanned"] == {"images": 5, "of": 6, "how": "sample"}
    assert {c["id"] for c in found["cells"]} == {"i000", "i001", "i004", "i005"}


def test_a_shard_that_is_gone_is_an_error_of_its_record(tmp_path):
    path = make_store(tmp_path / "s", random_grids(2), shard_size=1)
    client = client_of(path)
    for shard in path.rglob("c.*"):
        shard.unlink()
    error = client.get("record", 422, store="a", id="i001")
    assert error["id"] == "i001"


def test_two_stores_answer_by_their_keys(tmp_path):
    one = make_store(tmp_path / "one", {"i": np.ones((2, 2, 4)), "j": np.ones((1, 1, 4))})
    two = make_store(tmp_path / "two", {"i": np.ones((3, 1, 16))})
    client = client_of(one, two)
    stores = client.get("session")["stores"]
    assert [(s["key"], s["dim"], s["records"]) for s in stores] == [("a", 4, 2), ("b", 16, 1)]
    assert stores[0]["digest"] == FeatureStore.open(one).digest
    assert {"shape": [2, 2], "count": 1} in stores[0]["shapes"]
    assert client.get("record", store="a", id="i")["shape"] == [2, 2]
    assert client.get("record", store="b", id="i")["shape"] == [3, 1]
    assert client.refused("record", 404, store="b", id="j") == "E-STORE-NO-ID"


def test_a_grid_of_too_many_cells_is_refused_before_it_is_read(tmp_path):
    path = make_store(tmp_path / "s", {"i": np.ones((129, 128, 1), np.float16)})
    assert client_of(path).refused("record", 400, store="a", id="i") == "E-VIEW-CELLS"
