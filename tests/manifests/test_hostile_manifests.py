"""Files that are hostile or were never checked: one line says what is wrong."""

import io
import json
import logging
import struct
import warnings
from typing import Any

import PIL.Image
import pyarrow.parquet as pq
import pytest
from lists import coco, made, picture
from pictures import photograph
from refused import refuses

from clipfeat.base.jsonio import read_json
from clipfeat.manifests import (
    Image,
    Manifest,
    ManifestError,
    listings,
    read_manifest,
    write_manifest,
)
from clipfeat.manifests.headers import read_sizes
from clipfeat.manifests.listings import kept_keys, read_listing


def image(**changes: Any) -> dict[str, Any]:
    return {"id": 1, "file_name": "a.jpg", "width": 4, "height": 3, **changes}


def vg(**changes: Any) -> list[Any]:
    return [{"image_id": 1, "url": "http://x/VG_100K/1.jpg", "width": 4, "height": 3, **changes}]


@pytest.mark.parametrize(
    ("content", "code", "shown"),
    [
        ("", "E-JSON-READ", ""),
        ("{", "E-JSON-READ", ""),
        ("[" * 300_000, "E-JSON-READ", ""),
        ('{"a":' * 300_000, "E-JSON-READ", ""),
        ('{"images": [{"id": ' + "9" * 5000 + "}]}", "E-JSON-READ", ""),
        (b'{"images": "caf\xe9"}', "E-JSON-READ", ""),
        ("1", "E-JSON-KEY", ""),
        ("{}", "E-JSON-KEY", ""),
        ('{"images": {"1": {}}}', "E-JSON-KEY", ""),
        ("[]", "E-MANIFEST-EMPTY", ""),
        ({"images": []}, "E-MANIFEST-EMPTY", ""),
        ([1], "E-JSON-TYPE", "image 0: expected an object; got 1"),
        ({"images": [[1]]}, "E-JSON-TYPE", "image 0: expected an object; got [1]"),
        ({"images": [image(), image(id=-2)]}, "E-MANIFEST-VALUE", "image 1: id"),
        ([{"image": 7}], "E-JSON-TYPE", "image 0: image must be of type str; got 7"),
        (
            [{"image": ["a.jpg", 7]}],
            "E-JSON-TYPE",
            "image 0 image: item must be of type str; got 7",
        ),
        ([{"image": "../a.jpg"}], "E-MANIFEST-ROW", "../a.jpg"),
        ([{"image": None}], "E-MANIFEST-EMPTY", "lists no image"),
        ({"images": [image(id=True)]}, "E-JSON-TYPE", "got True"),
        ({"images": [image(id=1.0)]}, "E-JSON-TYPE", "got 1.0"),
        ({"images": [image(id=-1)]}, "E-MANIFEST-VALUE", "got -1"),
        ({"images": [image(id=2**63)]}, "E-MANIFEST-VALUE", "got 9223372036854775808"),
        ({"images": [image(id=None)]}, "E-JSON-TYPE", "got None"),
        ({"images": [image(id=[])]}, "E-JSON-TYPE", "got []"),
        ({"images": [image(file_name=7)]}, "E-JSON-TYPE", "file_name must be of type str; got 7"),
        ({"images": [image(width="4")]}, "E-MANIFEST-VALUE", "got '4'"),
        ({"images": [image(height=-1)]}, "E-MANIFEST-VALUE", "height"),
        ({"images": [image(width=2**31)]}, "E-MANIFEST-VALUE", "width"),
        ({"images": [image(width=True)]}, "E-MANIFEST-VALUE", "got True"),
        ({"images": [{"id": 1}]}, "E-JSON-KEY", "image 0: no key 'file_name'; found 'id'"),
        ({"images": [image(file_name="")]}, "E-MANIFEST-EMPTY", "must have an id and a path"),
        ({"images": [image(file_name="/etc/passwd")]}, "E-MANIFEST-ROW", "/etc/passwd"),
        ({"images": [image(file_name="../../a.jpg")]}, "E-MANIFEST-ROW", "../../a.jpg"),
        ({"images": [image(file_name="x/..")]}, "E-MANIFEST-ROW", "x/.."),
        ({"images": [image(file_name="a\0.jpg")]}, "E-MANIFEST-EMPTY", "NUL"),
        ({"images": [image(file_name="..\\a.jpg")]}, "E-MANIFEST-ABSENT", "separated by /"),
        ({"images": [image(file_name="file:///etc/passwd")]}, "E-MANIFEST-ROW", "a URL"),
        ({"images": [image(file_name="C:/a.jpg")]}, "E-MANIFEST-ROW", "C:/a.jpg"),
        ({"images": [image(file_name="\ud800.jpg")]}, "E-MANIFEST-ABSENT", r"\ud800"),
        ({"images": [image(file_name="a" * 5000)]}, "E-MANIFEST-EMPTY", "4,096 bytes"),
        ({"images": [image(), image(file_name="b.jpg")]}, "E-MANIFEST-ID", "'1': a.jpg and b.jpg"),
        (
            {"images": [{"filename": "a.jpg", "cocoid": 1}]},
            "E-JSON-KEY",
            "no key 'split'; found 'filename', 'cocoid'",
        ),
        ({"images": [{"filename": "../a.jpg", "split": "x"}]}, "E-MANIFEST-ROW", "../a.jpg"),
        (
            {"images": [{"filename": "a.jpg", "filepath": "..", "split": "x"}]},
            "E-MANIFEST-ROW",
            "../a.jpg",
        ),
        ({"images": [{"filename": "a.jpg", "split": 1}]}, "E-JSON-TYPE", "split"),
        (
            {"images": [{"filename": "a.jpg", "cocoid": "1", "split": "x"}]},
            "E-MANIFEST-VALUE",
            "cocoid",
        ),
        (vg(image_id="1"), "E-MANIFEST-VALUE", "image_id"),
        (vg(url=5), "E-JSON-TYPE", "url"),
        (vg(url="http://x"), "E-MANIFEST-EMPTY", "must have an id and a path"),
        (vg(url="http://x/../.."), "E-MANIFEST-ROW", "../.."),
        (vg(url="http://[x/a"), "E-MANIFEST-ABSENT", "VG_100K*/IMAGE_ID.jpg"),
    ],
)
def test_json_that_is_refused(tmp_path, content, code, shown):
    picture(tmp_path / "a.jpg")
    content = content if isinstance(content, (str, bytes)) else json.dumps(content)
    path = tmp_path / "m.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with refuses(code, shown, kind=ManifestError) as refused:
        made(path)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000


def test_rows_that_no_file_can_have_cost_themselves_and_not_the_list(tmp_path):
    picture(tmp_path / "a.jpg")
    pairs = [("1", "a.jpg"), ("2", ""), ("", "a.jpg"), ("3", "b\0.jpg"), ("4", "c" * 5000)]
    lines = [json.dumps({"id": image_id, "path": path}) for image_id, path in pairs]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    manifest, said = made(tmp_path / "m.jsonl")
    assert [(each.image_id, each.path) for each in manifest.images] == pairs[:1]
    counts = {
        rule: line.split("): ")[1].split(",")[0]
        for line in said
        for rule in ("not empty", "no NUL", "4,096 bytes")
        if rule in line
    }
    assert counts == {"not empty": "2", "no NUL": "1", "4,096 bytes": "1"}
    assert all(len(line) < 600 for line in said)


def test_paths_outside_are_refused_before_any_folder_is_looked_into(tmp_path):
    (tmp_path / "root").mkdir()
    picture(tmp_path / "a.jpg")
    (tmp_path / "root/t.csv").write_text("id,path\n1,../a.jpg\n")
    with refuses("E-MANIFEST-ROW", "../a.jpg", kind=ManifestError):
        made(tmp_path / "root/t.csv")


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        (Image("a", "x/../../b.jpg", 1, 1), "below the root"),
        (Image("a", "/b.jpg", 1, 1), "below the root"),
        (Image("a", "s3://x/b.jpg", 1, 1), "not a URL"),
        (Image("a", "b\0.jpg", 1, 1), "no NUL"),
        (Image("a", "..\\b.jpg", 1, 1), "no backslash in its path except in escapes"),
        (Image("a", "b\\x2e.jpg", 1, 1), "no backslash in its path except in escapes"),
        (Image("a\0", "b.jpg", 1, 1), "no NUL"),
        (Image("\udce9", "b.jpg", 1, 1), "UTF-8"),
        (Image("a", "b.jpg", 2**31, 1), "size >= 0 in whole pixels"),
        (Image("a", "b.jpg", width=True, height=1), "size >= 0 in whole pixels"),
        (Image("a", "b.jpg", 1.5, 1), "size >= 0 in whole pixels"),  # type: ignore[arg-type]
        (Image(1, "b.jpg", 1, 1), "both text"),  # type: ignore[arg-type]
        (Image("\u00e9" * 2049, "b.jpg", 1, 1), "at most 4,096 bytes"),
    ],
)
def test_rows_that_no_manifest_holds(tmp_path, row, rule):
    with refuses("E-MANIFEST-ROW", rule, kind=ManifestError):
        Manifest.of(tmp_path, [row])


def test_names_that_look_odd_and_are_not(tmp_path):
    rows = [
        Image("..a", "..a/b..jpg", 1, 1),
        Image("\u00e9", "caf\u00e9 12:30.jpg", 2**31 - 1, 0),
        Image("\U0001f600", "./a//b.jpg", 1, 1),
        Image("a\x1b[2J", "a\n.jpg", 1, 1),
        Image("\uffff", "\u00e9" * 2048, 1, 1),
    ]
    manifest = Manifest.of(tmp_path, rows)
    assert manifest.images == tuple(sorted(rows))  # by code points, as Python sorts
    write_manifest(manifest, tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet") == manifest


def test_a_manifest_from_elsewhere_that_leads_out(tmp_path):
    write_manifest(Manifest.of(tmp_path, [Image("a", "a.jpg", 1, 1)]), tmp_path / "m.parquet")
    table = pq.read_table(tmp_path / "m.parquet")
    forged = table.set_column(1, "path", [["../../etc/passwd"]])
    pq.write_table(forged.replace_schema_metadata(table.schema.metadata), tmp_path / "m.parquet")
    with refuses("E-MANIFEST-ROW", "../../etc/passwd", kind=ManifestError):
        read_manifest(tmp_path / "m.parquet")


@pytest.mark.parametrize(
    ("root", "code"),
    [(b"\xff", "E-MANIFEST-READ"), (b"file:///etc", "E-MANIFEST-ROOT")],
)
def test_a_manifest_whose_root_is_no_root(tmp_path, root, code):
    write_manifest(Manifest.of(tmp_path, [Image("a", "a.jpg", 1, 1)]), tmp_path / "m.parquet")
    table = pq.read_table(tmp_path / "m.parquet")
    pq.write_table(table.replace_schema_metadata({b"clipfeat.root": root}), tmp_path / "m.parquet")
    with refuses(code, kind=ManifestError):
        read_manifest(tmp_path / "m.parquet")


def test_annotations_are_not_kept_in_memory(tmp_path, monkeypatch):
    path = tmp_path / "m.json"
    path.write_text(json.dumps(coco([1])))
    record = coco([1])["images"][0]
    kept = {key: value for key, value in record.items() if key != "license"}
    assert read_json(path, object_hook=kept_keys) == {"images": [kept]}
    hooks = []
    monkeypatch.setattr(
        listings, "read_json", lambda *_, object_hook: hooks.append(object_hook) or {"images": []}
    )
    with refuses("E-MANIFEST-EMPTY"):
        read_listing(path)
    assert hooks == [kept_keys]


def test_headers_that_pillow_fails_over_or_remarks_on(tmp_path, capfd):
    """Each parser has errors and remarks of its own; a size is asked of every file of a folder."""
    avif, tiff = io.BytesIO(), io.BytesIO()
    photograph(1).save(avif, "AVIF")
    photograph(1).save(tiff, "TIFF")
    samples = struct.Struct("<HHIH")  # a pixel: tag 277 of TIFF
    files = {
        "a.jpg": avif.getvalue().replace(b"iloc", b"none"),
        "b.tif": tiff.getvalue().replace(samples.pack(277, 3, 1, 3), samples.pack(277, 3, 1, 999)),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    logger = logging.getLogger("PIL")
    before = (PIL.Image.MAX_IMAGE_PIXELS, list(warnings.filters), list(logger.handlers))
    assert read_sizes(str(tmp_path), list(files)) == [(0, 0), (0, 0)]
    assert capfd.readouterr() == ("", "")
    after = (PIL.Image.MAX_IMAGE_PIXELS, list(warnings.filters), list(logger.handlers))
    assert after == before  # these settings belong to the process
    assert before[0] is not None
