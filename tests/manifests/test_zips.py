"""Zip files: members as the standard library reads them, bytes in place, and hostile zips."""

import io
import os
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest
from lists import coco, made, write_json
from logged import logged
from pictures import photograph
from refused import refuses

from clipfeat.manifests import (
    Image,
    ManifestError,
    folder_manifest,
    read_content,
    read_manifest,
    write_manifest,
    zips,
)
from clipfeat.manifests.zips import heads, members, open_member, others


def jpeg(seed: int = 0, width: int = 64) -> bytes:
    content = io.BytesIO()
    photograph(seed, width).save(content, "JPEG")
    return content.getvalue()


def pack(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def as_we_read(path: Path) -> dict[str, bytes]:
    return {name: open_member(str(path), name).read() for name in members(str(path))}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_images_are_read_without_unpacking(tmp_path, method):
    files = {f"train2014/{k:03}.jpg": jpeg(k, 64 + k) for k in range(5)}
    pack(tmp_path / "s.zip", {"train2014/": b"", **files, "a.json": b"{}"}, method)
    for source in (tmp_path / "s.zip", tmp_path):
        manifest, said = made(source)
        assert [image.image_id for image in manifest.images] == [f"{k:03}" for k in range(5)]
        assert [image.width for image in manifest.images] == [64 + k for k in range(5)]
        assert manifest.root == str(tmp_path)
        for image in manifest.images:
            inner = image.path.removeprefix("s.zip/")
            assert read_content(manifest.root, image.path) == files[inner]
        skipped = "s.zip: skipped files that are not images: 1, such as s.zip/a.json"
        assert said == [f"{tmp_path}/{skipped}"]
    with pytest.raises(FileNotFoundError):
        read_content(str(tmp_path), "s.zip/none.jpg")
    write_manifest(manifest, tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet") == manifest
    assert made(tmp_path / "m.parquet")[0] == manifest  # every member is found in its zip


def test_a_list_may_name_the_members_of_a_zip(tmp_path):
    names = [f"COCO_train2014_{k:012}.jpg" for k in (9, 25)]
    (tmp_path / "zips").mkdir()
    pack(tmp_path / "zips/train2014.zip", {f"train2014/{name}": jpeg() for name in names})
    source = write_json(tmp_path / "mine_train2014.json", coco([9, 25]))
    manifest, said = made(source, root=tmp_path / "zips/train2014.zip")
    assert manifest.root == str(tmp_path / "zips")
    assert manifest.images == tuple(
        Image(image_id, f"train2014.zip/train2014/{name}", 64, 48)
        for image_id, name in zip(("25", "9"), names[::-1], strict=True)
    )
    assert said == []
    assert read_content(manifest.root, manifest.images[0].path) == jpeg()
    other = write_json(tmp_path / "mine.json", {"images": [{"id": 1, "file_name": "none.jpg"}]})
    with refuses("E-MANIFEST-ABSENT", "train2014.zip/FILE_NAME", kind=ManifestError):
        made(other, root=tmp_path / "zips/train2014.zip")
    content = (tmp_path / "zips/train2014.zip").read_bytes()
    (tmp_path / "zips/train2014.zip").write_bytes(content[:-1])
    with refuses("E-MANIFEST-ROOT", "train2014.zip: not a complete zip file", kind=ManifestError):
        made(source, root=tmp_path / "zips/train2014.zip")


def test_ids_are_those_of_a_folder(tmp_path):
    pack(tmp_path / "s.zip", {"x/a.b.jpg": jpeg(), "y/a.b.jpg": jpeg(), "__MACOSX/x/._a.jpg": b""})
    with refuses("E-MANIFEST-ID", "'a.b'", "--ids path", kind=ManifestError):
        made(tmp_path / "s.zip")
    manifest, said = made(tmp_path / "s.zip", ids="path")
    assert [image.image_id for image in manifest.images] == ["x/a.b", "y/a.b"]
    assert said[0].endswith(
        "hidden or system files and folders: 1, such as s.zip/__MACOSX/x/._a.jpg"
    )


def test_heads_are_the_first_bytes(tmp_path):
    files = {"a.jpg": jpeg(), "b.png": b"b" * 10_000, "c.jpg": b""}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = str(pack(tmp_path / "s.zip", files, method))
        expected = [files["b.png"][:4096], b"", files["a.jpg"][:4096], b""]
        assert heads(path, ["b.png", "none", "a.jpg", "c.jpg"], 4096) == expected
        os.utime(path, ns=(1, method))  # the next zip is another one


def test_members_are_read_at_any_offset(tmp_path):
    content = b"".join(struct.pack("<I", k) for k in range(6_000_000))  # three kept states
    path = str(pack(tmp_path / "s.zip", {"a": content}, zipfile.ZIP_DEFLATED))
    with open_member(path, "a") as file:
        for offset in (23_000_000, 5, 9_000_000, 8_999_990, 23_999_990, 0):
            file.seek(offset)
            assert file.read(100) == content[offset : offset + 100]


# 4.3.9 data descriptors (-fd), 4.5.3 zip64 (-fz), comments, links, encryption, and stored files.
@pytest.mark.parametrize("options", [[], ["-0"], ["-fd"], ["-fz"], ["-fz", "-fd"], ["-D"], ["-y"]])
def test_members_of_what_info_zip_writes(tmp_path, options):
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    files = {"a.jpg": jpeg(), "deep/b.txt": b"b" * 5000, "caf\u00e9.jpg": jpeg(1), "empty.jpg": b""}
    for name, content in files.items():
        (source / name).write_bytes(content)
    if "-y" in options:
        (source / "link.jpg").symlink_to("/etc/passwd")
    command = ["zip", "-q", "-r", *options, "../s.zip", "."]
    subprocess.run(command, check=True, cwd=source, env={**os.environ, "LC_ALL": "C.UTF-8"})
    assert as_we_read(tmp_path / "s.zip") == files
    assert others(str(tmp_path / "s.zip")) == (["link.jpg"] if "-y" in options else [])


def test_what_cannot_be_read_is_counted(tmp_path):
    pack(tmp_path / "s.zip", {"a.jpg": jpeg()})
    with zipfile.ZipFile(tmp_path / "s.zip", "a") as archive:
        archive.writestr("b.jpg", jpeg(), zipfile.ZIP_BZIP2)
        archive.writestr("c.jpg", jpeg(), zipfile.ZIP_LZMA)
    manifest, said = made(tmp_path / "s.zip")
    assert [image.image_id for image in manifest.images] == ["a"]
    assert "encrypted or compressed in rare ways: 2, such as s.zip/b.jpg" in said[0]


def test_hostile_names_cost_themselves(tmp_path):
    odd = {"../a.jpg": jpeg(), "x/../../b.jpg": jpeg(), "a\\b.jpg": jpeg(3)}
    pack(tmp_path / "s.zip", {"c.jpg": jpeg(), **odd})
    manifest, said = made(tmp_path / "s.zip")
    assert [(image.image_id, image.path) for image in manifest.images] == [
        ("a\\b", "s.zip/a\\\\b.jpg"),
        ("c", "s.zip/c.jpg"),
    ]
    assert "skipped files that a manifest cannot store" in said[0]
    assert "): 2, such as" in said[0]
    assert read_content(manifest.root, manifest.images[0].path) == jpeg(3)
    pack(tmp_path / "t.zip", {"../a.jpg": jpeg(), "x/../../b.jpg": jpeg()})
    with refuses("E-MANIFEST-EMPTY", "t.zip: ", kind=ManifestError):
        made(tmp_path / "t.zip")


def test_names_that_are_not_utf8(tmp_path):
    content = pack(tmp_path / "s.zip", {"cafE.jpg": jpeg()}).read_bytes()
    (tmp_path / "s.zip").write_bytes(content.replace(b"cafE", b"caf\xe9"))
    assert made(tmp_path / "s.zip")[0].images == (Image("caf\\xe9", "s.zip/caf\\xe9.jpg", 64, 48),)


def central(path: Path) -> int:
    """Return the offset of the first record of the central directory."""
    return path.read_bytes().index(b"PK\1\2")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda c, at: b"", "no end of the directory"),
        (lambda c, at: b"no zip at all" * 100, "no end of the directory"),
        (lambda c, at: c[:-30], "no end of the directory"),
        (lambda c, at: c[:100] + c[200:], "its directory should be at byte"),
        (lambda c, at: b"junk" + c, "its directory should be at byte"),
        (lambda c, at: c[:at] + b"PK\7\7" + c[at + 4 :], "no member where the directory"),
        (lambda c, at: c[: at + 20] + b"\xfe\xff\xff\xff" + c[at + 24 :], "beyond the end of the file"),
        (lambda c, at: c[: at + 24] + b"\xfe\xff\xff\xff" + c[at + 28 :], "beyond the end of the file"),
        (lambda c, at: c[: at + 42] + b"\xfe\xff\xff\xff" + c[at + 46 :], "beyond the end of the file"),
        (lambda c, at: c[: at + 28] + b"\xff\xff" + c[at + 30 :], "its directory is cut off"),
        (lambda c, at: c[:-14] + b"\xff\x7f\xff\x7f" + c[-10:], "its directory"),
    ],
)  # fmt: skip
def test_zips_that_are_not_what_they_say(tmp_path, damage, why):
    path = pack(tmp_path / "s.zip", {"a.jpg": b"x" * 1000, "b.jpg": b"y" * 800})
    path.write_bytes(damage(path.read_bytes(), central(path)))
    with refuses("E-ZIP-READ", "s.zip: not a complete zip file", why, kind=ManifestError):
        made(path)
    with pytest.raises(OSError, match="not a complete zip"):
        read_content(str(tmp_path), "s.zip/b.jpg")


def test_members_that_overlap_are_refused(tmp_path):
    """As in the zips that grow to terabytes: many entries of the directory share one content."""
    content = pack(
        tmp_path / "one.zip", {"a.png": bytes(1_000_000)}, zipfile.ZIP_DEFLATED
    ).read_bytes()
    at = content.index(b"PK\1\2")
    entry = content[at : content.index(b"PK\5\6")]
    directory = b"".join(entry.replace(b"a.png", b"%05d" % k) for k in range(100))
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 100, 100, len(directory), at, 0)
    (tmp_path / "s.zip").write_bytes(content[:at] + directory + end)
    with refuses("E-ZIP-READ", "its members overlap", kind=ManifestError):
        made(tmp_path / "s.zip")


def test_a_member_that_inflates_to_more_than_it_says(tmp_path):
    path = pack(tmp_path / "s.zip", {"a.png": bytes(5_000_000)}, zipfile.ZIP_DEFLATED)
    content, at = path.read_bytes(), central(path)
    path.write_bytes(content[: at + 24] + struct.pack("<I", 1000) + content[at + 28 :])
    assert open_member(str(path), "a.png").read() == bytes(1000)  # and not one byte more
    assert members(str(path))["a.png"].size == 1000


def test_a_member_of_damaged_data(tmp_path):
    path = pack(tmp_path / "s.zip", {"a.jpg": jpeg(), "b.jpg": jpeg(1)}, zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    content[len("a.jpg") + 30] = 7  # a block of a type that does not exist (RFC 1951, 3.2.3)
    path.write_bytes(content)
    manifest, _ = made(path)
    assert [(image.image_id, image.width) for image in manifest.images][1] == ("b", 64)
    with pytest.raises(OSError, match=r"damaged compressed data|cut off"):
        read_content(str(tmp_path), "s.zip/a.jpg")


def test_the_list_of_members_is_bounded(tmp_path, monkeypatch):
    path = pack(tmp_path / "s.zip", {f"{k}.jpg": b"" for k in range(20)})
    monkeypatch.setattr(zips, "MAX_MEMBERS", 19)
    with pytest.raises(OSError, match="20 members"):
        members(str(path))


def test_a_zip_beside_images_is_no_source_and_zips_beside_tars_are_none(tmp_path):
    photograph(0).save(tmp_path / "p.jpg")
    pack(tmp_path / "s.zip", {"a.jpg": jpeg()})
    with logged() as said:
        assert [image.image_id for image in folder_manifest(tmp_path).images] == ["p"]
    assert said == [f"{tmp_path}: skipped files that are not images: 1, such as s.zip"]
