"""Tables that the published programs write are imported, and theirs read what is exported."""

import numpy as np
import pytest
from published_tables import (
    b64,
    geometry,
    read_bottom_up,
    read_lxmert,
    read_vinvl,
    read_vln,
    some_regions,
    write_bottom_up,
    write_lxmert,
    write_vinvl,
    write_vln,
)
from refused import refuses

from clipfeat.base.errors import UsageError
from clipfeat.featstore import Depth, verify
from clipfeat.featstore.exchange import (
    Options,
    export_features,
    import_features,
    open_reader,
)

IMAGES = some_regions([*map(str, range(7)), 'a "quoted" name', "COCO_val2014_000000000042"])
SIZES = {image.image_id: (image.width, image.height) for image in IMAGES}
BOXES = Options(layout="boxes")
RNG = np.random.default_rng(0)
VIEWS = {
    (scan, f"{k:032x}"): RNG.standard_normal((36, 5)).astype(np.float32)
    for scan in ("17DRP5sb8fy", "zsNo4HB9uLZ")
    for k in range(2)
}


def imported(path, name, out, options=None, **changes):
    """Import one file; return the store."""
    reader = open_reader(name, [path], options)
    report = import_features(reader, out, **changes)
    reader.close()
    assert verify(out, Depth.DEEP) == []
    return report.store


def same_records(store, other):
    """Return whether two stores have the same bits for the same ids."""
    rows, others = (
        [(r.image_id, r.status, r.shape, r.width, r.height, r.record_sha256) for r in s.index]
        for s in (store, other)
    )
    return rows == others


def check_regions(store, *, more=False):
    """Assert that a store holds IMAGES to the bit."""
    assert store.ids == tuple(sorted(image.image_id for image in IMAGES))
    batch = store.read([image.image_id for image in IMAGES])
    rows = {row.image_id: row for row in store.index}
    for k, image in enumerate(IMAGES):
        n = len(image.boxes)
        row = rows[image.image_id]
        assert (row.width, row.height, row.shape) == (image.width, image.height, f"{n}x1")
        assert len(row.source_sha256) == 64
        assert np.array_equal(batch.features[k, :n], image.features)
        assert np.array_equal(batch.boxes[k, :n], image.boxes)
        if more:
            assert np.array_equal(batch.classes[k, :n], image.classes)
            assert np.array_equal(batch.scores[k, :n], image.scores)


class TestBottomUp:
    def test_there_and_back(self, tmp_path):
        path = write_bottom_up(tmp_path / "a.tsv", IMAGES)
        store = imported(path, "bottom-up-tsv", tmp_path / "s")
        check_regions(store)
        assert (store.identity.dtype, store.identity.regions) == ("float32", ("boxes",))
        report = export_features(store, tmp_path / "b.tsv", format="bottom-up-tsv")
        assert report.written == len(IMAGES)
        read = read_bottom_up(tmp_path / "b.tsv")
        assert len(read) == len(IMAGES)
        for image in IMAGES:
            item = read[image.image_id]
            assert item["size"] == (image.width, image.height)
            assert np.array_equal(item["features"], image.features)
            assert np.array_equal(item["boxes"], image.boxes)
        again = imported(tmp_path / "b.tsv", "bottom-up-tsv", tmp_path / "t")
        assert same_records(store, again)

    def test_float16_there_and_back(self, tmp_path):
        path = write_bottom_up(tmp_path / "a.tsv", IMAGES)
        store = imported(path, "bottom-up-tsv", tmp_path / "s", dtype="float16", codec="none")
        batch = store.read([IMAGES[0].image_id])
        n = len(IMAGES[0].boxes)
        assert np.array_equal(batch.features[0, :n], IMAGES[0].features.astype(np.float16))
        export_features(store, tmp_path / "b.tsv", format="bottom-up-tsv")
        out = tmp_path / "t"
        again = imported(tmp_path / "b.tsv", "bottom-up-tsv", out, dtype="float16", codec="none")
        assert same_records(store, again)

    def test_several_files_are_one_store(self, tmp_path):
        first = write_bottom_up(tmp_path / "a.tsv", IMAGES[:4])
        second = write_bottom_up(tmp_path / "b.tsv", IMAGES[4:])
        reader = open_reader("bottom-up-tsv", [first, second])
        store = import_features(reader, tmp_path / "s").store
        check_regions(store)
        assert len(store.identity.backbone["source_sha256"]) == 2


class TestLxmert:
    def test_there_and_back(self, tmp_path):
        path = write_lxmert(tmp_path / "a.tsv", IMAGES)
        store = imported(path, "lxmert-tsv", tmp_path / "s")
        check_regions(store, more=True)
        export_features(store, tmp_path / "b.tsv", format="lxmert-tsv")
        read = read_lxmert(tmp_path / "b.tsv")
        for image in IMAGES:
            item = read[image.image_id]
            assert (item["img_w"], item["img_h"]) == (image.width, image.height)
            for key, wanted in (
                ("objects_id", image.classes),
                ("objects_conf", image.scores),
                ("boxes", image.boxes),
                ("features", image.features),
            ):
                assert np.array_equal(item[key], wanted), key
            assert not item["attrs_id"].any()
            assert not item["attrs_conf"].any()
        assert same_records(store, imported(tmp_path / "b.tsv", "lxmert-tsv", tmp_path / "t"))

    def test_height_comes_first(self, tmp_path):
        wide = [image._replace(width=640, height=480) for image in IMAGES]
        store = imported(write_lxmert(tmp_path / "a.tsv", wide), "lxmert-tsv", tmp_path / "s")
        assert {(row.width, row.height) for row in store.index} == {(640, 480)}

    def test_needs_classes_and_scores(self, tmp_path):
        path = write_bottom_up(tmp_path / "a.tsv", IMAGES)
        store = imported(path, "bottom-up-tsv", tmp_path / "s")
        with refuses("E-EXPORT-REGIONS", "classes, scores", kind=UsageError):
            export_features(store, tmp_path / "b.tsv", format="lxmert-tsv")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tsv", "s"]

    @pytest.mark.parametrize(
        ("name", "write", "named"),
        [
            ("bottom-up-tsv", write_lxmert, "has 10 columns, as lxmert-tsv has"),
            ("lxmert-tsv", write_bottom_up, "has 6 columns, as bottom-up-tsv has"),
        ],
    )
    def test_is_told_from_bottom_up_by_its_columns(self, tmp_path, name, write, named):
        path = write(tmp_path / "a.tsv", IMAGES)
        with refuses("E-IMPORT-COLUMNS", named, "line 1", kind=UsageError):
            open_reader(name, [path])


class TestVinvl:
    @pytest.mark.parametrize("columns", [2, 3])
    def test_boxes_come_from_the_last_six_numbers(self, tmp_path, columns):
        path = write_vinvl(tmp_path / "a.tsv", IMAGES, columns=columns)
        options = Options(layout="boxes", sizes=SIZES)
        store = imported(path, "vinvl-tsv", tmp_path / "s", options)
        assert store.dim == IMAGES[0].features.shape[1]
        batch = store.read([image.image_id for image in IMAGES])
        assert batch.boxes is not None
        for k, image in enumerate(IMAGES):
            n = len(image.boxes)
            assert np.array_equal(batch.features[k, :n], image.features)
            assert np.allclose(batch.boxes[k, :n], image.boxes, rtol=0, atol=1e-3)

    def test_there_and_back(self, tmp_path):
        path = write_bottom_up(tmp_path / "a.tsv", IMAGES)
        store = imported(path, "bottom-up-tsv", tmp_path / "s")
        export_features(store, tmp_path / "b.tsv", format="vinvl-tsv")
        read = read_vinvl(tmp_path / "b.tsv")
        assert list(read) == sorted(read)
        for image in IMAGES:
            vectors = read[image.image_id]
            assert np.array_equal(vectors[:, :-6], image.features)
            assert np.allclose(vectors[:, -6:], geometry(image), atol=1e-6)
        again = imported(tmp_path / "b.tsv", "vinvl-tsv", tmp_path / "t", BOXES)
        assert same_records(store, again)

    def test_vectors_there_and_back(self, tmp_path):
        path = write_vinvl(tmp_path / "a.tsv", IMAGES)
        options = Options(layout="vectors")
        store = imported(path, "vinvl-tsv", tmp_path / "s", options)
        assert (store.dim, store.identity.regions) == (IMAGES[0].features.shape[1] + 6, ())
        export_features(store, tmp_path / "b.tsv", format="vinvl-tsv")
        read = read_vinvl(tmp_path / "b.tsv")
        for image in IMAGES:
            wanted = np.concatenate([image.features, geometry(image)], axis=1)
            assert np.array_equal(read[image.image_id], wanted)
        again = imported(tmp_path / "b.tsv", "vinvl-tsv", tmp_path / "t", options)
        assert same_records(store, again)

    def test_what_is_not_said_is_asked(self, tmp_path):
        path = write_vinvl(tmp_path / "a.tsv", IMAGES)
        with refuses("E-IMPORT-LAYOUT", "boxes, vectors"):
            open_reader("vinvl-tsv", [path])
        with refuses("E-IMPORT-SIZES", "--sizes"):
            open_reader("vinvl-tsv", [path], BOXES)

    def test_an_image_without_a_size_costs_itself_alone(self, tmp_path):
        path = write_vinvl(tmp_path / "a.tsv", IMAGES)
        sizes = {k: v for k, v in SIZES.items() if k != "3"}
        reader = open_reader("vinvl-tsv", [path], Options(layout="boxes", sizes=sizes))
        report = import_features(reader, tmp_path / "s")
        assert [(r.image_id, r.status) for r in report.refused] == [("3", "undecodable")]

    def test_six_numbers_that_are_no_box_are_found(self, tmp_path):
        path = write_vinvl(tmp_path / "a.tsv", IMAGES)
        text = b64(np.arange(14, dtype=np.float32))
        with path.open("a") as file:
            file.write(f'odd\t{{"num_boxes": 1, "features": "{text}"}}\n')
        options = Options(layout="boxes", sizes={**SIZES, "odd": (640, 480)})
        reader = open_reader("vinvl-tsv", [path], options)
        (row,) = import_features(reader, tmp_path / "s").refused
        assert row.image_id == "odd"
        assert "--layout vectors" in row.reason


class TestViews:
    def test_there_and_back(self, tmp_path):
        path = write_vln(tmp_path / "a.tsv", VIEWS)
        options = Options(channels="bgr")
        store = imported(path, "vln-tsv", tmp_path / "s", options)
        assert store.identity.recipe == {
            "name": "vln-tsv", "views": 36, "channels": "bgr", "vfov": 60,
        }  # fmt: skip
        for (scan, viewpoint), features in VIEWS.items():
            assert np.array_equal(store[f"{scan}_{viewpoint}"], features[:, None])
        export_features(store, tmp_path / "b.tsv", format="vln-tsv")
        read = read_vln(tmp_path / "b.tsv")
        for (scan, viewpoint), features in VIEWS.items():
            assert np.array_equal(read[f"{scan}_{viewpoint}"], features)
        assert same_records(store, imported(tmp_path / "b.tsv", "vln-tsv", tmp_path / "t", options))

    def test_channels_are_asked(self, tmp_path):
        path = write_vln(tmp_path / "a.tsv", VIEWS)
        with refuses("E-IMPORT-CHANNELS", "rgb, bgr"):
            open_reader("vln-tsv", [path])

    def test_other_stores_are_no_views(self, tmp_path):
        path = write_bottom_up(tmp_path / "a.tsv", IMAGES)
        store = imported(path, "bottom-up-tsv", tmp_path / "s")
        with refuses("E-EXPORT-VIEWS", "--recipe views"):
            export_features(store, tmp_path / "b.tsv", format="vln-tsv")
