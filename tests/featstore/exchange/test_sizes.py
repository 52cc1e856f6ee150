"""Sizes of images from tables that a user has written."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from published_tables import some_regions, write_vinvl
from refused import refuses

from clipfeat.base.errors import UsageError
from clipfeat.featstore.exchange import Options, import_features, open_reader, read_sizes

IMAGES = some_regions(["9", "42"])


@pytest.mark.parametrize(("name", "separator"), [("sizes.csv", ","), ("sizes.TSV", "\t")])
def test_sizes_are_read_from_a_table(tmp_path, name, separator):
    rows = [("height", "image_id", "note", "width")]
    rows += [(image.height, image.image_id, "x", image.width) for image in IMAGES]
    rows += [(0, "unknown", "x", 640)]
    text = "".join(separator.join(map(str, row)) + "\n" for row in rows)
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    sizes = read_sizes(str(tmp_path / name))
    assert sizes == {image.image_id: (image.width, image.height) for image in IMAGES}
    source = write_vinvl(tmp_path / "a.tsv", IMAGES)
    reader = open_reader("vinvl-tsv", [source], Options(layout="boxes", sizes=sizes))
    store = import_features(reader, tmp_path / "s", sizes=tmp_path / name).store
    assert {r.image_id: (r.width, r.height) for r in store.index} == sizes


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("image_id,width\n1,2\n", "no column height"),
        ("image_id,width,height\n1,2.5,3\n", "line 2"),
        ("image_id,width,height\n1,-2,3\n", "line 2"),
        ("image_id,width,height\n1,2,3\n1,3,2\n", "two sizes for the id 1"),
    ],
)
def test_a_table_that_has_no_sizes_is_refused(tmp_path, text, named):
    path = tmp_path / "sizes.csv"
    path.write_text(text)
    with refuses("E-IMPORT-SIZES", named, ".csv", kind=UsageError):
        read_sizes(path)


def test_a_table_of_other_columns_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image_path": ["a.jpg"]}), path)
    with refuses("E-IMPORT-SIZES", "image_id", "image_path", kind=UsageError):
        read_sizes(path)
