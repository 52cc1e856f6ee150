"""Files are written whole or not at all."""

import errno
import os
from pathlib import Path

import pytest
from refused import refuses

from clipfeat.base.errors import UsageError
from clipfeat.base.files import (
    atomic_file,
    is_temporary,
    local_path,
    open_output,
    read_bytes,
    read_text,
    require_file,
    require_folder,
    sha256_file,
    temporary_name,
    write_atomically,
)


def test_an_error_leaves_the_old_content_and_no_other_file(tmp_path):
    path = tmp_path / "a.json"
    write_atomically(path, b"old")
    with pytest.raises(ValueError, match="stop"), atomic_file(path) as file:  # noqa: PT012
        file.write(b"half of the new")
        raise ValueError("stop")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file_and_not_the_one_in_the_making(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    long = tmp_path / ("n" * 256)  # one more than a file system takes
    for path in (tmp_path / "folder", tmp_path / "no/such", tmp_path / "file/inside", long):
        with pytest.raises(OSError) as raised:  # noqa: PT011 - several kinds
            write_atomically(path, b"new")
        assert (raised.value.filename, raised.value.filename2) == (str(path), None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_sha256_of_the_published_vector(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256_file(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(100 << 30)
    expected = {
        tmp_path / "link": errno.ELOOP,
        tmp_path / "folder": errno.EISDIR,
        tmp_path / "pipe": errno.EINVAL,
        tmp_path / "sparse": errno.EFBIG,
        tmp_path / "absent": errno.ENOENT,
        Path("/dev/zero"): errno.EINVAL,
    }
    for path, number in expected.items():
        with pytest.raises(OSError) as refused:  # noqa: PT011 - the number is looked at
            read_bytes(path, 1 << 20)
        assert (refused.value.errno, refused.value.filename) == (number, str(path))
    assert read_bytes(tmp_path / "file", 7) == b"content"
    assert read_bytes(tmp_path / "link", 7, follow=True) == b"content"
    with pytest.raises(OSError, match="6 bytes"):
        read_bytes(tmp_path / "file", 6)


def test_text_of_a_user_loses_its_byte_order_mark_and_names_the_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "answers.txt"
    path.write_bytes(b"\xef\xbb\xbfyes\r\nno\n")
    assert read_text(path, 1 << 10) == "yes\r\nno\n"
    path.write_bytes("yes\nnaïf\n".encode("latin-1"))
    with pytest.raises(OSError, match="line 2") as refused:
        read_text(path, 1 << 10)
    assert refused.value.filename == str(path)


def test_writing_never_reaches_another_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"precious")
    (tmp_path / "link").symlink_to("mine")
    (tmp_path / "hard").hardlink_to(mine)
    os.mkfifo(tmp_path / "pipe")
    for name, number in (
        ("link", errno.ELOOP),
        ("hard", errno.EMLINK),
        ("pipe", errno.EINVAL),
    ):
        with pytest.raises(OSError) as refused:  # noqa: PT011 - the number is looked at
            open_output(tmp_path / name)
        assert refused.value.errno == number
    assert mine.read_bytes() == b"precious"
    (tmp_path / "hard").unlink()
    with os.fdopen(open_output(mine, append=True), "ab") as file:
        file.write(b" still")
    assert mine.read_bytes() == b"precious still"


def test_a_large_limit_takes_no_memory(tmp_path: Path) -> None:
    """Python allocates the memory for a whole read before it reads."""
    (tmp_path / "a.json").write_bytes(b'{"a": 1}')
    assert read_bytes(tmp_path / "a.json", 1 << 62) == b'{"a": 1}'
    assert len(read_bytes("/proc/self/maps", 1 << 62)) > 0  # says that it has no bytes


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_files_without_an_end_have_no_sha256(tmp_path, kind):
    path = Path("/dev/zero")
    if kind == "pipe":
        path = tmp_path / "pipe"
        os.mkfifo(path)
    with pytest.raises(OSError) as refused:  # noqa: PT011 - told by its number
        sha256_file(path)
    assert refused.value.errno == errno.EINVAL


def test_a_url_is_no_path_on_this_machine():
    assert local_path("a/b::c") == Path("a/b::c")
    with pytest.raises(UsageError) as refused:
        local_path("http://host/x", remedy="download it")
    assert refused.value.code == "E-PATH-URL"
    assert str(refused.value).startswith("http://host/x: ")
    assert str(refused.value).endswith("; download it")
    with pytest.raises(UsageError) as refused:
        local_path("")
    assert refused.value.code == "E-PATH-EMPTY"


def test_a_name_may_be_as_long_as_a_file_system_takes(tmp_path):
    for name in ("n" * 255, "\u00e9" * 127):
        write_atomically(tmp_path / name, b"new")
        assert (tmp_path / name).read_bytes() == b"new"
    assert is_temporary(temporary_name("." + "n" * 255))


@pytest.mark.parametrize("below", ["file", "file/new", "loop", "loop/new", "dangling"])
def test_a_folder_that_cannot_be_made_is_refused_before_the_work(
    tmp_path: Path, below: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    with refuses("E-PATH-FOLDER", f"--out {tmp_path / below}", str(tmp_path / below.split("/")[0])):
        require_folder(tmp_path / below, "--out")
    require_folder(tmp_path / "new" / "newer", "--out")
    assert not (tmp_path / "new").exists()


def test_a_folder_without_permission_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)
    for require, path in ((require_folder, tmp_path / "a" / "b"), (require_file, tmp_path / "c")):
        with refuses("E-PATH-WRITE", f"--out {tmp_path}", f"to the folder {tmp_path};"):
            require(path, "--out")
