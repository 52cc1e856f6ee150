"""Lines of compressed files: what is read, and what is refused in bounded memory."""

import gzip
import tracemalloc
from pathlib import Path

import pytest
from refused import refuses

from clipfeat.base.gzipped import gzip_lines
from clipfeat.base.jsonio import read_json_lines


def write(folder: Path, content: bytes) -> Path:
    path = folder / "lines.jsonl.gz"
    path.write_bytes(content)
    return path


def test_lines_of_several_members(tmp_path: Path) -> None:
    path = write(tmp_path, gzip.compress(b"\xef\xbb\xbfa\r\nb") + gzip.compress("é\n\nd".encode()))
    assert list(gzip_lines(path, 10)) == [(1, "a"), (2, "bé"), (3, ""), (4, "d")]


def test_json_lines_of_a_compressed_file(tmp_path: Path) -> None:
    path = write(tmp_path, gzip.compress(b'{"a": 1}\n\n[2]\n'))
    assert list(read_json_lines(path)) == [(f"{path}, line 1", {"a": 1}), (f"{path}, line 3", [2])]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b'{"a": 1}\n', "is not gzip data"),
        # mtime: the names of these tests must be the same in every process.
        (gzip.compress(b"[1]\n[2]\n" * 9, mtime=0)[:-6], "is cut off after line"),
        (gzip.compress(b"[1]\n", mtime=0)[:-8] + b"\0" * 8, "damaged, after line"),
        (gzip.compress(b"[1]\n\xff\n", mtime=0), "is not UTF-8 text (line 2)"),
        (gzip.compress(b"[1\n", mtime=0), "line 1 is not JSON"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, named: str) -> None:
    path = write(tmp_path, content)
    with refuses("E-JSON-READ", str(path), named):
        list(read_json_lines(path))


def test_what_comes_out_is_bounded(tmp_path: Path) -> None:
    path = write(tmp_path, gzip.compress(bytes(1 << 27), 9))  # one line of 128 MB in 130 kB
    tracemalloc.start()
    with pytest.raises(OSError, match="line 1 has more than 1,000 bytes"):
        list(gzip_lines(path, 1000))
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()
    path = write(tmp_path, gzip.compress(b"[]\n" * 1000))
    with pytest.raises(OSError, match="holds more than 2,000 bytes"):
        list(gzip_lines(path, 10, limit=2000))
