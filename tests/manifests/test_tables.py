"""Tables of images: Parquet, CSV and JSON lines."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lists import made, picture
from refused import refuses

from clipfeat.base import jsonio
from clipfeat.manifests import Image, ManifestError, folder_manifest, write_manifest
from clipfeat.manifests.manifest import require_bounded


@pytest.fixture
def folder(tmp_path):
    picture(tmp_path / "x/a.jpg", 30, 20)
    picture(tmp_path / "x/b.jpg", 40, 50)
    return tmp_path


IMAGES = (Image("007", "x/a.jpg", 30, 20), Image("8", "x/b.jpg", 40, 50))


class TestCsv:
    @pytest.mark.parametrize("head", ["image_id,path", "id,file_name", "id,filename", "id,file"])
    def test_ids_are_kept_as_they_are_written(self, folder, head):
        (folder / "t.csv").write_text(f"{head}\n007,x/a.jpg\r\n8,x/b.jpg\n")
        assert made(folder / "t.csv")[0].images == IMAGES

    def test_columns_of_other_names_and_sizes_that_are_given(self, folder):
        (folder / "t.csv").write_text('\ufeffwidth,name,height,"where",id\n30,007,20,x/a.jpg,z\n')
        manifest, _ = made(folder / "t.csv", id_column="name", path_column="where")
        assert manifest.images == (Image("007", "x/a.jpg", 30, 20),)


class TestTsv:
    def test_tabs_separate_values_and_quotes_are_letters(self, folder):
        (folder / "t.tsv").write_text('id\ttitle\tfilepath\n007\tsay "a\tx/a.jpg\n8\t,\tx/b.jpg\n')
        assert made(folder / "t.tsv")[0].images == IMAGES

    def test_without_ids_they_are_names_and_a_row_for_each_text_is_one_image(self, folder):
        """As the tables that open_clip trains on: columns filepath and title."""
        rows = ["x/a.jpg\tone", "x/b.jpg\ttwo", "x/a.jpg\tthree"]
        (folder / "t.tsv").write_text("\n".join(["filepath\ttitle", *rows]))
        manifest, said = made(folder / "t.tsv")
        assert [image.image_id for image in manifest.images] == ["a", "b"]
        assert said == [f"{folder}/t.tsv: rows that repeat an image: 1"]
        by_path, _ = made(folder / "t.tsv", ids="path")
        assert [image.image_id for image in by_path.images] == ["x/a", "x/b"]

    def test_ids_of_a_column_are_not_replaced_unasked(self, folder):
        (folder / "t.tsv").write_text("id\tpath\n1\tx/a.jpg\n")
        with refuses("E-MANIFEST-OPTION", "column id", "drop --ids", kind=ManifestError):
            made(folder / "t.tsv", ids="path")


class TestPaths:
    def test_one_path_a_line_as_find_prints_them(self, folder):
        (folder / "x/c d.jpg").write_bytes((folder / "x/a.jpg").read_bytes())
        lines = "\ufeff./x/a.jpg\r\n\n" + f"{folder}/x/b.jpg\n" + "x/c d.jpg"
        (folder / "t.txt").write_text(lines)
        manifest, said = made(folder / "t.txt")
        assert manifest.images == (
            Image("a", "x/a.jpg", 30, 20),
            Image("b", "x/b.jpg", 40, 50),
            Image("c d", "x/c d.jpg", 30, 20),
        )
        assert said == []

    @pytest.mark.parametrize(
        ("content", "code", "shown"),
        [
            (b"", "E-MANIFEST-EMPTY", "lists no image"),
            (b"/etc/passwd", "E-MANIFEST-ROW", "/etc/passwd"),
            (b"../a.jpg", "E-MANIFEST-ROW", "../a.jpg"),
            (b"a.jpg 65\n", "E-MANIFEST-ABSENT", "a.jpg 65"),
            (b"a\ncaf\xe9.jpg", "E-TABLE-TEXT", "line 2"),
        ],
    )
    def test_lists_that_are_refused(self, tmp_path, content, code, shown):
        (tmp_path / "t.txt").write_bytes(content)
        with refuses(code, "t.txt", shown, kind=ManifestError):
            made(tmp_path / "t.txt")


class TestJsonLines:
    def test_ids_may_be_texts_or_numbers(self, folder):
        rows = [{"id": "007", "path": "x/a.jpg"}, {"id": 8, "path": "x/b.jpg", "more": [1]}]
        (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
        assert made(folder / "t.jsonl")[0].images == IMAGES


class TestParquet:
    @pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])  # fmt: skip
    def test_texts_of_any_kind(self, folder, kind):
        columns = {
            "label": pa.array([[1], [2]]),
            "path": pa.array(["x/a.jpg", "x/b.jpg"], kind),
            "image_id": pa.array(["007", "8"], kind),
        }
        pq.write_table(pa.table(columns), folder / "t.parquet")
        assert made(folder / "t.parquet")[0].images == IMAGES

    def test_more_rows_than_the_file_can_have_ids_for(self, folder):
        pq.write_table(
            pa.table({"id": ["a"] * 5_000_000, "path": ["b"] * 5_000_000}), folder / "t.parquet"
        )
        with refuses("E-MANIFEST-TABLE", "5,000,000 rows", kind=ManifestError):
            made(folder / "t.parquet")

    def test_counted_ids_are_never_too_many(self, folder):
        """The best that Parquet packs: numbers in a row, of which only the differences are kept."""
        ids = pa.array([f"{k:012}" for k in range(100_000)])
        paths = pa.array(["x/a.jpg"] * 100_000)
        pq.write_table(
            pa.table({"id": ids, "path": paths, "width": [1] * 100_000, "height": [1] * 100_000}),
            folder / "t.parquet",
            compression="zstd",
            use_dictionary=False,
            column_encoding={"id": "DELTA_BYTE_ARRAY", "path": "DELTA_BYTE_ARRAY"},
        )
        require_bounded(folder / "t.parquet", ManifestError)

    def test_ids_may_be_numbers(self, folder):
        columns = {"id": [8], "file": ["x/b.jpg"], "width": [40], "height": [50]}
        pq.write_table(pa.table(columns), folder / "t.parquet")
        assert made(folder / "t.parquet")[0].images == (Image("8", "x/b.jpg", 40, 50),)

    def test_a_manifest_is_such_a_table_and_keeps_its_root(self, folder, tmp_path):
        manifest = folder_manifest(folder / "x")
        (tmp_path / "elsewhere").mkdir()
        write_manifest(manifest, tmp_path / "elsewhere/m.parquet")
        assert made(tmp_path / "elsewhere/m.parquet")[0] == manifest


@pytest.mark.parametrize(
    ("name", "content", "code", "shown"),
    [
        ("t.csv", "", "E-MANIFEST-COLUMN", "path or file_name or filename or file or filepath or image; its columns are none"),
        ("t.csv", "id,where\n", "E-MANIFEST-COLUMN", "its columns are id, where; choose one with --pa"),
        ("t.csv", "id,path\n", "E-MANIFEST-EMPTY", ""),
        ("t.csv", "id,path\n1\n", "E-TABLE-VALUES", "t.csv line 2 has 1 values"),
        ("t.csv", "id,path,path\n1,a,b\n", "E-TABLE-HEADING", "path"),
        ("t.csv", "id,path\n,a.jpg\n", "E-MANIFEST-EMPTY", "both text and not empty"),
        ("t.csv", "id,path\n1,\n", "E-MANIFEST-EMPTY", "both text and not empty"),
        ("t.csv", 'id,path\n1,"a', "E-TABLE-QUOTE", "t.csv line 2"),
        ("t.csv", "id,path\n1,a.jpg" + "x" * 200_000, "E-TABLE-QUOTE", "t.csv line 2"),
        ("t.csv", b"id,path\n1,caf\xe9.jpg", "E-TABLE-TEXT", "line 2"),
        ("t.csv", "id,path,width,height\n1,a,,1\n", "E-MANIFEST-VALUE", "line 2: width"),
        ("t.csv", "id,path,width,height\n1,a,1e3,1\n", "E-MANIFEST-VALUE", "got '1e3'"),
        ("t.csv", f"id,path,width,height\n1,a,{'9' * 5000},1\n", "E-MANIFEST-VALUE", "got '9999"),
        ("t.csv", "id,path\n1,../a.jpg\n", "E-MANIFEST-ROW", "../a.jpg"),
        ("t.csv", "id,path\n1,a\x1b[2J\\b.jpg\n", "E-MANIFEST-ABSENT", r"a\x1b[2J\\b.jpg"),
        ("t.jsonl", "[1]\n", "E-JSON-TYPE", "line 1: expected an object"),
        ("t.jsonl", '{"id": 1, "path": "a.jpg"}\n{"id": 2}\n', "E-JSON-KEY", "line 2: no key 'path'"),
        ("t.jsonl", '{"id": true, "path": "a"}', "E-JSON-TYPE", "got True"),
        ("t.jsonl", '{"id": 1.5, "path": "a"}', "E-JSON-TYPE", "got 1.5"),
        ("t.jsonl", '{"id": null, "path": "a"}', "E-JSON-TYPE", "got None"),
        ("t.jsonl", '{"id": 1, "path": null}', "E-JSON-TYPE", "path must be of type str; got None"),
        ("t.jsonl", '{"id": "\\ud800", "path": "a"}', "E-MANIFEST-ABSENT", "none of its 1 image "),
        ("t.jsonl", "{" * 100, "E-JSON-READ", "line 1"),
        ("t.jsonl", "[" * 200_000, "E-JSON-READ", "line 1"),
        ("t.parquet", "no", "E-MANIFEST-READ", "not a readable Parquet file"),
    ],
)  # fmt: skip
def test_tables_that_are_refused(tmp_path, name, content, code, shown):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with refuses(code, name, shown, kind=ManifestError) as refused:
        made(tmp_path / name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("columns", "code", "shown"),
    [
        ({"id": ["1", None], "path": ["a", "b"]}, "E-MANIFEST-TABLE", "contains a null value"),
        ({"id": ["1"], "path": [["a"]]}, "E-MANIFEST-TABLE", "'path' must hold texts or numbers"),
        ({"id": [True], "path": ["a"]}, "E-JSON-TYPE", "row 0: id must be"),
        ({"id": [0.5], "path": ["a"]}, "E-JSON-TYPE", "got 0.5"),
        ({"id": [-1], "path": ["a"]}, "E-MANIFEST-VALUE", "got -1"),
        ({"id": ["1"], "path": [2]}, "E-JSON-TYPE", "path must be of type str; got 2"),
        (
            {"id": ["1"], "path": ["a"], "width": [1.5], "height": [1]},
            "E-MANIFEST-VALUE",
            "got 1.5",
        ),
        ({"id": ["1"], "path": ["a" * 5000]}, "E-MANIFEST-TABLE", "a text of 5,000 bytes"),
        ({"id": [b"1"], "path": ["a"]}, "E-MANIFEST-TABLE", "its type is binary"),
    ],
)
def test_columns_that_are_refused(tmp_path, columns, code, shown):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with refuses(code, shown, kind=ManifestError):
        made(tmp_path / "t.parquet")


def test_two_parquet_columns_of_one_name(tmp_path):
    table = pa.table([["1"], ["2"], ["a"]], names=["id", "id", "path"])
    pq.write_table(table, tmp_path / "t.parquet")
    with refuses("E-MANIFEST-COLUMN", "two columns", "id", kind=ManifestError):
        made(tmp_path / "t.parquet")


def test_lines_of_json_may_be_as_long_as_elsewhere(tmp_path, monkeypatch):
    picture(tmp_path / "a.jpg")
    long = {"id": 1, "path": "a.jpg", "boxes": [[0.123456789] * 4] * 40_000}
    (tmp_path / "t.jsonl").write_text(json.dumps(long))
    assert (tmp_path / "t.jsonl").stat().st_size > 1 << 20
    assert len(made(tmp_path / "t.jsonl")[0].images) == 1
    monkeypatch.setattr(jsonio, "MAX_LINE_BYTES", 1 << 20)
    with refuses("E-JSON-READ", "line 1 has more than 1,048,576 bytes", kind=ManifestError):
        made(tmp_path / "t.jsonl")
