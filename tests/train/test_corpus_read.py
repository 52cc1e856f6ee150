"""Sentences for pre-training: LXMERT's files and tables of captions, and what is refused."""

import doctest
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from refused import refuses

from clipfeat.base.errors import UsageError
from clipfeat.train.data import ids as images_module
from clipfeat.train.data.ids import lxmert_candidates
from clipfeat.train.data.lxmert import Sentence, find_corpus, read_sentences

NAME = "COCO_val2014_000000393267"


def image(**changes: Any) -> dict[str, Any]:
    return {"img_id": NAME, "sentf": {"vqa": ["Why?"]}, "labelf": {"vqa": [{"net": 1}]}} | changes


def read(folder: Path, content: Any) -> list[Sentence]:
    path = folder / "part.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return list(read_sentences(path))


def test_doctests() -> None:
    results = doctest.testmod(images_module)
    assert (results.failed, results.attempted) == (0, 8)


@pytest.mark.parametrize(
    ("image_id", "candidates"),
    [
        ("COCO_train2014_000000000009", ("COCO_train2014_000000000009", "000000000009", "9")),
        ("2354786", ("VG_2354786", "2354786")),
        ("1000092795.jpg", ("1000092795.jpg", "1000092795")),
        ("COCO_val2014_9", ("COCO_val2014_9", "COCO_val2014_9.jpg")),
        ("COCO_val2014_000000000009.png", ("COCO_val2014_000000000009", "000000000009", "9")),
        ("a/1.png", ("a/1.png", "a/1")),
        ("²", ("²", "².jpg")),
    ],
)
def test_what_a_store_may_call_an_image(image_id: str, candidates: tuple[str, ...]) -> None:
    assert lxmert_candidates(image_id) == candidates


def test_lxmerts_files_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = ["A net.", "", " \n", "A \u732b."]
    images = [
        image(
            sentf={"mscoco": captions, "vqa": ["Why?", "Who?"]}, labelf={"vqa": [{"net": 1}, {}]}
        ),
        {
            "img_id": 2354786,
            "sentf": {"visual7w": ["Where?"]},
            "labelf": {"visual7w": [{"a": 0.3}]},
        },
        {"img_id": "cc_1", "sentf": {"cc": ["A bus."]}},
        {"img_id": "empty", "sentf": {}, "labelf": {}},
    ]
    assert read(tmp_path, images) == [
        Sentence(NAME, "A net.", "mscoco", None),
        Sentence(NAME, "A 猫.", "mscoco", None),
        Sentence(NAME, "Why?", "vqa", {"net": 1.0}),
        Sentence(NAME, "Who?", "vqa", {}),
        Sentence("2354786", "Where?", "visual7w", {"a": 0.3}),
        Sentence("cc_1", "A bus.", "cc", None),
    ]
    remark = f"{tmp_path / 'part.json'}: 2 blank sentences are dropped\n"
    assert capsys.readouterr().err == remark


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        ("{", "E-JSON-READ", ""),
        ("[" * 100_000, "E-JSON-READ", ""),
        ({"img_id": "a"}, "E-JSON-TYPE", "{'img_id'"),
        ([], "E-DATA-EMPTY", ""),
        ([image(sentf={"vqa": [""]})], "E-DATA-EMPTY", ""),
        ([3], "E-JSON-TYPE", "[0]: expected an object with 'img_id'; got 3"),
        ([image(img_id=None)], "E-JSON-TYPE", "[0]: img_id"),
        ([image(img_id=True)], "E-JSON-TYPE", "got True"),
        ([image(img_id="\ud800")], "E-JSON-UNICODE", r"'\ud800'"),
        ([image(), image()], "E-DATA-TWICE", f"[1]: img_id '{NAME}'"),
        ([{"img_id": "a"}], "E-JSON-KEY", "[0] 'a': no key 'sentf'"),
        ([image(sentf=["Why?"])], "E-JSON-TYPE", "sentf"),
        ([image(sentf={"vqa": "Why?"})], "E-JSON-TYPE", "sentf: vqa"),
        ([image(sentf={"vqa": [1]})], "E-JSON-TYPE", "sentf vqa[0]"),
        ([image(sentf={"vqa": ["\udfff?"]})], "E-JSON-UNICODE", "sentence"),
        ([image(sentf={"\udfff": ["?"]}, labelf={})], "E-JSON-UNICODE", "sentf"),
        ([image(labelf=[])], "E-JSON-TYPE", "labelf"),
        ([image(labelf={"gqa": [{}]})], "E-CORPUS-LABELS", "'gqa'"),
        ([image(labelf={"vqa": {}})], "E-JSON-TYPE", "labelf: vqa"),
        ([image(labelf={"vqa": []})], "E-CORPUS-LABELS", "'vqa' has 1 sentences and 0 labels"),
        ([image(labelf={"vqa": ["net"]})], "E-CORPUS-LABELS", "got 'net'"),
        ([image(labelf={"vqa": [None]})], "E-CORPUS-LABELS", "got None"),
        ([image(labelf={"vqa": [{"net": "1"}]})], "E-CORPUS-LABELS", "'net' must be 0 to 1"),
        ([image(labelf={"vqa": [{"net": True}]})], "E-CORPUS-LABELS", "got True"),
        ([image(labelf={"vqa": [{"net": 1.1}]})], "E-CORPUS-LABELS", "got 1.1"),
        ([image(labelf={"vqa": [{"net": -0.1}]})], "E-CORPUS-LABELS", "got -0.1"),
        ([image(labelf={"vqa": [{"net": float("nan")}]})], "E-CORPUS-LABELS", "got nan"),
        ([image(labelf={"vqa": [{"net": [1]}]})], "E-CORPUS-LABELS", "got [1]"),
        ([image(labelf={"vqa": [{"\ud800": 1}]})], "E-JSON-UNICODE", "answer"),
    ],
)
def test_a_bad_file_is_named_with_its_record(
    tmp_path: Path, content: Any, code: str, named: str
) -> None:
    with refuses(code, str(tmp_path / "part.json"), named) as caught:
        read(tmp_path, content)
    assert str(caught.value).isprintable()


ROWS = [Sentence("cc_1", "A bus, red.", "table", None), Sentence("2", 'A "cat".', "table", None)]


def write_csv(folder: Path) -> Path:
    path = folder / "cc.csv"
    path.write_text('url,image_id,caption\nu,cc_1,"A bus, red."\nv,2,"A ""cat""."\nw,3," "\n')
    return path


def write_tsv(folder: Path) -> Path:
    path = folder / "cc.tsv"
    path.write_text('caption\tid\nA bus, red.\tcc_1\nA "cat".\t2\n\t3\n', encoding="utf-8-sig")
    return path


def write_parquet(folder: Path) -> Path:
    path = folder / "cc.parquet"
    columns = {"id": [0, 0, 0], "caption": ["A bus, red.", 'A "cat".', ""]}
    pq.write_table(pa.table(columns | {"image_id": ["cc_1", "2", "3"]}), path)
    return path


@pytest.mark.parametrize("write", [write_csv, write_tsv, write_parquet])
def test_tables_of_captions_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Callable[[Path], Path]
) -> None:
    path = write(tmp_path)
    assert list(read_sentences(path)) == ROWS
    assert capsys.readouterr().err == f"{path}: 1 blank sentences are dropped\n"


def test_a_table_may_have_numbers_for_ids(tmp_path: Path) -> None:
    table = pa.table({"id": [7, 7], "caption": ["A cat.", "Two."]})
    pq.write_table(table, tmp_path / "cc.parquet")
    found = read_sentences(tmp_path / "cc.parquet")
    assert [(one.image_id, one.text) for one in found] == [("7", "A cat."), ("7", "Two.")]


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        ("", "E-DATA-EMPTY", ""),
        ("id,caption\n", "E-DATA-EMPTY", ""),
        ("id,text\n1,A\n", "E-CORPUS-COLUMNS", "found 'id', 'text'"),
        ("key,caption\n1,A\n", "E-CORPUS-COLUMNS", "image_id or id, and caption; found 'key'"),
        ("id,caption\n1\n", "E-TABLE-VALUES", "line 2"),
        ("id,caption\n1,A\n2,A,bus\n", "E-TABLE-VALUES", "line 3"),
        ("id,caption\n ,A\n", "E-CORPUS-BLANK", "line 2: id"),
        ('id,caption\n1,"A\n', "E-TABLE-QUOTE", "line 2"),
        (b"id,caption\n1,\xff\n", "E-TABLE-TEXT", ""),
        ("id,caption\n1," + "A" * 200_000, "E-TABLE-QUOTE", "line 2"),
    ],
)
def test_a_bad_csv_is_named(tmp_path: Path, content: str | bytes, code: str, named: str) -> None:
    path = tmp_path / "cc.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with refuses(code, str(path), named):
        list(read_sentences(path))


@pytest.mark.parametrize(
    ("columns", "code", "named"),
    [
        ({"id": ["1"], "caption": [None]}, "E-CORPUS-PARQUET", ""),
        ({"id": ["1", None], "caption": ["A", "B"]}, "E-CORPUS-PARQUET", ""),
        ({"id": ["1"], "text": ["A"]}, "E-CORPUS-COLUMNS", "found 'id', 'text'"),
        ({"id": [["1"]], "caption": ["A"]}, "E-CORPUS-PARQUET", "'id'"),
        ({"id": [0.5], "caption": ["A"]}, "E-JSON-TYPE", "row 0: id"),
        ({"id": [1], "caption": [2]}, "E-JSON-TYPE", "row 0: caption"),
        ({"id": [1], "caption": ["A" * 5000]}, "E-CORPUS-PARQUET", "5,000 bytes"),
    ],
)
def test_a_bad_parquet_file_is_named(
    tmp_path: Path, columns: dict[str, list[Any]], code: str, named: str
) -> None:
    path = tmp_path / "cc.parquet"
    pq.write_table(pa.table(columns), path)
    with refuses(code, str(path), named):
        list(read_sentences(path))


def test_files_that_are_not_such_a_table(tmp_path: Path) -> None:
    path = tmp_path / "cc.parquet"
    path.write_text("id,caption\n")
    with refuses("E-CORPUS-PARQUET", str(path)):
        list(read_sentences(path))
    table = pa.Table.from_arrays([pa.array(["1"])] * 3, names=["id", "caption", "caption"])
    pq.write_table(table, path)
    with refuses("E-CORPUS-PARQUET", str(path), "two columns caption"):
        list(read_sentences(path))


def test_a_corpus_is_several_files(tmp_path: Path) -> None:
    for name in ("mscoco_train.json", "cc.csv", "cc12m.parquet", "both.json", "both.tsv"):
        (tmp_path / name).write_text("")
    named = find_corpus(tmp_path, "mscoco_train+cc12m+cc")
    assert named == tuple(tmp_path / n for n in ("mscoco_train.json", "cc12m.parquet", "cc.csv"))
    for name, code, part in (
        (
            "cc+vg",
            "E-DATA-FILE",
            "vg.json or vg.csv or vg.tsv or vg.parquet, part 'vg' of corpus 'cc+vg'",
        ),
        ("cc+", "E-DATA-FILE", "''"),
        ("cc+cc", "E-SPLIT-TWICE", "corpus 'cc+cc' has part 'cc'"),
        ("both", "E-DATA-FILE", "both.json and both.tsv"),
    ):
        with refuses(code, part, kind=UsageError):
            find_corpus(tmp_path, name)
    with refuses("E-DATA-FOLDER", "--data", kind=UsageError):
        find_corpus(tmp_path / "nowhere", "cc")
