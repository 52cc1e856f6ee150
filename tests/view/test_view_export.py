"""The static page: what is written, from the store's own numbers."""

import base64
import json

import numpy as np
import pytest
from command_lines import run_here
from explorers import Client, client_of
from PIL import Image
from stores import make_store

from clipfeat.base.errors import UsageError
from clipfeat.view import export as module
from clipfeat.view.export import export
from clipfeat.view.open import open_explorer


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page that is built."""
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><html><head><title>t</title></head></html>")
    (folder / "app.js").write_text("1")
    (folder / "notes.md").write_text("not for the page")
    monkeypatch.setattr(module, "PAGE", folder)


@pytest.fixture
def stores(tmp_path):
    random = np.random.default_rng(0)
    grids = {f"i{k}": random.normal(size=(2, 3, 4)).astype(np.float16) for k in range(6)}
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "i2.png")
    one = make_store(tmp_path / "one", {**grids, "gone": None}, shard_size=1, codec="none")
    two = make_store(tmp_path / "two", {k: grids[k][:1] for k in ("i1", "i2")})
    return one, two, grids, tmp_path / "images"


def read(path):
    return json.loads(path.read_text())


def test_what_is_written_answers_as_the_server_does(page, stores, tmp_path):
    one, two, grids, images = stores
    explorer = open_explorer([one, two], images=str(images))
    done = export(explorer, tmp_path / "site", 500)
    assert (done["records"], done["images"], done["corrupt"]) == (8, 1, 0)
    site = tmp_path / "site"
    assert {path.name for path in site.iterdir()} == {"index.html", "app.js", "data"}
    assert (
        '<head><meta name="clipfeat-data" content="data/"><title>'
        in (site / "index.html").read_text()
    )
    client = Client(explorer)
    session = read(site / "data" / "session.json")
    assert (session["static"], session["sample"]) == (True, 6)
    assert [store["digest"] for store in session["stores"]] == [
        store["digest"] for store in client.get("session")["stores"]
    ]
    assert str(tmp_path) not in json.dumps(session)  # nothing of this machine's folders
    for key, expected in (("a", set(grids)), ("b", {"i1", "i2"})):
        listed = read(site / "data" / key / "ids.json")
        assert {each["id"] for each in listed["ids"]} == expected
        assert listed["total"] == len(expected)
        for each in listed["ids"]:
            content = read(site / "data" / key / f"{each['n']}.json")
            assert content["record"] == client.get("record", store=key, id=each["id"]) | {
                "has_image": each["id"] == "i2"
            }
            assert content["colours"] == client.get("colours", store=key, id=each["id"])
            features = content["features"]
            assert features["dtype"] == "float16"
            values = np.frombuffer(base64.b64decode(features["base64"]), "<f2")
            grid = grids[each["id"]] if key == "a" else grids[each["id"]][:1]
            assert np.array_equal(values.reshape(features["shape"]), grid.reshape(-1, 4))
            if each["id"] == "i2":
                assert (site / content["image"]).read_bytes() == (images / "i2.png").read_bytes()
            else:
                assert content["image"] is None


def test_a_sample_is_of_ids_with_a_record(page, stores, tmp_path):
    one, _, grids, _ = stores
    export(open_explorer([one]), tmp_path / "site", 3)
    listed = read(tmp_path / "site" / "data" / "a" / "ids.json")["ids"]
    assert len(listed) == 3
    assert {each["id"] for each in listed} <= set(grids)


def test_a_corrupt_record_is_left_out_and_counted(page, stores, tmp_path):
    one, _, _, _ = stores
    shard = min((one / "features.zarr" / "2x3" / "grid").glob("c.*"))
    content = bytearray(shard.read_bytes())
    content[0] ^= 0xFF
    shard.write_bytes(content)
    done = export(open_explorer([one]), tmp_path / "site", 500)
    assert (done["records"], done["corrupt"]) == (5, 1)


def test_numbers_beyond_float16_are_cut(page, tmp_path):
    path = make_store(tmp_path / "s", {"i": np.full((1, 1, 2), 1e6, np.float32)}, dtype="float32")
    export(open_explorer([path]), tmp_path / "site", 1)
    features = read(tmp_path / "site" / "data" / "a" / "0.json")["features"]
    values = np.frombuffer(base64.b64decode(features["base64"]), "<f2")
    assert values.tolist() == [65504, 65504]


def test_other_files_are_never_overwritten(page, stores, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mine").write_text("x")
    with pytest.raises(UsageError) as error:
        export(open_explorer([stores[0]]), tmp_path / "site", 1)
    assert error.value.code == "E-VIEW-EXPORT"
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["mine"]


def test_as_typed(page, stores, tmp_path):
    done = run_here("view", stores[0], "--export", tmp_path / "site", "--sample", 2)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path / 'site'}: 2 records, 0 images, ")
    assert client_of(stores[0]).get("ids", store="a")["total"] == 7
