"""clipfeat import and export as they are typed."""

import json

import numpy as np
import pytest
from command_lines import run_here as clipfeat
from published_tables import (
    read_bottom_up,
    some_regions,
    write_bottom_up,
    write_vinvl,
    write_vln,
)

from clipfeat.cli.exchange import FORMATS
from clipfeat.featstore import FeatureStore, exchange
from clipfeat.manifests import Image, Images, Manifest, write_manifest

IMAGES = some_regions(["a", "b", "c"])


def assert_refused(done, exit_code, code, *named):
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().endswith(f"[{code}]"), done.stderr
    for text in named:
        assert text in done.stderr


def test_the_formats_are_those_of_the_table():
    assert tuple(exchange.FORMATS) == FORMATS


def test_import_then_export(tmp_path):
    source, out = write_bottom_up(tmp_path / "a.tsv", IMAGES), tmp_path / "s.clipfeat"
    with source.open("a") as file:
        file.write("d\t640\n")
    done = clipfeat("import", source, "--as", "bottom-up-tsv", "-o", out)
    assert done.returncode == 0, done.stderr
    assert f"{out}: 3 records, " in done.stdout
    assert "1 image gave no record: 1 undecodable (has 2 columns; " in done.stdout
    assert clipfeat("store", "verify", out).returncode == 0
    done = clipfeat("store", "verify", out, "--recompute", 1, "--images", tmp_path)
    assert_refused(done, 2, "E-STORE-IMPORTED")
    done = clipfeat("store", "info", out)
    assert "imported, from bottom-up-tsv" in done.stdout
    done = clipfeat("import", source, "--as", "bottom-up-tsv", "-o", out, "--strict", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["digest"] == FeatureStore.open(out).digest
    assert report["counts"]["ok"] == 3
    (tmp_path / "ids.txt").write_text("a\nc\nd\n")
    options = ("--as", "bottom-up-tsv", "-o", tmp_path / "b.tsv", "--ids", tmp_path / "ids.txt")
    done = clipfeat("export", out, *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{tmp_path / 'b.tsv'}: 2 images",
        "1 image without a record: 1 undecodable (such as d)",
    ]
    assert list(read_bottom_up(tmp_path / "b.tsv")) == ["a", "c"]
    done = clipfeat("export", out, *options)
    assert_refused(done, 2, "E-EXPORT-EXISTS")


def test_a_finished_store_of_another_source_is_kept(tmp_path):
    out = tmp_path / "s"
    first = write_bottom_up(tmp_path / "a.tsv", IMAGES)
    assert clipfeat("import", first, "--as", "bottom-up-tsv", "-o", out).returncode == 0
    other = write_bottom_up(tmp_path / "b.tsv", IMAGES[:2])
    done = clipfeat("import", other, "--as", "bottom-up-tsv", "-o", out)
    assert_refused(done, 2, "E-STORE-OTHER", "backbone.source_sha256")
    done = clipfeat("import", first, "--as", "bottom-up-tsv", "-o", out, "--dtype", "float16")
    assert_refused(done, 2, "E-STORE-OTHER", "dtype")


def test_sizes_come_from_a_manifest(tmp_path):
    manifest = Manifest(
        str(tmp_path), Images.of(Image(i.image_id, "p", i.width, i.height) for i in IMAGES)
    )
    write_manifest(manifest, tmp_path / "images.parquet")
    source = write_vinvl(tmp_path / "a.tsv", IMAGES)
    options = (source, "--as", "vinvl-tsv", "--layout", "boxes", "-o", tmp_path / "s")
    assert_refused(clipfeat("import", *options), 2, "E-IMPORT-SIZES", "clipfeat manifest")
    done = clipfeat("import", *options, "--sizes", tmp_path / "images.parquet")
    assert done.returncode == 0, done.stderr
    batch = FeatureStore.open(tmp_path / "s").read(["a"])
    assert batch.boxes is not None
    assert np.allclose(batch.boxes[0], IMAGES[0].boxes, atol=1e-3)
    done = clipfeat("import", *options, "--sizes", source)
    assert_refused(done, 2, "E-IMPORT-SIZES", "no column image_id")
    (tmp_path / "broken.parquet").write_bytes(b"x")
    done = clipfeat("import", *options, "--sizes", tmp_path / "broken.parquet")
    assert_refused(done, 2, "E-IMPORT-SIZES", "not a readable Parquet file")


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (("views.tsv", "--as", "vln-tsv"), "E-IMPORT-CHANNELS", "rgb, bgr"),
        (("vinvl.tsv", "--as", "vinvl-tsv"), "E-IMPORT-LAYOUT", "boxes, vectors"),
        (("vinvl.tsv", "--as", "vinvl-tsv", "--layout", "x"), "E-IMPORT-LAYOUT", "got 'x'"),
        (("a.tsv", "--as", "bottom-up-tsv", "--layout", "x"), "E-IMPORT-OPTION", "--layout"),
        (("gone.tsv", "--as", "bottom-up-tsv"), "E-IMPORT-SOURCE", "gone.tsv"),
        (("a.tsv", "./a.tsv", "--as", "bottom-up-tsv"), "E-IMPORT-SOURCE", "twice"),
        (("a.tsv", "--as", "lxmert-tsv"), "E-IMPORT-COLUMNS", "as bottom-up-tsv has"),
        ((".", "--as", "lxmert-tsv"), "E-IMPORT-SOURCE", "is a folder"),
    ],
)
def test_what_cannot_be_known_is_asked(tmp_path, options, code, named):
    write_bottom_up(tmp_path / "a.tsv", IMAGES)
    write_vinvl(tmp_path / "vinvl.tsv", IMAGES)
    write_vln(tmp_path / "views.tsv", {("scan", "view"): np.ones((36, 4), np.float32)})
    before = sorted(tmp_path.iterdir())
    done = clipfeat("import", *options, "-o", "s", cwd=tmp_path)
    assert_refused(done, 2, code, named)
    assert sorted(tmp_path.iterdir()) == before
