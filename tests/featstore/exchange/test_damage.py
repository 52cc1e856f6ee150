"""Damaged lines cost themselves alone, and hostile ones neither memory nor time."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peak_memory import peak, start_peak
from published_tables import b64, some_regions, write_bottom_up, write_lxmert, write_vinvl
from refused import refuses

from clipfeat.base.errors import StoreError, UsageError
from clipfeat.base.files import try_lock
from clipfeat.featstore import FeatureStore, GridShape, verify
from clipfeat.featstore.exchange import (
    Features,
    Item,
    Options,
    export_features,
    import_features,
    importing,
    lines,
    open_reader,
    progress,
)
from clipfeat.featstore.exchange.formats import FORMATS
from clipfeat.featstore.exchange.lines import LineWriter
from clipfeat.featstore.identity import FloatDtype, Region

IMAGES = some_regions([str(k) for k in range(5)])


def lines_of(images):
    """Return each image as bottom-up-attention writes it, as bytes."""
    return [line.encode() for line in text_lines_of(images)]


def text_lines_of(images):
    return [
        "\t".join(
            [
                i.image_id,
                str(i.width),
                str(i.height),
                str(len(i.boxes)),
                b64(i.boxes),
                b64(i.features),
            ]
        )
        + "\r\n"
        for i in images
    ]


def imported(path, name="bottom-up-tsv", **options):
    reader = open_reader(name, [path])
    out = path.with_suffix(".clipfeat")
    report = import_features(reader, out, **options)
    reader.close()
    assert verify(out) == []
    return report


def statuses(report):
    return {row.image_id: (row.status, row.reason) for row in report.refused}


LINES = lines_of(IMAGES)
FIELDS = LINES[1].rstrip().split(b"\t")


def changed(column, value):
    """Return the second line with another value in a column."""
    return b"\t".join([*FIELDS[:column], value, *FIELDS[column + 1 :]]) + b"\r\n"


NAN = np.array([np.nan], np.float32)


@pytest.mark.parametrize(
    ("line", "image_id", "status", "named"),
    [
        (LINES[1][:-30] + b"\n", "1", "undecodable", "is cut off or damaged: its features"),
        (LINES[1][: len(LINES[1]) // 3], "1", "undecodable", "has 10 columns, as lxmert-tsv has"),
        (b"1\t640\n", "1", "undecodable", "has 2 columns"),
        (b"nothing but words\n", "a.tsv line 2", "undecodable", "has no tabs"),
        (b"\xff\xfe\t1\t1\n", "a.tsv line 2", "undecodable", "not UTF-8"),
        (b"\t" + LINES[1].partition(b"\t")[2], "a.tsv line 2", "undecodable", "its id has 0 bytes"),
        (changed(1, b"wide"), "1", "undecodable", "its img_w is not a whole number: b'wide'"),
        (changed(3, b"0"), "1", "unsupported", "it has no regions"),
        (changed(3, b"999999999"), "1", "too_large", "has 999,999,999 regions"),
        (changed(3, b"9" * 5000), "1", "undecodable", "its num_boxes is not a whole number"),
        (changed(3, b"4096"), "1", "undecodable", "is cut off or damaged: its boxes"),
        (changed(5, b"*" * len(FIELDS[5])), "1", "undecodable", "its features are not base64"),
        (
            changed(4, b64(np.full_like(IMAGES[1].boxes, np.inf)).encode()),
            "1", "undecodable", "its boxes hold a number that is not finite",
        ),
        (
            changed(5, b64(np.full_like(IMAGES[1].features, np.nan)).encode()),
            "1", "undecodable", "its features hold a number that is not finite",
        ),
    ],
)  # fmt: skip
def test_a_damaged_line_costs_itself_alone(tmp_path, line, image_id, status, named):
    path = tmp_path / "a.tsv"
    path.write_bytes(b"".join([LINES[0], line, *LINES[2:]]))
    report = imported(path)
    glued = not line.endswith(b"\n")  # what follows it is lost with it
    assert set(report.store.ids) == {"0", "3", "4"} | (set() if glued else {"2"})
    ((found, (found_status, reason)),) = statuses(report).items()
    assert (found, found_status) == (image_id, status)
    assert named in reason
    assert report.refused[0].source == "a.tsv line 2"


def test_of_several_lines_with_one_id_the_first_whole_one_counts(tmp_path):
    again = [image._replace(features=image.features + 1) for image in IMAGES]
    path = tmp_path / "a.tsv"
    content = [*LINES[:4], LINES[4][:-20], b"\n", *lines_of(again[3:])]
    path.write_bytes(b"".join(content))
    report = imported(path)
    assert (report.duplicates, report.duplicate_ids) == (2, ("3", "4"))
    assert report.refused == ()
    assert np.array_equal(report.store["3"][:, 0], IMAGES[3].features)
    assert np.array_equal(report.store["4"][:, 0], again[4].features)
    assert "2 items left out, since the id came before (such as 3, 4)" in report.text()


def test_float16_refuses_what_it_cannot_hold(tmp_path):
    large = IMAGES[1].features.copy()
    large[0, 0] = 1e5
    path = write_bottom_up(tmp_path / "a.tsv", [IMAGES[0], IMAGES[1]._replace(features=large)])
    report = imported(path, dtype="float16")
    assert statuses(report) == {
        "1": ("failed", "has a number beyond float16; import it as float32")
    }


def test_a_class_beyond_32_bits_is_found(tmp_path):
    images = [IMAGES[0], IMAGES[1]._replace(classes=IMAGES[1].classes + (1 << 40))]
    report = imported(write_lxmert(tmp_path / "a.tsv", images), "lxmert-tsv")
    assert statuses(report) == {"1": ("undecodable", "a class is beyond 32 bits")}


def test_a_first_line_of_other_channels_costs_itself_alone(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b"".join([*lines_of(some_regions(["x"], dim=7)), *LINES[:2]]))
    report = imported(path)
    assert list(statuses(report)) == ["x"]
    assert report.store.dim == 8
    assert statuses(report)["x"][1].startswith("is cut off or damaged: its features have")


def test_a_mark_of_byte_order_is_no_part_of_an_id(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + b"".join(LINES))
    store = imported(path).store
    assert store.ids == tuple(sorted(image.image_id for image in IMAGES))
    assert np.array_equal(store["0"][:, 0], IMAGES[0].features)


def test_boxes_beyond_their_images_are_counted(tmp_path):
    wide = IMAGES[0]._replace(width=400, height=300, boxes=np.array([[0, 0, 400, 300]], np.float32))
    wide = wide._replace(features=IMAGES[0].features[:1])
    images = [
        wide,  # to the edge
        wide._replace(image_id="turned", width=300, height=400),
        wide._replace(image_id="negative", boxes=np.array([[9, 0, 8, 300]], np.float32)),
        wide._replace(image_id="before", boxes=np.array([[-2, 0, 8, 300]], np.float32)),
    ]
    report = imported(write_bottom_up(tmp_path / "a.tsv", images))
    assert (report.boxes_outside, len(report.store)) == (3, 4)
    assert "3 images with a box beyond the image" in report.text()
    assert (
        "beyond the image" not in imported(write_bottom_up(tmp_path / "b.tsv", images[:1])).text()
    )


def test_half_a_size_is_none(tmp_path):
    path = write_bottom_up(tmp_path / "a.tsv", [IMAGES[0]._replace(width=0), IMAGES[1]])
    (row, other) = imported(path, sizes={"0": (320, 200), "1": (1, 1)}).store.index
    assert (row.width, row.height) == (320, 200)
    assert (other.width, other.height) == (IMAGES[1].width, IMAGES[1].height)


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_source_must_be_a_file_or_a_folder(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with refuses("E-IMPORT-SOURCE", "is a pipe or a device"):
            open_reader(name, [path])


def test_a_source_without_a_whole_line(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b"")
    with refuses("E-IMPORT-EMPTY", "a.tsv"):
        open_reader("bottom-up-tsv", [path])
    path.write_bytes(b"one\ntwo\n")
    with refuses("E-IMPORT-COLUMNS", "line 1 of", "has no tabs", kind=UsageError):
        open_reader("bottom-up-tsv", [path])


def test_a_source_without_a_usable_number(tmp_path):
    bad = [image._replace(features=image.features * np.nan) for image in IMAGES]
    path = write_bottom_up(tmp_path / "a.tsv", bad)
    with refuses("E-IMPORT-NO-RECORDS", "5 undecodable", kind=StoreError):
        imported(path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tsv"]


def test_a_line_without_an_end_takes_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE", 1 << 20)
    path = tmp_path / "a.tsv"
    with path.open("wb") as file:
        file.write(LINES[0] + b"endless\t640\t480\t36\t")
        file.truncate(1 << 28)  # zeros
        file.seek(0, 2)
        file.write(b"\n" + LINES[1])
    before = start_peak()
    report = imported(path)
    assert peak() - before < 100 << 20
    assert report.store.ids == ("0", "1")
    assert statuses(report) == {"endless": ("too_large", "the line has more than 1,048,576 bytes")}


def test_ids_that_no_store_can_hold_are_never_cut_silently(tmp_path):
    class Odd:
        format: str = "odd"
        dim: int = 2
        dtype: FloatDtype = "float32"
        regions: tuple[Region, ...] = ()
        files: Sequence[Path] = ()

        def __init__(self):
            self.settings: dict[str, Any] = {}

        def items(self):
            for image_id in ("a\udcff", "b" * 5000, "c" * 4096):
                yield Item(image_id, GridShape(1, 1), 0)

        def read(self, item):
            return Features(np.ones((*item.shape, 2), np.float32))

        def close(self):
            pass

    report = import_features(Odd(), tmp_path / "s", sizes={"c" * 4096: (640, 480)})
    assert [(row.width, row.height) for row in report.store.index] == [(0, 0), (0, 0), (640, 480)]
    assert statuses(report)["b" * 1024][1].startswith("its id has 5,000 bytes")


def test_a_source_that_changes_meanwhile_is_not_taken_for_what_was_hashed(tmp_path, monkeypatch):
    path = tmp_path / "a.tsv"
    path.write_bytes(b"".join(LINES))
    hashes = importing.source_hashes

    def hashed_before_the_change(files):
        found = hashes(files)
        path.write_bytes(b"".join(LINES[:2]))
        return found

    monkeypatch.setattr(importing, "source_hashes", hashed_before_the_change)
    with refuses("E-IMPORT-CHANGED", "a.tsv", kind=StoreError):
        imported(path)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["a.tsv"]
    path.write_bytes(b"".join(LINES))
    store = imported(path).store
    assert len(store) == len(LINES)
    assert store.identity.backbone["source_sha256"] == hashes([path])["source_sha256"]


def test_nested_json_is_refused(tmp_path):
    path = write_vinvl(tmp_path / "a.tsv", IMAGES)
    with path.open("ab") as file:
        file.write(b'deep\t{"num_boxes": 1, "features": "", "x": ' + b"[" * 100_000 + b"\n")
    reader = open_reader("vinvl-tsv", [path], Options(layout="vectors"))
    report = import_features(reader, tmp_path / "s")
    assert statuses(report) == {"deep": ("undecodable", "its JSON is nested too deep")}


def test_many_files_are_named_by_their_listing(tmp_path):
    files = [tmp_path / f"{k % 4}" / f"{k:02}.npy" for k in range(17)]
    for k, file in enumerate(files):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x" * k)
    lines = sorted(f"{file.relative_to(tmp_path)}\t{file.stat().st_size}\n" for file in files)
    assert importing.source_hashes(files) == {
        "files": 17,
        "listing_sha256": hashlib.sha256("".join(lines).encode()).hexdigest(),
    }
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files[:2]]
    assert importing.source_hashes(files[:1]) == {"source_sha256": hashes[0]}
    assert importing.source_hashes(files[:2]) == {"source_sha256": hashes}


def test_a_log_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LOG_SECONDS", -1.0)
    imported(write_bottom_up(tmp_path / "a.tsv", IMAGES))
    logged = capsys.readouterr().err
    assert "scan: 5 images, " in logged
    assert "import: 5/5 images, " in logged


def test_a_disk_that_is_too_small(tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "free_bytes", lambda _: 100)
    path = write_bottom_up(tmp_path / "a.tsv", IMAGES)
    with refuses("E-IMPORT-SPACE", "100 bytes are free", kind=UsageError):
        imported(path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tsv"]


def interrupted(*_):
    raise KeyboardInterrupt


class TestExport:
    def test_images_of_unknown_size_are_counted(self, tmp_path):
        images = [*IMAGES[:4], IMAGES[4]._replace(width=0)]
        store = imported(write_bottom_up(tmp_path / "a.tsv", images)).store
        report = export_features(store, tmp_path / "b.tsv", format="bottom-up-tsv")
        ((reason, count),) = report.refused.items()
        assert count == 1
        assert report.examples[reason] == "4"
        assert "import with --sizes" in reason
        assert report.written == 4
        assert len((tmp_path / "b.tsv").read_bytes().splitlines()) == 4

    def test_ids_without_a_record_are_named(self, tmp_path):
        (tmp_path / "a.tsv").write_bytes(b"".join([*LINES[:4], LINES[4][:-20]]))
        store = imported(tmp_path / "a.tsv").store
        report = export_features(
            store, tmp_path / "b.tsv", format="bottom-up-tsv", ids=["4", "0", "nobody", "0"]
        )
        assert (report.written, report.left_out) == (1, 2)
        assert report.without_record == {"undecodable": 1, "unknown": 1}
        assert report.examples == {"undecodable": "4", "unknown": "nobody"}
        with refuses("E-EXPORT-EMPTY", "1 unknown (such as nobody)"):
            export_features(store, tmp_path / "c.tsv", format="bottom-up-tsv", ids=["nobody"])
        assert not list(tmp_path.glob("c.tsv*"))

    def test_what_exists_is_kept(self, tmp_path):
        store = imported(write_bottom_up(tmp_path / "a.tsv", IMAGES)).store
        with refuses("E-EXPORT-EXISTS", "a.tsv"):
            export_features(store, tmp_path / "a.tsv", format="bottom-up-tsv")
        (tmp_path / "b.tsv.partial").write_text("mine")
        with refuses("E-EXPORT-EXISTS", "b.tsv.partial"):
            export_features(store, tmp_path / "b.tsv", format="bottom-up-tsv")
        (tmp_path / "c.lineidx").write_text("mine")
        with refuses("E-EXPORT-EXISTS", "c.lineidx"):
            export_features(store, tmp_path / "c.tsv", format="vinvl-tsv")
        assert (tmp_path / "b.tsv.partial").read_text() == "mine"
        assert not list(tmp_path.glob("*.export.json"))

    def test_another_export_is_not_continued(self, tmp_path, monkeypatch):
        store = imported(write_bottom_up(tmp_path / "a.tsv", IMAGES)).store
        out = tmp_path / "b.tsv"
        with monkeypatch.context() as patch:
            patch.setattr(LineWriter, "finish", interrupted)
            with pytest.raises(KeyboardInterrupt):
                export_features(store, out, format="bottom-up-tsv")
        for other in ({"ids": ["0"]}, {"format": "vinvl-tsv"}):
            with refuses("E-EXPORT-OTHER", "b.tsv.export.json"):
                export_features(store, out, **{"format": "bottom-up-tsv", **other})
        journal = (tmp_path / "b.tsv.export.json").open("rb")
        assert try_lock(journal.fileno())
        with journal, refuses("E-EXPORT-LOCKED", "b.tsv"):
            export_features(store, out, format="bottom-up-tsv")
        report = export_features(store, out, format="bottom-up-tsv")
        assert (report.written, report.before) == (5, 5)
        assert "5 of them by an earlier call" in report.text()
        assert not list(tmp_path.glob("b.tsv.*"))

    def test_a_grid_is_no_region(self, tmp_path):
        from stores import make_store

        grids = {"a": np.ones((2, 2, 4), np.float16)}
        store = FeatureStore.open(make_store(tmp_path / "g", grids))
        for name in ("bottom-up-tsv", "lxmert-tsv", "vinvl-tsv"):
            with refuses("E-EXPORT-REGIONS", name, kind=UsageError):
                export_features(store, tmp_path / "b.tsv", format=name)
