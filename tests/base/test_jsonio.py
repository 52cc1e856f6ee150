"""JSON from anywhere: bounded, and each mistake an error that says where it is."""

import json
from pathlib import Path

import pytest
from peak_memory import peak, start_peak
from refused import refuses

from clipfeat.base import jsonio
from clipfeat.base.jsonio import (
    field,
    identifier,
    parse_json,
    read_json,
    read_json_lines,
    read_json_list,
)


@pytest.mark.parametrize(
    "content",
    [b"{", b"[" * 200_000, b"\xff{}", b"1" * 10_000, b""],
    ids=["cut", "deep", "bytes", "digits", "empty"],
)
def test_text_that_is_not_json_is_an_error_with_a_code(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - that it is one is the point
        parse_json(content)
    (tmp_path / "a.json").write_bytes(content)
    with refuses("E-JSON-READ", str(tmp_path / "a.json")):
        read_json(tmp_path / "a.json")


def test_a_number_of_too_many_digits_has_no_advice_for_programmers():
    with pytest.raises(ValueError, match=r"^has a number of too many digits$"):
        parse_json("9" * 5000)


def test_json_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json", 100) == {"a": 1}
    with refuses("E-JSON-READ", "7 bytes"):
        read_json(tmp_path / "a.json", 7)


def test_a_link_is_followed_unless_the_folder_came_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    (tmp_path / "link").symlink_to("a.json")
    assert read_json(tmp_path / "link") == [1]
    with refuses("E-JSON-READ", str(tmp_path / "link"), "symbolic link"):
        read_json(tmp_path / "link", follow=False)


def test_json_lines_are_bounded_and_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n[2]')
    assert list(read_json_lines(path)) == [(f"{path}, line 1", {"a": 1}), (f"{path}, line 4", [2])]
    path.write_bytes(b"1\n{\n")
    with refuses("E-JSON-READ", f"{path}, line 2 is not JSON"):
        list(read_json_lines(path))
    path.write_bytes(b"1\n\xff\n")
    with refuses("E-JSON-READ", "not UTF-8 text (line 2)"):
        list(read_json_lines(path))
    path.write_bytes(b"")
    with path.open("r+b") as file:
        file.truncate(100 << 30)  # one line of 100 GB
    with refuses("E-JSON-READ", "line 1 has more than"):
        list(read_json_lines(path))


LISTS = [
    "[]",
    "\ufeff [ ] \r\n",
    '[{"a": [1, {"b": "]},["}]}, [], "\\"\\u00e9", -1.5e-3, true, null, NaN]',
    ' [\n"\u732b\U0001f431", 12345678901 ,\t12,\n{"\u732b": {}} ] ',
    "[1]",
]


@pytest.mark.parametrize("block", [1, 3, 16, 1 << 20])
@pytest.mark.parametrize("text", LISTS)
def test_a_list_is_read_in_parts_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, block: int
) -> None:
    monkeypatch.setattr(jsonio, "BLOCK_BYTES", block)
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    expected = json.loads(text.removeprefix("\ufeff"))
    items = list(read_json_list(path, of="images"))
    assert [place for place, _ in items] == [f"{path}: [{n}]" for n in range(len(expected))]
    assert json.dumps([item for _, item in items]) == json.dumps(expected)  # NaN is not itself


@pytest.mark.parametrize("block", [2, 1 << 20])
@pytest.mark.parametrize(
    ("content", "code", "shown"),
    [
        (b"", "E-JSON-READ", "cut off"),
        (b"[", "E-JSON-READ", "item 0"),
        (b"[1, {", "E-JSON-READ", "item 1"),
        (b"[1, 2", "E-JSON-READ", "cut off"),
        (b"[1 2]", "E-JSON-READ", "expected ','; got '2'"),
        (b"[1,]", "E-JSON-READ", "item 1"),
        (b"[] 3", "E-JSON-READ", "expected the end; got '3'"),
        (b"[{'a': 1}]", "E-JSON-READ", "item 0"),
        (b'["\xff"]', "E-JSON-READ", "not UTF-8 text"),
        (b'["\xe7', "E-JSON-READ", "not UTF-8 text"),
        (b"[" * 200_000, "E-JSON-READ", "nested too deeply"),
        (b"[" + b"1" * 10_000 + b"]", "E-JSON-READ", "too many digits"),
        (b'{"a": 1}', "E-JSON-TYPE", "expected a list of images; got {'a': 1}"),
        (b"7", "E-JSON-TYPE", "got 7"),
    ],
)
def test_a_list_that_is_not_json_is_refused_where_it_breaks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    code: str,
    shown: str,
    block: int,
) -> None:
    monkeypatch.setattr(jsonio, "BLOCK_BYTES", block)
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with refuses(code, str(path), shown):
        list(read_json_list(path, of="images"))


def test_a_list_takes_the_memory_of_one_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    item = json.dumps({"phrase": "x" * 1000})
    with path.open("w") as file:
        file.write("[" + f"{item},\n" * 30_000 + item + "]")
    before = start_peak()
    assert (
        sum(len(record["phrase"]) for _, record in read_json_list(path, of="images")) == 30_001_000
    )
    assert peak() - before < 20 << 20  # of a file of 31 MB

    monkeypatch.setattr(jsonio, "MAX_ITEM_CHARACTERS", 3 << 20)
    path.write_text('[1, "' + "x" * (5 << 20) + '"]')
    with refuses("E-JSON-READ", "item 1: not JSON, or longer than 3,145,728 characters"):
        list(read_json_list(path, of="images"))
    monkeypatch.setattr(jsonio, "MAX_DATA_BYTES", 4 << 20)
    path.write_text("[" + " " * (5 << 20) + "]")
    with refuses("E-JSON-READ", "is larger than 4,194,304 bytes"):
        list(read_json_list(path, of="images"))
    with refuses("E-JSON-READ", "No such file"):
        list(read_json_list(tmp_path / "nowhere", of="images"))


@pytest.mark.parametrize(
    ("record", "code", "shown"),
    [
        ([1], "E-JSON-TYPE", "[1]"),
        ({"b": 1, "c": 2}, "E-JSON-KEY", "'b', 'c'"),
        ({"a": "1"}, "E-JSON-TYPE", "got '1'"),
        ({"a": True}, "E-JSON-TYPE", "got True"),
        ({"a": 1.0}, "E-JSON-TYPE", "got 1.0"),
    ],
)
def test_a_field_of_another_type_is_refused_with_its_place_and_value(record, code, shown):
    with refuses(code, "m.json[3]", "a", shown):
        field(record, "a", int, "m.json[3]")


def test_fields_and_identifiers():
    record = {"a": 1, "b": "x", "c": None}
    assert (field(record, "a", int, ""), field(record, "b", str, "")) == (1, "x")
    assert (identifier(record, "a", ""), identifier(record, "b", "")) == (1, "x")
    with refuses("E-JSON-TYPE", "row 2", "c", "None"):
        identifier(record, "c", "row 2")
    with refuses("E-JSON-TYPE", "True"):
        identifier({"a": True}, "a", "row 2")
