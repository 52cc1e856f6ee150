"""Lists of ids: searched, filtered and cut into pages, against plain Python over the same rows."""

import random

import numpy as np
import pyarrow as pa
import pytest
from explorers import client_of
from stores import make_store

from clipfeat.base.errors import MissingRecordError, UsageError
from clipfeat.view import ids as module
from clipfeat.view.ids import COLUMNS, Catalogue

STATUSES = ("ok", "missing", "failed")
HOSTILE = (
    "it's", 'say "x"', "a/../../etc/passwd", "line\nbreak", "tab\t", "<script>alert(1)</script>",
    "&amp;", "%2e%2e", "\u202eright", "caf\u00e9", "\U0001f600", "a" * 4000, "?id=b&store=c", "\x00",
)  # fmt: skip


def catalogue(rows: list[tuple], chunk: int = 1000) -> Catalogue:
    types = [pa.int32() if name in ("width", "height") else pa.string() for name in COLUMNS]
    schema = pa.schema(list(zip(COLUMNS, types, strict=True)))
    batches = []
    for start in range(0, len(rows), chunk):
        columns = zip(*rows[start : start + chunk], strict=True)
        arrays = [pa.array(c, kind) for c, kind in zip(columns, types, strict=True)]
        batches.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return Catalogue(batches, "made-up")


@pytest.fixture(scope="module")
def rows() -> list[tuple]:
    draw = random.Random(0)
    ids = sorted(
        {f"{draw.choice(('COCO', 'coco', 'vg'))}_{draw.randrange(9000)}" for _ in range(5000)}
    )
    return [
        (i, draw.choice(STATUSES), "", draw.choice(("7x7", "7x9")), 640, 480, f"{i}.jpg")
        for i in ids
    ]


@pytest.mark.parametrize("search", ["", "coco", "99", "COCO_1", "nothing", "_"])
@pytest.mark.parametrize("status", ["", "ok", "failed", "undecodable"])
@pytest.mark.parametrize("shape", ["", "7x9", "8x8"])
def test_what_fits_is_found_in_order(rows, search, status, shape):
    expected = [
        row[0]
        for row in rows
        if search.lower() in row[0].lower()
        and (not status or row[1] == status)
        and (not shape or (row[3] == shape and row[1] == "ok"))
    ]
    total, page = catalogue(rows).page(search=search, status=status, shape=shape, start=3, count=50)
    assert total == len(expected)
    assert [entry.image_id for entry in page] == expected[3:53]


def test_pages_of_a_million_ids_are_those_of_the_index():
    number = 1_000_000
    texts = np.char.add("image_", np.char.zfill(np.arange(number).astype(str), 9))
    image_ids = pa.array(texts.tolist(), pa.string())
    constant = {"status": "ok", "reason": "", "shape": "7x7", "width": 0, "height": 0, "source": ""}
    columns = [image_ids]
    for name in COLUMNS[1:]:
        kind = pa.int32() if name in ("width", "height") else pa.string()
        columns.append(pa.repeat(pa.scalar(constant[name], kind), number))
    found = Catalogue([pa.RecordBatch.from_arrays(columns, names=list(COLUMNS))], "made-up")
    total, page = found.page(start=999_990, count=500)
    assert total == number
    assert [e.image_id for e in page] == [f"image_{k:09d}" for k in range(999_990, number)]
    total, page = found.page(search="00777", start=0, count=1)
    assert total == sum("00777" in f"{k:09d}" for k in range(number))
    assert page[0].image_id == "image_000000777"
    assert found.find("image_000500000").size is None
    assert found.shapes == {"7x7": number}


def test_a_sample_has_ids_with_a_record_alone_and_is_the_same_each_time(rows):
    good = {row[0] for row in rows if row[1] == "ok"}
    first, again = (catalogue(rows).with_record(100) for _ in range(2))
    assert first == again
    assert set(first) <= good
    assert len(set(first)) == len(first) == 100
    assert catalogue(rows).with_record(9) == first[:9]
    assert set(catalogue(rows).with_record(10**6)) == good


def test_an_id_is_found_in_both_of_its_unicode_forms():
    found = catalogue([("cafe\u0301", "ok", "", "1x1", 2, 3, "x")])
    assert found.find("caf\u00e9") == found.find("cafe\u0301")
    assert found.find("caf\u00e9").size == (2, 3)
    with pytest.raises(MissingRecordError):
        found.find("cafe")


def test_a_status_or_a_shape_that_cannot_be_is_an_error(rows):
    with pytest.raises(UsageError) as error:
        catalogue(rows).page(status="broken", start=0, count=1)
    assert error.value.code == "E-VIEW-STATUS"
    with pytest.raises(UsageError):
        catalogue(rows).page(shape="7by7", start=0, count=1)


def test_an_empty_store_has_no_page():
    found = catalogue([])
    assert found.page(search="a", status="ok", shape="7x7", start=0, count=10) == (0, [])
    assert found.shapes == {}
    assert found.with_record(5) == []


def test_a_store_of_too_many_ids_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_IDS", 1)
    make_store(tmp_path / "s", {k: np.ones((1, 1, 4)) for k in "ab"})
    with pytest.raises(UsageError) as error:
        client_of(tmp_path / "s")
    assert error.value.code == "E-VIEW-IDS"


def test_ids_of_any_text_come_through_http_as_they_are(tmp_path):
    names = [name for name in HOSTILE if "\0" not in name]
    grids = {name: np.full((1, 2, 4), k + 1.0) for k, name in enumerate(names)}
    client = client_of(make_store(tmp_path / "s", grids))
    listed = client.get("ids", store="a", count=100)
    assert [each["id"] for each in listed["ids"]] == sorted(names, key=str.encode)
    for k, name in enumerate(names):
        record = client.get("record", store="a", id=name)
        assert record["id"] == name
        assert record["norms"] == [2 * (k + 1.0)] * 2  # of four equal channels
    assert client.refused("record", 404, store="a", id="\x00") == "E-STORE-NO-ID"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({}, 400), ({"store": "z"}, 404), ({"store": "a", "count": 501}, 400),
        ({"store": "a", "count": "-1"}, 400), ({"store": "a", "count": "1e3"}, 400),
        ({"store": "a", "start": "\u0661"}, 400), ({"store": "a", "search": "x" * 301}, 400),
        ({"store": ["a", "a"]}, 400), ({"store": "a", "shape": "0x3"}, 400),
        ({"store": "a", "status": "OK"}, 400),
    ],
)  # fmt: skip
def test_queries_out_of_bounds_are_refused(tmp_path, query, status):
    client = client_of(make_store(tmp_path / "s", {"i": np.ones((1, 1, 4))}))
    assert client.refused("ids", status, **query).startswith("E-")
