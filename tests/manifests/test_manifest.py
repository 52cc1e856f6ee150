"""A manifest is checked when it is made, and survives Parquet."""

import os
import shutil
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lists import made
from logged import logged
from pictures import photograph, write_bad_files, write_photographs
from refused import refuses

from clipfeat import manifests
from clipfeat.manifests import (
    Image,
    Manifest,
    ManifestError,
    folder_manifest,
    read_content,
    read_manifest,
    write_manifest,
)


def test_the_public_names_and_what_they_say():
    assert manifests.__all__ == [
        "VIEWS",
        "Image",
        "Images",
        "Manifest",
        "ManifestError",
        "ManifestSummary",
        "SourceOptions",
        "folder_manifest",
        "make_manifest",
        "read_content",
        "read_manifest",
        "summarize_manifest",
        "view_files",
        "view_paths",
        "write_manifest",
    ]
    public = [getattr(manifests, name) for name in manifests.__all__ if name != "VIEWS"]
    assert all(thing.__doc__ and thing.__module__.startswith("clipfeat.") for thing in public)


class TestFolder:
    def test_ids_are_stems_and_sizes_come_from_headers(self, tmp_path):
        photograph(1, 70, 40).save(tmp_path / "b.png")
        (tmp_path / "sub").mkdir()
        photograph(0, 30, 50).save(tmp_path / "sub" / "a.JPG", "JPEG")
        (tmp_path / "readme.txt").write_text("passed over")
        assert folder_manifest(tmp_path).images == (
            Image("a", "sub/a.JPG", 30, 50),
            Image("b", "b.png", 70, 40),
        )

    def test_files_that_are_no_images_are_kept_for_extraction_to_judge(self, tmp_path):
        write_photographs(tmp_path, 1)
        bad = write_bad_files(tmp_path)
        sizes = {i.image_id: (i.width, i.height) for i in folder_manifest(tmp_path).images}
        assert sizes.keys() == {"p000", *bad}
        assert sizes["huge"] == (20_000, 20_000)
        assert sizes["text"] == sizes["empty"] == (0, 0)

    def test_names_that_are_odd_on_disk_are_escaped_and_can_be_read(self, tmp_path):
        names = [b"caf\xe9.jpg", b"a\\b.jpg", b"c\\xe9.jpg", "\u00e9.jpg".encode()]
        for seed, name in enumerate(names):
            photograph(seed).save(content := BytesIO(), "JPEG")
            Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(content.getvalue())
        with logged() as said:
            manifest = folder_manifest(tmp_path)
        assert manifest.images == (
            Image("a\\b", "a\\\\b.jpg", 64, 48),
            Image("c\\xe9", "c\\\\xe9.jpg", 64, 48),
            Image("caf\\xe9", "caf\\xe9.jpg", 64, 48),
            Image("\u00e9", "\u00e9.jpg", 64, 48),
        )
        assert len(said) == 1
        assert said[0].endswith("such as caf\\xe9.jpg")
        write_manifest(manifest, tmp_path / "m.parquet")
        assert read_manifest(tmp_path / "m.parquet") == manifest
        read = {read_content(manifest.root, image.path) for image in manifest.images}
        assert len(read) == 4
        again, _ = made(tmp_path / "m.parquet")  # as a table: its escapes are understood
        assert again == manifest

    def test_two_files_with_one_stem(self, tmp_path):
        photograph(0).save(tmp_path / "cat.jpg")
        photograph(0).save(tmp_path / "cat.png")
        with refuses("E-MANIFEST-ID", "'cat': cat.jpg and cat.png", kind=ManifestError):
            folder_manifest(tmp_path)

    @pytest.mark.parametrize(
        ("make", "code", "shown"),
        [
            (lambda folder: folder.rmdir(), "E-MANIFEST-SOURCE", "is not a folder"),
            (lambda folder: None, "E-MANIFEST-EMPTY", "expected names ending in .apng"),
            (lambda folder: (folder / "a.jpg").write_text("x"), "E-MANIFEST-EMPTY", "a.jpg"),
        ],
    )
    def test_folders_without_images(self, tmp_path, make, code, shown):
        (tmp_path / "images").mkdir()
        make(tmp_path / "images")
        with refuses(code, shown, kind=ManifestError):
            folder_manifest(tmp_path / "images")


class TestParquet:
    def test_round_trip(self, tmp_path):
        manifest = folder_manifest(write_photographs(tmp_path / "images", 3))
        write_manifest(manifest, tmp_path / "m.parquet")
        assert read_manifest(tmp_path / "m.parquet") == manifest

    def test_a_moved_image_folder_is_looked_for_beside_the_manifest(self, tmp_path):
        write_photographs(tmp_path / "here", 1)
        write_manifest(folder_manifest(tmp_path / "here"), tmp_path / "here" / "m.parquet")
        shutil.move(tmp_path / "here", tmp_path / "there")
        assert read_manifest(tmp_path / "there" / "m.parquet").root == str(tmp_path / "there")

    def test_a_file_that_is_none(self, tmp_path):
        (tmp_path / "m.parquet").write_text("no")
        with refuses("E-MANIFEST-READ", "not a readable Parquet file", kind=ManifestError):
            read_manifest(tmp_path / "m.parquet")

    def test_other_columns(self, tmp_path):
        pq.write_table(pa.table({"id": ["a"]}), tmp_path / "m.parquet")
        with refuses("E-MANIFEST-READ", "image_id string", "got id", kind=ManifestError):
            read_manifest(tmp_path / "m.parquet")

    def test_a_folder_to_write_to_that_is_not_there(self, tmp_path):
        manifest = Manifest.of(tmp_path, [Image("a", "a.jpg", 1, 1)])
        with refuses("E-MANIFEST-WRITE", "is not a folder", kind=ManifestError):
            write_manifest(manifest, tmp_path / "none" / "m.parquet")

    def test_a_name_by_which_it_would_be_read_as_something_else(self, tmp_path):
        manifest = Manifest.of(tmp_path, [Image("a", "a.jpg", 1, 1)])
        for name in ("m.csv", "m.jsonl", "m"):
            with refuses("E-MANIFEST-WRITE", f"{name}: ", ".parquet", kind=ManifestError):
                write_manifest(manifest, tmp_path / name)
            assert not (tmp_path / name).exists()
        write_manifest(manifest, tmp_path / "m.PARQUET")

    def test_a_pipe_is_not_replaced(self, tmp_path):
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        with refuses("E-MANIFEST-WRITE", "is not a regular file", kind=ManifestError):
            write_manifest(Manifest.of(tmp_path, [Image("a", "a.jpg", 1, 1)]), pipe)
        assert pipe.is_fifo()


@pytest.mark.parametrize(
    ("images", "code", "shown"),
    [
        ([], "E-MANIFEST-EMPTY", "at least one image"),
        ([Image("", "a.jpg", 1, 1)], "E-MANIFEST-ROW", "must have an id"),
        ([Image("a", "a.jpg", -1, 1)], "E-MANIFEST-ROW", "size >= 0"),
        (
            [Image("a", "x/a.jpg", 1, 1), Image("a", "y/a.jpg", 1, 1)],
            "E-MANIFEST-ID",
            "x/a.jpg and y/a.jpg",
        ),
    ],
)
def test_a_wrong_manifest_cannot_be_made(images, code, shown):
    with refuses(code, shown, kind=ManifestError):
        Manifest.of(Path("root"), images)
