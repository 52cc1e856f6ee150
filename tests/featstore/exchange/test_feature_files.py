"""Files of features of the published programs come in, and theirs read what goes out."""

# pyright: reportArgumentType=false
# numpy's types know no dict that is saved as an object.

import io
import zipfile

import numpy as np
import pytest
from imported_files import (
    ALL,
    BOXES,
    GRIDS,
    IDS,
    IMAGES,
    SIZES,
    check_regions,
    imported,
    refused_rows,
    same_arrays,
)
from published_files import (
    npy,
    read_captioning,
    read_gqa,
    read_mmf_npy,
    read_vqa,
    write_bua,
    write_captioning,
    write_gqa,
    write_mmf_npy,
    write_vqa,
)
from refused import refuses

from clipfeat.featstore.exchange import Options, export_features, import_features, open_reader


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


@pytest.mark.parametrize("comment", [b"", b"a comment"])
def test_an_archive_of_countless_members_is_refused(tmp_path, comment):
    folder = write_bua(tmp_path / "a", IMAGES)
    with zipfile.ZipFile(folder / f"{IDS[0]}.npz", "w") as archive:
        for n in range(20_000):
            archive.writestr(f"{n:06}.npy", b"")
        archive.comment = comment
    with zipfile.ZipFile(folder / f"{IDS[1]}.npz", "a") as archive:
        archive.comment = comment
    reasons = refused_rows(imported(folder, "bua-npz", tmp_path / "s"))
    assert reasons == {IDS[0]: "an archive with more members than features have"}


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
