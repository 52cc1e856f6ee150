"""JSON from anywhere: bounded, and each mistake an error that says where it is."""

from pathlib import Path

import pytest
from refused import refuses

from clipfeat.base.jsonio import field, identifier, parse_json, read_json, read_json_lines


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
