"""Files are written whole or not at all."""

import pytest

from clipfeat.base.files import atomic_file, sha256_file, write_atomically


def test_an_error_leaves_the_old_content_and_no_other_file(tmp_path):
    path = tmp_path / "a.json"
    write_atomically(path, b"old")
    with pytest.raises(ValueError, match="stop"), atomic_file(path) as file:  # noqa: PT012
        file.write(b"half of the new")
        raise ValueError("stop")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_sha256_of_the_published_vector(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256_file(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
