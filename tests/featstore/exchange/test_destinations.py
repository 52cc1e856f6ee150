"""What a file system or a database cannot hold costs its image, or ends the export with a reason."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from published_files import read_mmf_npy, write_captioning, write_mmf_npy
from published_tables import some_regions, write_bottom_up
from refused import refuses

from clipfeat.base.errors import StoreError
from clipfeat.featstore.exchange import export_features, import_features, lmdbs, m2, open_reader

LONG = "x" * 300
IMAGES = some_regions(["a", LONG, "a/b", "../c", "/d", "é"])


@pytest.fixture
def store(tmp_path):
    reader = open_reader("bottom-up-tsv", [write_bottom_up(tmp_path / "a.tsv", IMAGES)])
    return import_features(reader, tmp_path / "s").store


@pytest.mark.parametrize("name", ["mmf-npy", "captioning-npz", "bua-npz"])
def test_an_id_that_no_file_can_have_costs_itself_alone(tmp_path, store, name):
    out = tmp_path / "out" / "x"
    report = export_features(store, out, format=name)
    assert report.written == 3
    assert sum(report.refused.values()) == 3
    assert report.examples["an id that is too long for the name of a file"] == LONG
    source = out / "x_att" if name == "captioning-npz" else out
    again = import_features(open_reader(name, [source]), tmp_path / "t").store
    assert again.ids == ("a", "a/b", "é")
    assert not [path for path in tmp_path.rglob("*") if path.stem in ("c", "d")]
    if name == "mmf-npy":
        assert np.array_equal(read_mmf_npy(out, "é")["features"], IMAGES[-1].features)


def test_a_database_that_cannot_be_written_is_named(tmp_path, store, monkeypatch):
    monkeypatch.setattr(lmdbs, "MAP_BYTES", 1 << 12)
    with refuses("E-EXPORT-LMDB", "out", "ulimit -v", kind=StoreError):
        export_features(store, tmp_path / "out", format="mmf-lmdb")
    monkeypatch.undo()
    assert export_features(store, tmp_path / "out", format="mmf-lmdb").written == len(IMAGES)


@pytest.mark.parametrize(
    ("name", "write"), [("mmf-npy", write_mmf_npy), ("captioning-npz", write_captioning)]
)
def test_a_link_to_nothing_is_missing(tmp_path, name, write):
    folder = write(tmp_path / "a", some_regions(["1", "2"]))
    ending = ".npz" if name == "captioning-npz" else ".npy"
    (folder / f"gone{ending}").symlink_to(tmp_path / "nothing")
    report = import_features(open_reader(name, [folder]), tmp_path / "s")
    assert [(row.image_id, row.status) for row in report.refused] == [("gone", "missing")]


def test_a_full_disk_is_found_before_hdf5_finds_it(tmp_path, store, monkeypatch):
    numbered = import_features(
        open_reader("bottom-up-tsv", [write_bottom_up(tmp_path / "n.tsv", some_regions(["1"]))]),
        tmp_path / "n",
    ).store
    monkeypatch.setattr(m2, "free_bytes", lambda _: m2.SPARE_BYTES)
    with pytest.raises(OSError, match="No space left on device") as full:
        export_features(numbered, tmp_path / "a.hdf5", format="m2-hdf5")
    assert full.value.filename == str(tmp_path / "a.hdf5.part")
    monkeypatch.undo()
    assert export_features(numbered, tmp_path / "a.hdf5", format="m2-hdf5").written == 1


def test_places_are_the_same_on_every_machine(tmp_path, monkeypatch):
    write_mmf_npy(tmp_path / "a", some_regions(["1"]))
    first = import_features(open_reader("mmf-npy", [tmp_path / "a"]), tmp_path / "s").store
    monkeypatch.chdir(tmp_path)
    second = import_features(open_reader("mmf-npy", ["a"]), tmp_path / "t").store
    assert [row.source for row in first.index] == ["a/1.npy"]
    assert first.digest == second.digest


def test_boxes_are_found_from_within_the_folder(tmp_path, monkeypatch):
    folder = write_captioning(tmp_path / "x", some_regions(["1"]))
    monkeypatch.chdir(folder)
    store = import_features(open_reader("captioning-npz", ["."]), tmp_path / "s").store
    assert store.identity.regions == ("boxes",)


def test_what_clip_retrieval_has_half_of_is_named(tmp_path):
    source = tmp_path / "a"
    for folder in ("img_emb", "metadata"):
        (source / folder).mkdir(parents=True)
    for k, column in enumerate(("image_path", "image_path", "caption")):
        table = pa.table({column: [f"{k}/a.jpg", f"{k}/b.jpg"]})
        pq.write_table(table, source / f"metadata/metadata_{k}.parquet")
        np.save(source / f"img_emb/img_emb_{k}.npy", np.ones((2, 4), np.float16))
    (source / "img_emb/img_emb_1.npy").unlink()
    report = import_features(open_reader("clip-retrieval", [source]), tmp_path / "s")
    assert report.store.ids == ("0/a", "0/b")
    reasons = {row.image_id: row.reason for row in report.refused}
    assert reasons["1/a"] == reasons["1/b"] == "img_emb_1.npy: No such file or directory"
    assert "'image_path'; its columns are caption" in reasons["img_emb_2"]
