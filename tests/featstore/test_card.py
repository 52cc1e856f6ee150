"""The card of a store: what it says of all kinds of stores, and that nothing else changes."""

import json
import shutil
import threading

import numpy as np
import pytest
from cards import Page, header_of
from click.testing import CliRunner
from fault_server import isolate
from logged import logged
from refused import refuses
from stores import extend_store, make_identity, make_pooled_store, make_store, snapshot
from test_regions import write_regions
from test_serve import ask

from clipfeat.cli.main import clipfeat
from clipfeat.featstore import (
    Depth,
    FeatureStore,
    GridShape,
    StoreError,
    describe,
    pool,
    verify,
    write_store,
)
from clipfeat.featstore.card import thumbnails
from clipfeat.featstore.card.write import write_card
from clipfeat.featstore.sharing.pull import pull
from clipfeat.featstore.sharing.serve import StoreServer
from clipfeat.featstore.writing.describe import write_documents

RNG = np.random.default_rng(0)
STRETCH = {"interpolation": "bicubic", "passes": "horizontal-first"}
RECIPE = {
    "name": "square:96",
    "steps": [{"step": "stretch", "height": 96, "width": 96, **STRETCH}, {"step": "rgb"}],
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "layer": "final",
    "vector": None,
    "views": None,
}
FILES = ["README.md", "documents/card.html", "croissant.json"]
HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(2)> \"'`|\n# not a heading \u202e\x07"


def grids(count, rows=3, cols=3, dim=16):
    return {
        f"i{k:02}": RNG.standard_normal((rows, cols, dim)).astype(np.float16) for k in range(count)
    }


@pytest.fixture
def path(tmp_path):
    """A store with an image that is missing."""
    return make_store(tmp_path / "s.clipfeat", {**grids(9), "gone": None}, recipe=RECIPE)


def card_of(path, **options):
    """Return the page, README.md and croissant.json of a store's card, after the usual checks."""
    written = write_card(path, **options)
    page, readme, croissant = (written.files[n].read_text() for n in (1, 0, 2))
    parsed = Page(page.encode())
    parsed.check_is_closed()
    parsed.check_is_accessible()
    assert len(page) < 1 << 20
    header_of(readme)
    return parsed, readme, json.loads(croissant)


class TestWhatItSays:
    def test_the_same_facts_in_all_three(self, path):
        describe(path, {"title": "Scenes", "licence": "CC-BY-4.0", "citation": "@misc{a,\n x={1}}"})
        store = FeatureStore.open(path)
        page, readme, croissant = card_of(path)
        for text in (page.text, readme):
            assert "Scenes" in text
            assert store.digest in text
            assert "9 ok, 1 missing" in text
            assert "no such file" in text
            assert "not stated" in text  # the licence of the images: never guessed
            assert "x={1}" in text
            assert "clipfeat store verify s.clipfeat" in text
        assert croissant["identifier"] == f"sha256:{store.digest}"
        assert (croissant["name"], croissant["license"]) == ("Scenes", "CC-BY-4.0")
        header = header_of(readme)
        assert (header["license"], header["pretty_name"]) == ("cc-by-4.0", "Scenes")
        assert header["size_categories"] == ["n<1K"]
        assert header["configs"] == [{"config_name": "index", "data_files": "index.parquet"}]
        assert len([e for e in page.all("img") if e["class"] == "grid"]) == 9

    def test_nothing_of_this_machine_is_in_it(self, path):
        page, readme, croissant = card_of(path)
        for text in (page.text, readme, json.dumps(croissant)):
            assert str(path.parent) not in text

    def test_a_store_without_any_record(self, tmp_path):
        path = tmp_path / "s"
        write_store(path, make_identity(4), {"a": GridShape(2, 2)}, lambda _: None)
        page, readme, _ = card_of(path)
        assert "1 missing" in page.text
        assert "Numbers" not in page.text
        assert "0 images" in readme

    def test_regions_are_boxes(self, tmp_path):
        store, records = write_regions(tmp_path / "s", ("boxes",))
        page, _, _ = card_of(store.path)
        # Those of i1, whose size the store has, are cut off at its borders.
        (shown,) = [e for e in page.all("svg") if e.get("aria-label") == "regions of image i1"]
        assert shown["viewbox"] == "0 0 640 480"
        boxes = sum(len(arrays["boxes"]) for arrays in records.values())
        shapes = [e for e in page.all("rect") if "fill-opacity" in e]
        assert len(shapes) == boxes
        assert "Places in the grid" not in page.text  # places of regions mean nothing

    def test_one_vector_for_each_image(self, tmp_path):
        path = make_store(tmp_path / "s", grids(5, 1, 1))
        page, readme, _ = card_of(path)
        assert "1 x 1 cells" in readme
        assert "Places in the grid" not in page.text

    def test_pooled_vectors_have_charts_of_their_own(self, tmp_path):
        records = grids(5)
        vectors = {image_id: RNG.standard_normal(7).astype(np.float16) for image_id in records}
        identity = make_identity(16, pooled_dim=7)
        page, _, _ = card_of(make_pooled_store(tmp_path / "s", identity, records, vectors, 4))
        assert "L2 norms of pooled vectors" in page.text
        assert len([e for e in page.all("svg") if e.get("class") == "chart"]) == 6

    def test_views_are_shown_as_they_look_around(self, tmp_path):
        recipe = {**RECIPE, "vector": "embedding", "views": 36}
        path = make_store(tmp_path / "s", grids(4, 36, 1), recipe=recipe)
        page, _, _ = card_of(path)
        assert "Each of the 36 views of a viewpoint is treated so." in page.text

    def test_pooled_grids_have_the_recipe_of_their_parent(self, path, tmp_path):
        store = pool(FeatureStore.open(path), tmp_path / "small", GridShape(2, 2))
        page, readme, croissant = card_of(store.path)
        origin = FeatureStore.open(path).digest
        assert "bicubic, to 96 x 96" in page.text
        assert origin in readme
        assert f"urn:sha256:{origin}" in json.dumps(croissant["prov:wasDerivedFrom"])

    def test_a_place_that_is_zero_in_every_image_is_named(self, tmp_path):
        records = grids(6)
        for grid in records.values():
            grid[1, 2] = 0
        page, readme, _ = card_of(make_store(tmp_path / "s", records))
        assert "1 place of 9 are 0 in every image: row 1 col 2" in page.text
        assert "| places of 3x3 that are 0 in every image | 1 |" in readme
        assert "| cells that are 0 | 6 of 54 |" in readme

    def test_many_reasons_are_counted_together(self, tmp_path, path):
        records = {**grids(2), **{f"gone{k}": None for k in range(40)}}
        _, readme, _ = card_of(make_store(tmp_path / "many", records))
        assert "| 40 | missing | no such file | gone0 |" in readme


def test_hostile_texts_are_texts(tmp_path):
    records = {HOSTILE: next(iter(grids(1).values())), f"{HOSTILE}2": None}
    path = make_store(
        tmp_path / "s", records, backbone={"model": HOSTILE}, recipe={"name": HOSTILE}
    )
    fields = ("title", "description", "licence", "source_licence", "citation", "homepage")
    describe(path, dict.fromkeys(fields, f"{HOSTILE}```"))
    page, readme, croissant = card_of(path)  # which looks for elements that run something
    assert "<script>alert(1)</script>" in page.text
    assert {e["class"] for e in page.all("img")} <= {"grid", "map"}
    header = header_of(readme)
    assert header["pretty_name"] == f"{HOSTILE}```"
    body = readme.split("---\n", 2)[2].split("## Use")[0]  # the rest is code, in fences
    assert "<" not in body.replace("\\<", "").replace("<!--", "")
    assert all(c.isprintable() or c == "\n" for c in readme)
    assert body.count("\n# not a heading") == 1  # of the description, which may have headings
    assert readme.count("````\n") >= 2  # a fence that is longer than those in the citation
    assert croissant["license"] == f"{HOSTILE}```"


class TestTheStore:
    def test_its_digest_stays_and_verify_checks_the_card(self, path):
        digest = FeatureStore.open(path).digest
        write_card(path)
        assert FeatureStore.open(path).digest == digest
        assert list(FeatureStore.open(path).metadata.documents) == [
            "README.md",
            "documents/card.html",
        ]
        assert verify(path, Depth.DEEP) == []
        (path / "documents/card.html").write_text("other")
        assert [problem.path for problem in verify(path)] == ["documents/card.html"]

    def test_the_same_store_gets_the_same_card(self, path):
        write_card(path)
        before = {name: (path / name).read_bytes() for name in (*FILES, "store.json")}
        write_card(path)
        assert {name: (path / name).read_bytes() for name in before} == before

    def test_a_card_of_another_folder_changes_nothing_in_the_store(self, path, tmp_path):
        before = snapshot(path)
        written = write_card(path, tmp_path / "card")
        assert snapshot(path) == before
        assert sorted(file.name for file in written.files) == [
            "README.md",
            "card.html",
            "croissant.json",
        ]
        with refuses("E-STORE-INSIDE"):
            write_card(path, path / "documents")

    def test_files_of_people_are_kept(self, path):
        (path / "README.md").write_text("# By hand")
        with refuses("E-CARD-FILE", "README.md", "--out"):
            write_card(path)
        assert (path / "README.md").read_text() == "# By hand"
        assert not (path / "croissant.json").exists()

    def test_a_store_that_has_changed_needs_a_new_card(self, path):
        write_card(path)
        with logged() as lines:
            describe(path, {"title": "New"})
        assert "write it again: clipfeat store card" in "\n".join(lines)
        (problem,) = verify(path)
        assert (problem.path, problem.remedy) == (
            "croissant.json",
            "type clipfeat store card, which writes it again",
        )
        assert [each.path for each in verify(path, Depth.QUICK)] == ["croissant.json"]
        write_card(path)
        assert verify(path) == []

    def test_so_does_one_that_was_added_to(self, path):
        write_card(path)
        store = FeatureStore.open(path)
        records = {
            row.image_id: store[row.image_id] if row.status == "ok" else None for row in store.index
        }
        extend_store(path, {**records, "new": next(iter(records.values()))})
        assert [problem.path for problem in verify(path)] == ["croissant.json"]
        _, readme, croissant = card_of(path)
        assert "index.1.parquet" in readme
        assert croissant["version"] == "1.1.0"
        assert verify(path) == []

    def test_a_croissant_json_that_is_no_description_is_a_problem(self, path):
        (path / "croissant.json").write_text('"identifier": "sha256:')
        assert [problem.problem for problem in verify(path)] == ["is not a Croissant description"]
        with refuses("E-STORE-LINK", kind=StoreError):
            (path / "croissant.json").unlink()
            (path / "croissant.json").symlink_to(path / "store.json")
            write_card(path)

    def test_records_that_have_changed_are_named_and_left_out(self, path):
        write_card(path)
        (shard,) = path.glob("features.zarr/3x3/grid/c.1.*")  # i04 to i07, after gone
        content = bytearray(shard.read_bytes())
        content[20] ^= 1
        shard.write_bytes(content)
        page, readme, _ = card_of(path)
        assert "8 records with 72 cells; 1 record of the sample could not be used" in page.text
        assert "Records that could not be used" in page.text
        assert str(path) not in page.text
        assert "| could not be used | i0" in readme
        done = CliRunner().invoke(clipfeat, ["store", "card", str(path), "--json"])
        assert len(json.loads(done.output)["unreadable"]) == 1

    def test_one_whose_records_are_all_gone(self, path):
        shutil.rmtree(path / "features.zarr")
        page, _, _ = card_of(path)
        assert "9 records of the sample could not be used" in page.text


class TestElsewhere:
    @pytest.fixture(autouse=True)
    def alone(self, monkeypatch, tmp_path):
        isolate(monkeypatch, tmp_path, [])
        monkeypatch.setenv("CLIPFEAT_CACHE", str(tmp_path / "cache"))

    @pytest.fixture
    def server(self, path):
        with StoreServer(path, "127.0.0.1", 0) as server:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            yield server
            server.shutdown()

    def test_a_store_at_a_url(self, path, server, tmp_path):
        url = f"{server.url}/s.clipfeat"
        with refuses("E-CARD-OUT", "--out"):
            write_card(url)
        page, readme, croissant = card_of(url, out=tmp_path / "card")
        assert f"clipfeat store pull {url} s.clipfeat" in page.text
        assert f'FeatureStore.open("{url}")'.replace('"', "'") in readme
        (store_json, *_) = croissant["distribution"]
        assert store_json["contentUrl"] == f"{url}/store.json"
        local = json.loads(write_card(path, tmp_path / "local").files[2].read_text())
        assert local["distribution"][0]["sha256"] == store_json["sha256"]

    def test_thumbnails_are_fetched_if_they_are_small(self, path, server, tmp_path, monkeypatch):
        rows = [(f"i{k:02}", "", b"\xff\xd8\xff" + bytes([k])) for k in range(9)]
        write_documents(path, {thumbnails.THUMBNAILS: thumbnails.thumbnails_table(rows)})
        url = f"{server.url}/s.clipfeat"
        page, _, _ = card_of(url, out=tmp_path / "card")
        assert len([e for e in page.all("img") if e["class"] == "photo"]) == 9
        monkeypatch.setattr(thumbnails, "MOST_REMOTE_BYTES", 10)
        monkeypatch.setenv("CLIPFEAT_CACHE", str(tmp_path / "other"))
        with logged() as lines:
            page, _, _ = card_of(url, out=tmp_path / "card")
        assert "no thumbnails are shown" in "\n".join(lines)
        assert not [e for e in page.all("img") if e["class"] == "photo"]

    def test_it_is_served_and_pulled_with_the_store(self, path, server, tmp_path):
        write_card(path)
        status, _, body = ask(server, "/s.clipfeat/croissant.json")
        assert (status, body) == (200, (path / "croissant.json").read_bytes())
        copy = tmp_path / "copy"
        pull(f"{server.url}/s.clipfeat", copy)
        for name in FILES:
            assert (copy / name).read_bytes() == (path / name).read_bytes()
        assert verify(copy) == []
        assert verify(f"{server.url}/s.clipfeat") == []

    def test_a_description_of_another_store_is_not_pulled(self, path, server, tmp_path):
        write_card(path)
        describe(path, {"title": "New"})
        copy = tmp_path / "copy"
        pull(f"{server.url}/s.clipfeat", copy)
        assert not (copy / "croissant.json").exists()
        assert verify(copy) == []


def test_the_command(path, tmp_path):
    done = CliRunner().invoke(clipfeat, ["store", "card", str(path)])
    assert [f"{path}/{name} written" for name in FILES] == done.output.splitlines()[:3]
    assert "All 9 records with 81 cells" in done.output
    assert "not stated: licence of the features, licence of the images" in done.output
    words = ["store", "card", str(path), "--out", str(tmp_path / "card"), "--json"]
    record = json.loads(CliRunner().invoke(clipfeat, words).output)
    assert record["digest"] == FeatureStore.open(path).digest
    assert record["sample"] == 9
