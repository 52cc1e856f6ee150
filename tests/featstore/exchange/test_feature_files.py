"""Feature files of the published programs are imported, and theirs read what is exported."""

import io
import pickle
import zipfile

import lmdb
import numpy as np
import pytest
from published_files import (
    norm_bb,
    npy,
    read_captioning,
    read_gqa,
    read_m2,
    read_mmf_lmdb,
    read_mmf_npy,
    read_tars,
    read_uniter,
    read_vqa,
    write_bua,
    write_captioning,
    write_gqa,
    write_m2,
    write_mmf_lmdb,
    write_mmf_npy,
    write_tar,
    write_uniter,
    write_vqa,
)
from published_tables import some_regions
from refused import refuses

from clipfeat.featstore import Depth, verify
from clipfeat.featstore.exchange import Options, export_features, import_features, open_reader

IMAGES = some_regions([f"COCO_val2014_{n:012}" for n in (42, 73, 74, 133, 136, 139, 1000)])
IDS = [image.image_id for image in IMAGES]
SIZES = {image.image_id: (image.width, image.height) for image in IMAGES}
ALL, BOXES, SCORED = ("boxes", "classes", "scores"), ("boxes",), ("boxes", "scores")
RNG = np.random.default_rng(0)
GRIDS = {
    str(n): RNG.standard_normal((rows, cols, 6)).astype(np.float32)
    for n, rows, cols in ((1, 2, 3), (2, 3, 2), (42, 1, 4), (43, 2, 3))
}


def imported(source, name, out, **options):
    """Import a source; return the store, verified."""
    reader = open_reader(name, [source], Options(**options))
    report = import_features(reader, out, sizes=options.get("sizes"))
    reader.close()
    assert verify(out, Depth.DEEP) == []
    return report.store


def refused_rows(store):
    """Return the reasons of the ids without a record."""
    return {row.image_id: row.reason for row in store.index if row.status != "ok"}


def check_regions(store, regions, *, name=lambda image_id: image_id, sized=True):
    """Assert that a store holds IMAGES to the bit."""
    assert store.identity.regions == regions
    assert store.ids == tuple(sorted(map(name, IDS)))
    batch = store.read([name(image_id) for image_id in IDS])
    rows = {row.image_id: row for row in store.index}
    for k, image in enumerate(IMAGES):
        n = len(image.boxes)
        row = rows[name(image.image_id)]
        assert row.shape == f"{n}x1"
        assert len(row.source_sha256) == 64
        if sized:
            assert (row.width, row.height) == (image.width, image.height)
        assert np.array_equal(batch.features[k, :n], image.features)
        for region in regions:
            assert np.array_equal(getattr(batch, region)[k, :n], getattr(image, region)), region


def same_arrays(store, other):
    """Return whether two stores have the same bits and sizes for the same ids."""
    rows, others = (
        [(r.image_id, r.status, r.shape, r.width, r.height, r.record_sha256) for r in s.index]
        for s in (store, other)
    )
    return rows == others


class TestMmfNpy:
    def test_there_and_back(self, tmp_path):
        store = imported(write_mmf_npy(tmp_path / "a", IMAGES), "mmf-npy", tmp_path / "s")
        check_regions(store, ALL)
        export_features(store, tmp_path / "b", format="mmf-npy")
        for image in IMAGES:
            item = read_mmf_npy(tmp_path / "b", image.image_id)
            assert np.array_equal(item["features"], image.features)
            assert np.array_equal(item["bbox"], image.boxes)
            assert np.array_equal(item["objects"], image.classes)
            assert np.array_equal(item["cls_prob"].max(1), image.scores)
            assert (item["image_width"], item["image_height"]) == (image.width, image.height)
        assert same_arrays(store, imported(tmp_path / "b", "mmf-npy", tmp_path / "t"))

    @pytest.mark.parametrize(
        ("layout", "saved"),
        [
            ("hwc", lambda grid: grid),
            ("hwc", lambda grid: grid[None]),
            ("chw", lambda grid: grid.transpose(2, 0, 1)),
            ("chw", lambda grid: np.asfortranarray(grid.transpose(2, 0, 1)[None])),
        ],
    )
    def test_grids(self, tmp_path, layout, saved):
        folder = tmp_path / "a"
        (folder / "val2014").mkdir(parents=True)
        for name, grid in GRIDS.items():
            np.save(folder / "val2014" / f"{name}.npy", saved(grid))
        with refuses("E-IMPORT-LAYOUT", "hwc", "chw"):
            open_reader("mmf-npy", [folder])
        store = imported(folder, "mmf-npy", tmp_path / "s", layout=layout)
        for name, grid in GRIDS.items():
            assert np.array_equal(store[f"val2014/{name}"], grid)
        assert store.identity.recipe["layout"] == layout
        export_features(store, tmp_path / "b", format="mmf-npy", options=Options(layout=layout))
        for name, grid in GRIDS.items():
            found = np.load(tmp_path / "b" / "val2014" / f"{name}.npy")  # as mmf's readers do
            if layout == "chw":
                assert np.array_equal(found.squeeze(0), grid.transpose(2, 0, 1))
            else:
                assert np.array_equal(found, grid)
        assert same_arrays(
            store, imported(tmp_path / "b", "mmf-npy", tmp_path / "t", layout=layout)
        )

    def test_damaged_files_cost_themselves(self, tmp_path):
        folder = write_mmf_npy(tmp_path / "a", IMAGES)
        path = [folder / f"{image_id}.npy" for image_id in IDS]
        info = [folder / f"{image_id}_info.npy" for image_id in IDS]
        path[0].write_bytes(path[0].read_bytes()[:-4])
        np.save(path[1], np.array([{"image_feat": 1}], dtype=object))
        np.save(path[2], IMAGES[2].features[:, :7])
        np.save(info[3], {"bbox": IMAGES[3].boxes[1:], "objects": IMAGES[3].classes})
        np.save(path[4], np.full((len(IMAGES[4].boxes), 8), np.nan, np.float32))
        info[5].write_bytes(info[5].read_bytes()[:-30])
        reasons = refused_rows(imported(folder, "mmf-npy", tmp_path / "s"))
        assert sorted(reasons) == IDS[:6]
        for image_id, text in zip(
            IDS, ["bytes where", "pickle", "7 channels", "boxes", "NaN", "pickle"], strict=False
        ):
            assert text in reasons[image_id]

    def test_a_hostile_info_is_not_executed(self, tmp_path):
        class Hostile:
            def __reduce__(self):
                return (__import__("pathlib").Path.touch, (tmp_path / "called",))

        folder = write_mmf_npy(tmp_path / "a", IMAGES)
        np.save(folder / f"{IDS[3]}_info.npy", {"bbox": Hostile()})
        reasons = refused_rows(imported(folder, "mmf-npy", tmp_path / "s"))
        assert "would have to run" in reasons[IDS[3]]
        assert not (tmp_path / "called").exists()


class TestMmfLmdb:
    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_import(self, tmp_path, protocol):
        source = write_mmf_lmdb(tmp_path / "a.lmdb", IMAGES, protocol)
        check_regions(imported(source, "mmf-lmdb", tmp_path / "s"), ALL)

    def test_there_and_back(self, tmp_path):
        store = imported(write_mmf_lmdb(tmp_path / "a.lmdb", IMAGES), "mmf-lmdb", tmp_path / "s")
        export_features(store, tmp_path / "b.lmdb", format="mmf-lmdb")
        read = read_mmf_lmdb(tmp_path / "b.lmdb")
        assert list(read) == IDS
        for image in IMAGES:
            item = read[image.image_id]
            assert item["feature_path"] == image.image_id
            assert np.array_equal(item["features"], image.features)
            assert np.array_equal(item["bbox"], image.boxes)
            assert item["num_boxes"] == len(image.boxes)
        assert same_arrays(store, imported(tmp_path / "b.lmdb", "mmf-lmdb", tmp_path / "t"))

    def test_damaged_values_cost_themselves(self, tmp_path):
        source = write_mmf_lmdb(tmp_path / "a.lmdb", IMAGES)
        env = lmdb.open(str(source), map_size=1 << 28)
        with env.begin(write=True) as txn:
            txn.put(IDS[0].encode(), b"\x80\x04damaged")
            txn.put(IDS[1].encode(), pickle.dumps({"bbox": IMAGES[1].boxes}))
            txn.put(IDS[2].encode(), pickle.dumps([1]))
            txn.put(IDS[3].encode(), pickle.dumps({"features": [1.0]}))
            txn.delete(IDS[4].encode())  # but its key stays in the list
        env.close()
        reasons = refused_rows(imported(source, "mmf-lmdb", tmp_path / "s"))
        assert sorted(reasons) == IDS[:5]
        assert "missing" in reasons[IDS[4]]


class TestCaptioning:
    def test_there_and_back(self, tmp_path):
        store = imported(write_captioning(tmp_path, IMAGES), "captioning-npz", tmp_path / "s")
        check_regions(store, BOXES, sized=False)
        export_features(store, tmp_path / "bu", format="captioning-npz")
        folder = tmp_path / "bu" / "bu_att"
        for image in IMAGES:
            assert np.array_equal(read_captioning(folder, image.image_id), image.features)
            boxes = np.load(tmp_path / "bu" / "bu_box" / f"{image.image_id}.npy")
            assert np.array_equal(boxes, image.boxes)
        assert same_arrays(store, imported(folder, "captioning-npz", tmp_path / "t"))

    def test_grids_need_no_layout(self, tmp_path):
        """prepro_feats.py writes 14 x 14 x 2048; cocotest_bu calls its array z."""
        (tmp_path / "talk_att").mkdir()
        for name, grid in GRIDS.items():
            np.savez(tmp_path / "talk_att" / name, **{"feat" if name == "1" else "z": grid})
        store = imported(tmp_path / "talk_att", "captioning-npz", tmp_path / "s")
        for name, grid in GRIDS.items():
            assert np.array_equal(store[name], grid)
        export_features(store, tmp_path / "b", format="captioning-npz")
        for name, grid in GRIDS.items():
            att = read_captioning(tmp_path / "b" / "b_att", name)
            assert np.array_equal(att.reshape(-1, att.shape[-1]), grid.reshape(-1, 6))


class TestOpenvqa:
    def test_vqa_there_and_back(self, tmp_path):
        folder = write_vqa(tmp_path / "a", IMAGES)
        with refuses("E-IMPORT-LAYOUT", "vqa", "gqa"):
            open_reader("openvqa-npz", [folder])
        store = imported(folder, "openvqa-npz", tmp_path / "s", layout="vqa")
        check_regions(store, BOXES)
        export_features(store, tmp_path / "b", format="openvqa-npz", options=Options(layout="vqa"))
        read = read_vqa(tmp_path / "b")
        for image in IMAGES:
            assert np.array_equal(read[str(int(image.image_id[-12:]))], image.features)
        again = imported(tmp_path / "b", "openvqa-npz", tmp_path / "t", layout="vqa")
        assert same_arrays(store, again)

    def test_gqa_there_and_back(self, tmp_path):
        store = imported(
            write_gqa(tmp_path / "a", IMAGES), "openvqa-npz", tmp_path / "s", layout="gqa"
        )
        check_regions(store, BOXES)
        export_features(store, tmp_path / "b", format="openvqa-npz", options=Options(layout="gqa"))
        read, wanted = read_gqa(tmp_path / "b"), read_gqa(tmp_path / "a")
        for image in IMAGES:
            assert np.array_equal(read[image.image_id][0], image.features)
            assert np.array_equal(read[image.image_id][1], wanted[image.image_id][1])
        again = imported(tmp_path / "b", "openvqa-npz", tmp_path / "t", layout="gqa")
        assert same_arrays(store, again)

    def test_ids_that_collide_are_named(self, tmp_path):
        folder = write_vqa(tmp_path / "a", IMAGES)
        (folder / f"{IDS[0]}.png.npz").write_bytes((folder / f"{IDS[0]}.jpg.npz").read_bytes())
        reader = open_reader("openvqa-npz", [folder], Options(layout="vqa"))
        report = import_features(reader, tmp_path / "s")
        assert (report.duplicates, report.duplicate_ids) == (1, (IDS[0],))
        images = [IMAGES[0], IMAGES[0]._replace(image_id="COCO_train2014_000000000042")]
        store = imported(write_bua(tmp_path / "c", images), "bua-npz", tmp_path / "t")
        report = export_features(
            store, tmp_path / "d", format="openvqa-npz", options=Options(layout="vqa")
        )
        assert report.written == 1
        assert report.refused == {"an id that ends in the same number as another id": 1}


class TestBua:
    def test_there_and_back_without_looking_at_info(self, tmp_path):
        store = imported(write_bua(tmp_path / "a", IMAGES), "bua-npz", tmp_path / "s")
        check_regions(store, BOXES)
        export_features(store, tmp_path / "b", format="bua-npz")
        for image in IMAGES:
            read = np.load(tmp_path / "b" / f"{image.image_id}.npz")
            assert np.array_equal(read["x"], image.features)
            assert np.array_equal(read["bbox"], image.boxes)
            assert (read["image_w"], read["image_h"]) == (image.width, image.height)
        assert same_arrays(store, imported(tmp_path / "b", "bua-npz", tmp_path / "t"))

    def test_damaged_archives_cost_themselves(self, tmp_path):
        folder = write_bua(tmp_path / "a", IMAGES)
        path = [folder / f"{image_id}.npz" for image_id in IDS]
        content = path[0].read_bytes()
        path[0].write_bytes(content[: len(content) // 2])
        np.savez(path[1], y=IMAGES[1].features)
        path[2].write_bytes(bomb(IMAGES[2].features))
        np.savez(path[3], x=np.array([{"a": 1}], dtype=object))
        path[4].write_bytes(b"<html>not found</html>")
        damaged = bytearray(path[5].read_bytes())
        damaged[damaged.index(b"x.npy") + 60] ^= 0xFF
        path[5].write_bytes(damaged)
        reasons = refused_rows(imported(folder, "bua-npz", tmp_path / "s"))
        assert sorted(reasons) == IDS[:6]
        assert "x: 4,294,967,295 bytes where its header says" in reasons[IDS[2]]
        assert "pickle" in reasons[IDS[3]]
        assert "lacks the array x" in reasons[IDS[1]]


def bomb(array: np.ndarray) -> bytes:
    """Return an archive whose member claims to be 4 GiB, with the header of a small array."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy(array)[:128] + bytes(1 << 20))
    size = (128 + (1 << 20)).to_bytes(4, "little")
    return file.getvalue().replace(size, b"\xff\xff\xff\xff")


class TestM2:
    def test_there_and_back(self, tmp_path):
        store = imported(write_m2(tmp_path / "a.hdf5", IMAGES), "m2-hdf5", tmp_path / "s")
        check_regions(store, SCORED, name=lambda i: str(int(i[-12:])), sized=False)
        export_features(store, tmp_path / "b.hdf5", format="m2-hdf5")
        for image in IMAGES:
            read = read_m2(tmp_path / "b.hdf5", f"{image.image_id}.jpg")
            assert np.array_equal(read, image.features)
        assert same_arrays(store, imported(tmp_path / "b.hdf5", "m2-hdf5", tmp_path / "t"))
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.hdf5", "b.hdf5", "s", "t"]

    def test_what_leads_elsewhere_is_refused(self, tmp_path):
        import h5py

        write_m2(tmp_path / "other.hdf5", IMAGES)
        secret = tmp_path / "secret"
        secret.write_bytes(bytes(64))
        with h5py.File(write_m2(tmp_path / "a.hdf5", IMAGES), "a") as file:
            file["900_features"] = h5py.ExternalLink("other.hdf5", "42_features")
            file["901_features"] = h5py.SoftLink("/42_features")
            layout = h5py.VirtualLayout((2, 8), np.float32)
            layout[:] = h5py.VirtualSource("other.hdf5", "42_features", (2, 8))
            file.create_virtual_dataset("902_features", layout)
            file.create_dataset("903_features", (2, 8), np.float32, external=[(str(secret), 0, 64)])
            file.create_dataset("904_features", (1 << 20, 1 << 20), np.float32, chunks=(64, 64))
            file["905_features"] = np.array([b"text"])
            file.create_group("906_features")
            del file["73_boxes"]
        reasons = refused_rows(imported(tmp_path / "a.hdf5", "m2-hdf5", tmp_path / "s"))
        assert sorted(reasons) == ["73", *map(str, range(900, 907))]
        assert "link" in reasons["900"]
        assert "another file" in reasons["902"]
        assert "another file" in reasons["903"]
        assert "at most" in reasons["904"]

    def test_another_file_is_named(self, tmp_path):
        (tmp_path / "a.hdf5").write_bytes(b"not HDF5")
        with refuses("E-IMPORT-HDF5"):
            open_reader("m2-hdf5", [tmp_path / "a.hdf5"])
        with refuses("E-IMPORT-SOURCE"):
            open_reader("m2-hdf5", [tmp_path])


class TestUniter:
    @pytest.mark.parametrize("compress", [True, False])
    def test_import(self, tmp_path, compress):
        source = write_uniter(tmp_path / "a", IMAGES, compress=compress)
        with refuses("E-IMPORT-SIZES"):
            open_reader("uniter-lmdb", [source])
        store = imported(source, "uniter-lmdb", tmp_path / "s", sizes=SIZES)
        assert store.identity.dtype == "float16"
        batch = store.read(IDS)
        for k, image in enumerate(IMAGES):
            n = len(image.boxes)
            assert np.array_equal(batch.features[k, :n], image.features.astype(np.float16))
            assert np.array_equal(batch.scores[k, :n], image.scores.astype(np.float16))
            sides = np.array([image.width, image.height] * 2, np.float32)
            wanted = norm_bb(image)[:, :4].astype(np.float16).astype(np.float32) * sides
            assert np.array_equal(batch.boxes[k, :n], wanted)

    def test_there_and_back(self, tmp_path):
        store = imported(write_mmf_npy(tmp_path / "a", IMAGES), "mmf-npy", tmp_path / "s")
        export_features(store, tmp_path / "all_compressed", format="uniter-lmdb")
        read = read_uniter(tmp_path / "all_compressed")
        assert list(read) == [f"{image_id}.npz" for image_id in IDS]
        for image in IMAGES:
            item = read[f"{image.image_id}.npz"]
            assert np.array_equal(item["features"], image.features)
            assert np.array_equal(item["norm_bb"], norm_bb(image))
            assert np.array_equal(item["conf"], image.scores)
        again = imported(tmp_path / "all_compressed", "uniter-lmdb", tmp_path / "t", sizes=SIZES)
        batch = again.read(IDS)
        for k, image in enumerate(IMAGES):
            assert np.array_equal(batch.features[k, : len(image.boxes)], image.features)
            assert np.allclose(batch.boxes[k, : len(image.boxes)], image.boxes, rtol=1e-6)

    def test_needs_regions(self, tmp_path):
        store = imported(write_bua(tmp_path / "a", IMAGES), "bua-npz", tmp_path / "s")
        with refuses("E-EXPORT-REGIONS", "scores"):
            export_features(store, tmp_path / "b", format="uniter-lmdb")

    def test_an_image_without_size_costs_itself(self, tmp_path):
        source = write_uniter(tmp_path / "a", IMAGES, compress=True)
        some = {image_id: SIZES[image_id] for image_id in IDS[1:]}
        store = imported(source, "uniter-lmdb", tmp_path / "s", sizes=some)
        assert list(refused_rows(store)) == IDS[:1]


class TestWebdataset:
    def test_there_and_back(self, tmp_path, monkeypatch):
        monkeypatch.setattr("clipfeat.featstore.exchange.webdataset.SHARD_SAMPLES", 3)
        store = imported(write_mmf_npy(tmp_path / "a", IMAGES), "mmf-npy", tmp_path / "s")
        export_features(store, tmp_path / "b", format="webdataset")
        assert sorted(p.name for p in (tmp_path / "b").iterdir()) == [
            f"00000{k}.tar" for k in range(3)
        ]
        read = read_tars(tmp_path / "b")
        assert list(read) == IDS
        for image in IMAGES:
            sample = read[image.image_id]
            for ending, array in (
                ("npy", image.features),
                ("boxes.npy", image.boxes),
                ("classes.npy", image.classes),
                ("scores.npy", image.scores),
            ):
                assert np.array_equal(np.load(io.BytesIO(sample[ending])), array)
        again = imported(tmp_path / "b", "webdataset", tmp_path / "t")
        check_regions(again, ALL)
        assert same_arrays(store, again)

    def test_samples_of_others(self, tmp_path):
        archive = io.BytesIO()
        np.savez(archive, features=GRIDS["1"], other=np.zeros(3))
        several = npy(GRIDS["1"])
        tar = write_tar(
            tmp_path / "0.tar",
            {
                "a/1.jpg": b"\xff\xd8",
                "a/1.npz": archive.getvalue(),
                "a/2.clip.npy": npy(GRIDS["2"]),
                "a/2.json": b'{"width": 640, "height": 480}',
                "a/3.txt": b"no features",
                "a/4.one.npy": several,
                "a/4.two.npy": several,
                "a/5.npy": several[:-4],
                "a/6.npy": b"\x93NUMPY",
                "a/7.json": b"[" * 10_000,
                "a/7.npy": several,
                "a/8.pyd": pickle.dumps(GRIDS["1"]),
            },
        )
        store = imported(tar, "webdataset", tmp_path / "s", layout="hwc")
        assert np.array_equal(store["a/1"], GRIDS["1"])
        assert np.array_equal(store["a/2"], GRIDS["2"])
        assert sorted(refused_rows(store)) == [f"a/{k}" for k in (3, 4, 5, 6, 7, 8)]
        sizes = {row.image_id: (row.width, row.height) for row in store.index}
        assert sizes["a/2"] == (640, 480)

    def test_a_damaged_tar_costs_itself(self, tmp_path):
        (tmp_path / "a").mkdir()
        for k in range(3):
            files = {f"{k}{n}.npy": npy(np.full((2, 4), n, np.float32)) for n in range(3)}
            write_tar(tmp_path / "a" / f"{k}.tar", files)
        path = tmp_path / "a" / "1.tar"
        path.write_bytes(path.read_bytes()[:700])
        store = imported(tmp_path / "a", "webdataset", tmp_path / "s")
        assert store.ids == ("00", "01", "02", "20", "21", "22")
        assert list(refused_rows(store)) == ["1.tar"]


class TestClipRetrieval:
    @staticmethod
    def write(folder, parts):
        import pyarrow as pa
        import pyarrow.parquet as pq

        for name in ("img_emb", "metadata"):
            (folder / name).mkdir(parents=True)
        for k, (paths, vectors) in enumerate(parts):
            np.save(folder / "img_emb" / f"img_emb_{k}.npy", vectors)
            table = pa.table({"image_path": paths, "caption": ["x"] * len(paths)})
            pq.write_table(table, folder / "metadata" / f"metadata_{k}.parquet")
        return folder

    def test_import(self, tmp_path):
        vectors = RNG.standard_normal((5, 6)).astype(np.float16)
        parts = [(["b/1.jpg", "b/0.jpg", "c"], vectors[:3]), (["x.y", "d.PNG"], vectors[3:])]
        store = imported(self.write(tmp_path / "a", parts), "clip-retrieval", tmp_path / "s")
        for k, image_id in enumerate(["b/1", "b/0", "c", "x.y", "d"]):
            assert np.array_equal(store[image_id], vectors[k][None, None])
        with refuses("E-EXPORT-FORMAT"):
            export_features(store, tmp_path / "b", format="clip-retrieval")

    def test_rows_that_cannot_be_told(self, tmp_path):
        vectors = RNG.standard_normal((5, 6)).astype(np.float32)
        parts = [(["a", "b"], vectors[:2]), (["c", "d"], vectors[:3]), (["e"], vectors[:1])]
        folder = self.write(tmp_path / "a", parts)
        (folder / "metadata" / "metadata_2.parquet").write_bytes(b"no table")
        reasons = refused_rows(imported(folder, "clip-retrieval", tmp_path / "s"))
        assert sorted(reasons) == ["c", "d", "img_emb_2"]
        assert "3 rows and metadata_1.parquet 2" in reasons["c"]


def test_sources_of_another_kind(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    for name in ("mmf-npy", "captioning-npz", "bua-npz", "grid-feats"):
        with refuses("E-IMPORT-SOURCE"):
            open_reader(name, [tmp_path / "file"])
        with refuses("E-IMPORT-EMPTY"):
            open_reader(name, [tmp_path / "empty"])
    for name in ("mmf-lmdb", "uniter-lmdb"):
        for source in ("file", "empty"):
            with refuses("E-IMPORT-LMDB"):
                open_reader(name, [tmp_path / source], Options(sizes=SIZES))
    with refuses("E-IMPORT-EMPTY", "file"):
        open_reader("webdataset", [tmp_path / "file"])
    with refuses("E-IMPORT-SOURCE"):
        open_reader("clip-retrieval", [tmp_path / "empty"])
