"""The files of SNLI-VE and e-SNLI-VE: what is read, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refused import refuses
from ve_world import rows_of, write_rows

from clipfeat.base.errors import ClipfeatError, UsageError
from clipfeat.train.data.snli_ve import PUBLISHED, read_pairs
from clipfeat.train.data.vocabulary import WordVocabulary
from clipfeat.train.tasks.entailment import encode

CSV = """,pairID,Flickr30kID,hypothesis,gold_label,explanation
0,4465359505.jpg#2r1c,4465359505.jpg,"An old man, in his yard.",contradiction,"No
tree."
1,8.jpg#1r1n,8.jpg,A man.,neutral,Who knows.
"""


def one_row(**changes: Any) -> dict[str, Any]:
    return rows_of(1)[0] | changes


def read(folder: Path, rows: list[Any]) -> Any:
    write_rows(folder / "snli_ve_dev.jsonl", rows)
    return read_pairs("snli_ve", folder, "dev")


def test_pairs_without_a_gold_label_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [*rows_of(1), one_row(pairID="a", gold_label="-"), one_row(pairID="b", gold_label="-")]
    split = read(tmp_path, rows)
    assert split.ids == tuple(row["pairID"] for row in rows_of(1))
    assert split.dropped == 2
    assert split.pairs[2].hypothesis == "It may be old."


def test_esnlive_has_other_columns(tmp_path: Path) -> None:
    (tmp_path / "esnlive_dev.csv").write_text(CSV)
    split = read_pairs("esnlive", tmp_path, "dev")
    assert split.ids == ("4465359505.jpg#2r1c", "8.jpg#1r1n")
    assert [pair.label for pair in split.pairs] == ["contradiction", "neutral"]
    assert split.pairs[0].hypothesis == "An old man, in his yard."
    assert split.pairs[1].candidates == ("8.jpg", "8")


@pytest.mark.parametrize("key", ["Flickr30K_ID", "Flickr30kID", "Flikr30kID"])
def test_every_spelling_of_the_image_key_is_known(tmp_path: Path, key: str) -> None:
    row = {k: v for k, v in one_row().items() if k != "Flickr30K_ID"} | {key: "36979"}
    assert read(tmp_path, [row]).pairs[0].candidates == ("36979", "36979.jpg")


@pytest.mark.parametrize(
    ("row", "code", "named"),
    [
        ([], "E-JSON-TYPE", "got []"),
        (one_row(pairID="a", gold_label="maybe"), "E-VE-LABEL", "gold_label"),
        (one_row(pairID="a", gold_label=0), "E-JSON-TYPE", "gold_label"),
        (one_row(pairID="a", Flickr30K_ID=1.5), "E-JSON-TYPE", "Flickr30K_ID"),
        (one_row(pairID="a", sentence2=None), "E-JSON-TYPE", "sentence2 or hypothesis"),
        (one_row(pairID="a", sentence2=" "), "E-JSON-TYPE", "sentence2 or hypothesis"),
        (one_row(pairID=["a"]), "E-JSON-TYPE", "pairID"),
        (one_row(), "E-DATA-TWICE", "pairID '1.jpg#0r0"),
        ({"pairID": "a"}, "E-JSON-KEY", "no Flickr30K_ID; found 'pairid'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: Any, code: str, named: str) -> None:
    with refuses(code, "snli_ve_dev.jsonl, line 2", named):
        read(tmp_path, [one_row(), row])


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        ("", "E-DATA-EMPTY", "found 0"),
        (json.dumps(one_row(gold_label="-")), "E-DATA-EMPTY", "found 1"),
        ('{"pairID": "a", "gold', "E-JSON-READ", "line 1"),
        (b"\xff\xfe", "E-JSON-READ", ""),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: str | bytes, code: str, named: str) -> None:
    data = content.encode() if isinstance(content, str) else content
    path = tmp_path / "snli_ve_dev.jsonl"
    path.write_bytes(data)
    with refuses(code, str(path), named):
        read_pairs("snli_ve", tmp_path, "dev")


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        (CSV.replace("gold_label", "label"), "E-JSON-KEY", "line 2: no gold_label; found '', 'pa"),
        (CSV + "2,9.jpg#1r1n\n", "E-TABLE-VALUES", "line 5"),
        (CSV + "2,9.jpg#1r1n,9.jpg,A,man,neutral,Yes\n", "E-TABLE-VALUES", "line 5"),
        (CSV + '2,"9.jpg', "E-TABLE-QUOTE", "line 5"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, content: str, code: str, named: str) -> None:
    path = tmp_path / "esnlive_dev.csv"
    path.write_text(content)
    with refuses(code, str(path), named):
        read_pairs("esnlive", tmp_path, "dev")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with refuses("E-DATA-FILE", "snli_ve_dev.jsonl", "'dev'", kind=UsageError):
        read_pairs("snli_ve", tmp_path, "dev")
    with refuses("E-DATA-FOLDER", "--data", kind=UsageError):
        read_pairs("snli_ve", tmp_path / "nowhere", "dev")


@pytest.mark.parametrize(
    ("published", "remarks"),
    [(3, 0), (5, 1), (6, 0), (2, 1), (1, 0)],
    ids=["whole", "more than half", "half: own data", "longer", "much longer: own data"],
)
def test_a_file_that_may_be_cut_off_is_remarked_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    published: int,
    remarks: int,
) -> None:
    monkeypatch.setitem(PUBLISHED, "dev", published)
    read(tmp_path, rows_of(1))
    err = capsys.readouterr().err
    said = f"3 pairs with a label; the published file has {published}\n"
    assert err == remarks * f"{tmp_path / 'snli_ve_dev.jsonl'}: {said}"


@pytest.mark.parametrize("image", ["7", "7.jpg", 7])
@pytest.mark.parametrize("stored", ["7", "7.jpg"])
def test_ids_resolve_with_and_without_their_ending(
    tmp_path: Path, image: str | int, stored: str
) -> None:
    split = read(tmp_path, [one_row(Flickr30K_ID=image)])
    examples = encode(split, WordVocabulary(("shape",)), {stored}, max_tokens=4, skip_missing=0)
    assert examples.image_ids == (stored,)
    assert examples.tokens.tolist() == [[1, 2, 1, 1]]  # the caption is not read
    assert examples.targets is not None
    assert examples.targets.table(np.arange(1), 3).tolist() == [[0, 0, 1]]  # the shape is green


def test_images_without_features_are_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = read(tmp_path, [*rows_of(1), *rows_of(9)])
    told = "3 of 6 hypotheses of split 'dev' are about 1 image without features, such as 9 or"
    with refuses("E-IMAGES-MISSING", f"{told} 9.jpg", "--skip-missing 3"):
        encode(split, WordVocabulary(()), {"1"}, max_tokens=4, skip_missing=2)
    assert (
        len(encode(split, WordVocabulary(("is", "be")), {"1"}, max_tokens=4, skip_missing=3)) == 3
    )
    assert capsys.readouterr().err.startswith(told)
    with pytest.raises(ClipfeatError, match="split 'dev'"):
        encode(split, WordVocabulary(()), set(), max_tokens=4, skip_missing=6)
