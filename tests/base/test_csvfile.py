"""CSV and TSV row by row: a stray quote never swallows a row, and errors name the line."""

import csv
import io

import pytest

from clipfeat.base.csvfile import table_rows
from clipfeat.base.errors import ClipfeatError


def rows(tmp_path, content, **choices):
    path = tmp_path / "t"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(table_rows(path, **choices))


def test_csv_is_read_as_the_standard_library_writes_it(tmp_path):
    table = [["id", "caption"], ["1", 'a "cat", red'], ["2", '"'], ["", ""], ["3", "caf\u00e9 \t"]]
    written = io.StringIO()
    csv.writer(written).writerows(table)
    found = rows(tmp_path, "\ufeff" + written.getvalue() + "\n\n")
    assert found == list(enumerate(table, start=1))


def test_in_tsv_a_quote_is_text(tmp_path):
    """As in Conceptual Captions, where a caption begins with a quote and does not end in one."""
    found = rows(tmp_path, 'caption\turl\n"a dog\tu1\na cat\tu2\n"a" "b\tu3\r\n', tabs=True)
    assert [row for _, row in found[1:]] == [['"a dog', "u1"], ["a cat", "u2"], ['"a" "b', "u3"]]


@pytest.mark.parametrize(
    ("content", "choices", "code", "line"),
    [
        # A stray quote, closed by the next one: three rows would become one.
        ('id,c\n1,a\n2,"b\n3,c\n4,d"\n', {}, "E-TABLE-QUOTE", 3),
        ('id,c\n1,a\n2,"b\n3,c\n', {}, "E-TABLE-QUOTE", 3),
        ('id,c\n"1,a\n2,b\n', {}, "E-TABLE-QUOTE", 2),
        ('id,c\n1,"a" b\n', {}, "E-TABLE-QUOTE", 2),
        ('id,c,note\n1,"a\nb","n\nm"\n', {"multiline": ("note",)}, "E-TABLE-QUOTE", 2),
        ("id,c\n1,a\n2,b,c\n", {}, "E-TABLE-VALUES", 3),
        ("id,c\n1,a\n2\n", {}, "E-TABLE-VALUES", 3),
        ("id\tc\n1\ta\n2\tb\nb\n", {"tabs": True}, "E-TABLE-VALUES", 4),
        ("id\tc\n1\ta\tb\n", {"tabs": True}, "E-TABLE-VALUES", 2),
        ("id,c,id\n1,a,2\n", {}, "E-TABLE-HEADING", 1),
        (b"id,c\n1,a\n2,caf\xe9\n", {}, "E-TABLE-TEXT", 3),
        (b"id\tc\n1\tcaf\xe9\n", {"tabs": True}, "E-TABLE-TEXT", 2),
        ("id,c\n1," + "a" * (1 << 20), {}, "E-TABLE-TEXT", 2),
    ],
)
def test_what_is_refused_is_named_with_the_line_where_it_began(
    tmp_path, content, choices, code, line
):
    with pytest.raises(ClipfeatError, match=rf"line {line}\b") as refused:
        rows(tmp_path, content, **choices)
    assert refused.value.code == code
    assert str(refused.value).count(str(tmp_path)) == 1


def test_columns_of_free_text_may_have_line_ends(tmp_path):
    found = rows(tmp_path, 'id,note\n1,"a\nb"\n2,c\n', multiline=("note",))
    assert found[1:] == [(2, ["1", "a\nb"]), (4, ["2", "c"])]


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ClipfeatError, match="cannot be read: No such file") as refused:
        list(table_rows(tmp_path / "none.csv"))
    assert refused.value.code == "E-TABLE-TEXT"
