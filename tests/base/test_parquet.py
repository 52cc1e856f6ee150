"""Rows are written to Parquet and read back; other files are rejected."""

import contextlib
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clipfeat.base.parquet import MAX_TEXT, read_rows, write_rows

SCHEMA = pa.schema([("text", pa.string()), ("number", pa.int64()), ("small", pa.int32())])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
ROWS = st.tuples(TEXTS, st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1))


class RefusedError(Exception):
    """What the caller of read_rows asked for."""


def written(path, rows):
    with path.open("wb") as file:
        write_rows(file, SCHEMA, rows)
    return path


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(ROWS, max_size=40))
def test_rows_come_back(tmp_path, rows):
    assert list(read_rows(written(tmp_path / "t", rows), SCHEMA, RefusedError)) == rows


def test_rows_of_many_batches_and_groups_come_back_in_order(tmp_path):
    rows = [(f"{k % 1000}", k, k % 7) for k in range(150_000)]
    path = written(tmp_path / "t", iter(rows))
    assert pq.ParquetFile(path).num_row_groups == 3
    assert list(read_rows(path, SCHEMA, RefusedError)) == rows


def test_the_longest_text_comes_back_and_one_more_byte_is_refused(tmp_path):
    path = written(tmp_path / "t", [("\u00e9" * (MAX_TEXT // 2), 1, 1)])
    assert len(list(read_rows(path, SCHEMA, RefusedError))) == 1
    path = written(tmp_path / "t", [("\u00e9" * (MAX_TEXT // 2) + "x", 1, 1)])
    with pytest.raises(RefusedError, match="a text of 4,097 bytes; expected at most 4,096"):
        list(read_rows(path, SCHEMA, RefusedError))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not a readable Parquet file"),
        (b"PAR1", "not a readable Parquet file"),
        (b"PAR1PAR1", "not a readable Parquet file"),
        (b"PAR1" + b"\xff" * 100 + (100).to_bytes(4, "little") + b"PAR1", "not a readable Par"),
        (b"PAR1" + (2**32 - 1).to_bytes(4, "little") + b"PAR1", "not a readable Parquet file"),
        (b"PAR1" + bytes(50) + (50).to_bytes(4, "little") + b"PARE", "not a readable Parquet fil"),
    ],
)
def test_other_files_are_refused(tmp_path, content, why):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(RefusedError, match=why):
        list(read_rows(tmp_path / "t", SCHEMA, RefusedError))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "t")
    with pytest.raises(RefusedError, match="is a pipe or a device"):
        list(read_rows(tmp_path / "t", SCHEMA, RefusedError))


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 2**20), st.integers(1, 255))
@example(81, 2)  # the third text of two
def test_a_changed_byte_gives_rows_or_a_refusal_and_no_crash(tmp_path, position, change):
    """Stores check the sha256 of a table before; here the reader has no such protection."""
    content = bytearray(written(tmp_path / "t", [("a", 1, 2), ("b", 3, 4)]).read_bytes())
    content[position % len(content)] ^= change
    (tmp_path / "t").write_bytes(content)
    with contextlib.suppress(RefusedError):
        assert len(list(read_rows(tmp_path / "t", SCHEMA, RefusedError))) < 100


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (pa.schema([("text", pa.large_string()), *list(SCHEMA)[1:]]), "columns must be text str"),
        (pa.schema([("text", pa.binary()), *list(SCHEMA)[1:]]), "got text binary"),
        (pa.schema(list(SCHEMA)[:2]), "columns must be text string, number int64, small int32"),
        (pa.schema(list(SCHEMA)[::-1]), "got small int32, number int64, text string"),
    ],
)
def test_other_columns_are_refused(tmp_path, schema, why):
    pq.write_table(schema.empty_table(), tmp_path / "t")
    with pytest.raises(RefusedError, match=why):
        list(read_rows(tmp_path / "t", SCHEMA, RefusedError))


def test_a_table_is_opened_once(tmp_path, monkeypatch):
    rows = [("a", 1, 2), ("b", 3, 4)]
    written(tmp_path / "t", rows)
    opened, open_file = [], pa.OSFile
    monkeypatch.setattr(pa, "OSFile", lambda path: opened.append(path) or open_file(path))
    assert list(read_rows(tmp_path / "t", SCHEMA, RefusedError)) == rows
    assert len(opened) == 1
