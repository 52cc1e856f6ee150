"""Databases, archives and matrices of many images come in, and their programs read what goes out."""

# pyright: reportOptionalSubscript=false
# These stores have boxes and scores.

import io
import pickle

import lmdb
import numpy as np
import pytest
from imported_files import (
    ALL,
    GRIDS,
    IDS,
    IMAGES,
    RNG,
    SCORED,
    SIZES,
    check_regions,
    imported,
    refused_rows,
    same_arrays,
)
from published_files import (
    norm_bb,
    npy,
    read_m2,
    read_mmf_lmdb,
    read_tars,
    read_uniter,
    write_bua,
    write_m2,
    write_mmf_lmdb,
    write_mmf_npy,
    write_tar,
    write_uniter,
)
from refused import refuses

from clipfeat.featstore.exchange import export_features, open_reader


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
            found, wanted = item["norm_bb"], norm_bb(image)
            assert np.array_equal(found[:, :4], wanted[:, :4])
            assert np.allclose(
                found, wanted, rtol=0, atol=1e-7
            )  # width, height: one is rounded twice
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
