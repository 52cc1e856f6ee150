"""Images in Parquet files, laid out as the package `datasets` writes them."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lists import made
from pictures import photograph
from refused import refuses

from clipfeat.manifests import (
    ManifestError,
    folder_manifest,
    parquet_images,
    read_content,
    read_manifest,
    write_manifest,
)
from clipfeat.manifests.parquet_images import heads

# The storage type of `datasets.Image` (its documentation: "Image data model").
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def jpeg(seed: int = 0, width: int = 64) -> bytes:
    content = io.BytesIO()
    photograph(seed, width).save(content, "JPEG")
    return content.getvalue()


CONTENTS = [jpeg(k, 64 + k) for k in range(7)]


def write(path, images, kind=STRUCT, rows=3, name="image", **columns):
    table = pa.table({name: pa.array(images, kind), **columns})
    pq.write_table(table, path, row_group_size=rows)
    return path


def structs(paths):
    return [{"bytes": content, "path": path} for content, path in zip(CONTENTS, paths, strict=True)]


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_ids_are_the_names_of_the_files(tmp_path, rows):
    paths = [f"val2014/COCO_{9 - k}.jpg" for k in range(7)]
    path = write(tmp_path / "train-00000-of-00001.parquet", structs(paths), rows=rows)
    for source in (path, tmp_path):
        manifest, said = made(source)
        assert said == []
        assert [image.image_id for image in manifest.images] == [f"COCO_{k}" for k in range(3, 10)]
        for image in manifest.images:
            row = 9 - int(image.image_id[-1])
            assert image.path == f"{path.name}/image/{row}"
            assert (image.width, image.height) == (64 + row, 48)
            assert read_content(manifest.root, image.path) == CONTENTS[row]
    by_path, _ = made(path, ids="path")
    assert by_path.images[0].image_id == "val2014/COCO_3"
    write_manifest(manifest, tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet") == manifest
    assert made(tmp_path / "m.parquet")[0] == manifest


def test_names_that_are_not_utf8(tmp_path):
    path = write(tmp_path / "d.parquet", structs([f"cafE{k}.jpg" for k in range(7)]))
    path.write_bytes(path.read_bytes().replace(b"cafE", b"caf\xe9"))
    manifest, _ = made(path)
    assert [image.image_id for image in manifest.images] == [f"caf\\xe9{k}" for k in range(7)]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_bytes_alone_and_a_column_of_ids(tmp_path, kind):
    path = write(tmp_path / "d.parquet", CONTENTS, kind, name="jpg", image_id=list(range(10, 17)))
    manifest, _ = made(path)
    assert [(i.image_id, i.path, i.width) for i in manifest.images] == [
        (str(10 + k), f"d.parquet/jpg/{k}", 64 + k) for k in range(7)
    ]
    assert read_content(manifest.root, "d.parquet/jpg/6") == CONTENTS[6]


def test_without_names_and_ids_rows_are_numbered(tmp_path):
    write(tmp_path / "d.parquet", structs([None] * 7))
    manifest, _ = made(tmp_path)
    assert [image.image_id for image in manifest.images] == [f"d-{k:06}" for k in range(7)]


def test_an_image_with_several_questions_is_one(tmp_path):
    """As in data sets of questions, where a row has a question, and its image again."""
    for name, ids in (("a", [1, 1, 2, 3, 3, 3, 4]), ("b", [4, 5, 5, 5, 6, 7, 8])):
        write(tmp_path / f"{name}.parquet", structs([""] * 7), image_id=ids, question=["?"] * 7)
    manifest, said = made(tmp_path)
    assert [image.image_id for image in manifest.images] == list("12345678")
    assert manifest.images[3].path == "a.parquet/image/6"
    assert len(said) == 1
    assert said[0].endswith("whose image is used: 6, such as a.parquet/image/1")


def test_rows_without_an_image_are_left_to_extraction(tmp_path):
    images = structs([f"{k}.jpg" for k in range(7)])
    images[2] = {"bytes": None, "path": "2.jpg"}
    manifest, _ = made(write(tmp_path / "d.parquet", images))
    assert [image.width for image in manifest.images] == [64, 65, 0, 67, 68, 69, 70]
    for path in ("d.parquet/image/2", "d.parquet/image/7", "d.parquet/image/x", "d.parquet/no/1"):
        with pytest.raises(FileNotFoundError):
            read_content(str(tmp_path), path)
    names = ["image/2", "image/6", "image/0"]
    assert heads(str(tmp_path / "d.parquet"), names, 99) == [
        b"",
        CONTENTS[6][:99],
        CONTENTS[0][:99],
    ]


def test_several_columns_of_images(tmp_path):
    path = write(tmp_path / "d.parquet", CONTENTS, pa.binary(), name="left", right=CONTENTS[::-1])
    with refuses("E-MANIFEST-COLUMN", "left, right", "--path-column", kind=ManifestError):
        made(path)
    manifest, _ = made(path, path_column="right")
    assert read_content(manifest.root, manifest.images[0].path) == CONTENTS[6]


def test_a_table_of_paths_with_bytes_beside_them_is_a_table(tmp_path):
    photograph(0).save(tmp_path / "a.jpg")
    table = {"id": ["1"], "path": ["a.jpg"], "embedding": [b"1234"]}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    assert made(tmp_path / "t.parquet")[0].images[0].path == "a.jpg"


def test_a_row_group_that_would_fill_the_memory(tmp_path, monkeypatch):
    path = write(tmp_path / "d.parquet", structs([""] * 7), rows=7)
    monkeypatch.setattr(parquet_images, "MAX_GROUP", 8000)
    with refuses("E-PARQUET-GROUP", "d.parquet", "row_group_size=100", kind=ManifestError):
        made(path)
    with pytest.raises(OSError, match="more than 8,000 bytes"):
        read_content(str(tmp_path), "d.parquet/image/3")


def test_a_few_bytes_that_mean_many(tmp_path, monkeypatch):
    """A dictionary has a value once, and all rows refer to it; the footer counts it once, too."""
    path = write(tmp_path / "d.parquet", [bytes(100_000)] * 100, pa.binary(), rows=100)
    monkeypatch.setattr(parquet_images, "MAX_GROUP", 300_000)
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size < 200_000
    with pytest.raises(OSError, match="more than 300,000 bytes"):
        read_content(str(tmp_path), "d.parquet/image/99")


def test_a_damaged_file_costs_its_images(tmp_path):
    path = write(tmp_path / "d.parquet", structs([f"{k}.jpg" for k in range(7)]))
    content = bytearray(path.read_bytes())
    content[100:2000] = bytes(1900)
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"."):
        read_content(str(tmp_path), "d.parquet/image/0")
    assert read_content(str(tmp_path), "d.parquet/image/6") == CONTENTS[6]


def test_row_groups_that_are_kept_are_bounded(tmp_path, monkeypatch):
    write(tmp_path / "d.parquet", structs([""] * 7), rows=1)
    monkeypatch.setattr(parquet_images, "KEPT", 3 * len(CONTENTS[0]))
    parquet_images._groups.clear()
    for row in (0, 1, 2, 3, 4, 5, 6):
        assert read_content(str(tmp_path), f"d.parquet/image/{row}") == CONTENTS[row]
    assert 1 <= len(parquet_images._groups) <= 3


def test_a_folder_of_other_parquet_files(tmp_path):
    pq.write_table(pa.table({"question": ["?"]}), tmp_path / "d.parquet")
    with refuses("E-MANIFEST-COLUMN", "d.parquet has no column of images", kind=ManifestError):
        folder_manifest(tmp_path)
