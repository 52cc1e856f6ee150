"""Sentences for pre-training: LXMERT's files and tables of captions, and what is refused."""

import doctest
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipfeat.base.errors import ClipfeatError, UsageError
from clipfeat.train.data import ids as images_module
from clipfeat.train.data import lxmert as sentences_module
from clipfeat.train.data.lxmert import Sentence, corpus_files, image_candidates, read_sentences

NAME = "COCO_val2014_000000393267"


def image(**changes: Any) -> dict[str, Any]:
    return {"img_id": NAME, "sentf": {"vqa": ["Why?"]}, "labelf": {"vqa": [{"net": 1}]}} | changes


def read(folder: Path, content: Any) -> list[Sentence]:
    path = folder / "part.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return list(read_sentences(path))


def test_doctests() -> None:
    results = doctest.testmod(sentences_module)
    assert (results.failed, results.attempted) == (0, 2)
    results = doctest.testmod(images_module)
    assert (results.failed, results.attempted) == (0, 5)


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
    assert image_candidates(image_id) == candidates


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
    ("content", "message"),
    [
        ("{", "part.json: not a readable JSON file"),
        ("[" * 100_000, "not a readable JSON file"),
        ({"img_id": "a"}, r"expected a list of images; got \{'img_id'"),
        ([], "holds no sentence"),
        ([image(sentf={"vqa": [""]})], "holds no sentence"),
        ([3], r"\[0\]: expected an object with 'img_id'; got 3"),
        ([image(img_id=None)], r"\[0\]: img_id must be a number or text; got None"),
        ([image(img_id=True)], "img_id must be a number or text; got True"),
        ([image(img_id="\ud800")], r"img_id holds half a surrogate pair: '\\ud800'"),
        ([image(), image()], rf"\[1\]: img_id '{NAME}' is there twice"),
        ([{"img_id": "a"}], r"\[0\] 'a': no key 'sentf'"),
        ([image(sentf=["Why?"])], "sentf must be of type dict"),
        ([image(sentf={"vqa": "Why?"})], "sentf: vqa must be of type list; got 'Why"),
        ([image(sentf={"vqa": [1]})], r"sentf vqa\[0\]: a sentence must be a text; got 1"),
        ([image(sentf={"vqa": ["\udfff?"]})], "sentence holds half a surrogate pair"),
        ([image(sentf={"\udfff": ["?"]}, labelf={})], "sentf holds half a surrogate pair"),
        ([image(labelf=[])], r"labelf must be of type dict; got \[\]"),
        ([image(labelf={"gqa": [{}]})], "labelf has 'gqa', of which sentf has no sentences"),
        ([image(labelf={"vqa": {}})], "labelf: vqa must be of type list"),
        ([image(labelf={"vqa": []})], "'vqa' has 1 sentences and 0 labels"),
        ([image(labelf={"vqa": ["net"]})], "label must be {answer: score}; got 'net'"),
        ([image(labelf={"vqa": [None]})], "label must be {answer: score}; got None"),
        ([image(labelf={"vqa": [{"net": "1"}]})], "answer 'net' must be 0 to 1; got '1'"),
        ([image(labelf={"vqa": [{"net": True}]})], "answer 'net' must be 0 to 1; got True"),
        ([image(labelf={"vqa": [{"net": 1.1}]})], "must be 0 to 1; got 1.1"),
        ([image(labelf={"vqa": [{"net": -0.1}]})], "must be 0 to 1; got -0.1"),
        ([image(labelf={"vqa": [{"net": float("nan")}]})], "must be 0 to 1; got nan"),
        ([image(labelf={"vqa": [{"net": [1]}]})], r"must be 0 to 1; got \[1\]"),
        ([image(labelf={"vqa": [{"\ud800": 1}]})], "answer holds half a surrogate pair"),
    ],
)
def test_a_bad_file_is_named_with_its_record(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ClipfeatError, match=message) as caught:
        read(tmp_path, content)
    assert str(tmp_path / "part.json") in str(caught.value)
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
    ("content", "message"),
    [
        ("", "holds no sentence"),
        ("id,caption\n", "holds no sentence"),
        ("id,text\n1,A\n", "expected columns image_id or id, and caption; found 'id', 'text'"),
        ("key,caption\n1,A\n", "expected columns image_id or id, and caption; found 'key'"),
        ("id,caption\n1\n", "line 2 has 1 values and the heading 2"),
        ("id,caption\n1,A\n2,A,bus\n", "line 3 has 3 values and the heading 2"),
        ("id,caption\n ,A\n", "line 2: id is blank"),
        ('id,caption\n1,"A\n', "line 2 is not a row of CSV"),
        (b"id,caption\n1,\xff\n", "cannot be read"),
        ("id,caption\n1," + "A" * 200_000, "line 2 is not a row of CSV"),
    ],
)
def test_a_bad_csv_is_named(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "cc.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ClipfeatError, match=message) as caught:
        list(read_sentences(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["1"], "caption": [None]}, "must hold texts or numbers|contains a null value"),
        ({"id": ["1", None], "caption": ["A", "B"]}, "contains a null value"),
        ({"id": ["1"], "text": ["A"]}, "expected columns image_id or id, and caption"),
        ({"id": [["1"]], "caption": ["A"]}, "column 'id' must hold texts or numbers"),
        ({"id": [0.5], "caption": ["A"]}, "row 0: id must be a number or text; got 0.5"),
        ({"id": [1], "caption": [2]}, "row 0: caption must be of type str; got 2"),
        ({"id": [1], "caption": ["A" * 5000]}, "holds a text of 5,000 bytes"),
    ],
)
def test_a_bad_parquet_file_is_named(
    tmp_path: Path, columns: dict[str, list[Any]], message: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "cc.parquet")
    with pytest.raises(ClipfeatError, match=message):
        list(read_sentences(tmp_path / "cc.parquet"))


def test_what_is_no_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "cc.parquet"
    path.write_text("id,caption\n")
    with pytest.raises(ClipfeatError, match="not a readable Parquet file"):
        list(read_sentences(path))
    table = pa.Table.from_arrays([pa.array(["1"])] * 3, names=["id", "caption", "caption"])
    pq.write_table(table, path)
    with pytest.raises(ClipfeatError, match="has two columns caption"):
        list(read_sentences(path))


def test_a_corpus_is_several_files(tmp_path: Path) -> None:
    for name in ("mscoco_train.json", "cc.csv", "cc12m.parquet", "both.json", "both.tsv"):
        (tmp_path / name).write_text("")
    named = corpus_files(tmp_path, "mscoco_train+cc12m+cc")
    assert named == tuple(tmp_path / n for n in ("mscoco_train.json", "cc12m.parquet", "cc.csv"))
    for name, message in (
        ("cc+vg", r"no part 'vg' of corpus 'cc\+vg': expected vg.json, vg.csv, vg.tsv, vg.parquet"),
        ("cc+", "no part ''"),
        ("cc+cc", r"corpus 'cc\+cc' has part 'cc' twice"),
        ("both", "has both.json and both.tsv, and part 'both' is one file"),
    ):
        with pytest.raises(UsageError, match=message):
            corpus_files(tmp_path, name)
    with pytest.raises(UsageError, match="is not a folder; --data takes"):
        corpus_files(tmp_path / "nowhere", "cc")
