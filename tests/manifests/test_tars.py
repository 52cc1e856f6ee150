"""Tar shards: keys by webdataset's rule, bytes without unpacking, and damaged tars."""

import gzip
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from lists import made
from logged import logged
from pictures import photograph, write_photographs
from refused import refuses

from clipfeat.base import tars
from clipfeat.base.tars import members, open_member
from clipfeat.manifests import (
    Image,
    ManifestError,
    folder_manifest,
    read_content,
    read_manifest,
    write_manifest,
)


def jpeg(seed: int = 0, width: int = 64) -> bytes:
    content = io.BytesIO()
    photograph(seed, width).save(content, "JPEG")
    return content.getvalue()


def pack(path: Path, files: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


# webdataset's documentation: the key is the path up to the first dot after the last slash.
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("000001.jpg", "000001"),
        ("train/n01440764/10026.JPEG", "train/n01440764/10026"),
        ("v1.0/a.png", "v1.0/a"),
        ("./a.jpg", "./a"),
        ("a b\u00e9.webp", "a b\u00e9"),
    ],
)
def test_ids_are_webdataset_keys(tmp_path, name, key):
    pack(tmp_path / "s.tar", {name: jpeg(), "x.txt": b"a caption", "x.json": b"{}", "y.cls": b"1"})
    manifest, said = made(tmp_path / "s.tar")
    assert [(i.image_id, i.path, i.width) for i in manifest.images] == [(key, f"s.tar/{name}", 64)]
    assert said == []


def test_names_with_a_second_dot_are_parts_of_another_sample_and_are_said(tmp_path):
    pack(tmp_path / "s.tar", {"a.jpg": jpeg(), "a.seg.png": jpeg(), ".hidden.jpg": b""})
    manifest, said = made(tmp_path / "s.tar")
    assert [image.image_id for image in manifest.images] == ["a"]
    assert "a sample with an image: 1, such as" in said[0]
    assert said[0].endswith("such as s.tar/a.seg.png")
    assert said[1].endswith(
        "skipped hidden or system files and folders: 1, such as s.tar/.hidden.jpg"
    )
    assert len(said) == 2


def test_names_with_several_dots_are_images_where_no_sample_owns_them(tmp_path):
    """webdataset would put frame.0001.jpg and frame.0002.jpg into one sample, as 0001.jpg, 0002.jpg."""
    names = ["v1.0/frame.0001.jpg", "v1.0/frame.0002.jpg", "a.jpg", "a.seg.png", "b.left.png"]
    pack(tmp_path / "s.tar", {name: jpeg() for name in names} | {"b.json": b"{}"})
    manifest, said = made(tmp_path / "s.tar")
    assert [(image.image_id, image.path) for image in manifest.images] == [
        ("a", "s.tar/a.jpg"),
        ("b.left", "s.tar/b.left.png"),
        ("v1.0/frame.0001", "s.tar/v1.0/frame.0001.jpg"),
        ("v1.0/frame.0002", "s.tar/v1.0/frame.0002.jpg"),
    ]
    assert len(said) == 2
    assert said[0].endswith("in their names: 3, such as s.tar/v1.0/frame.0001.jpg")
    assert said[1].endswith("a sample with an image: 1, such as s.tar/a.seg.png")


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_bytes_are_read_without_unpacking(tmp_path, kind):
    long = "deep/" * 40 + "name.jpg"
    files = {f"{k:03}.jpg": jpeg(k, 64 + k) for k in range(20)}
    if kind != tarfile.USTAR_FORMAT:
        files[long] = jpeg(99)
    pack(tmp_path / "s.tar", files, kind)
    manifest = folder_manifest(tmp_path)
    assert manifest.root == str(tmp_path)
    for image in manifest.images:
        name = image.path.removeprefix("s.tar/")
        assert read_content(manifest.root, image.path) == files[name]
    sizes = {image.path[6:9]: image.width for image in manifest.images if "deep" not in image.path}
    assert sizes == {f"{k:03}": 64 + k for k in range(20)}
    with pytest.raises(FileNotFoundError):
        read_content(manifest.root, "s.tar/none.jpg")
    with pytest.raises(FileNotFoundError):
        read_content(manifest.root, "none.tar/000.jpg")


def test_shards_of_a_folder_and_shards_by_name_are_the_same(tmp_path):
    for k in range(3):
        (tmp_path / "data/part").mkdir(parents=True, exist_ok=True)
        pack(tmp_path / f"data/part/{k:05}.tar", {f"{k}{j}.jpg": jpeg(j) for j in range(2)})
    (tmp_path / "data/00000_stats.json").write_text("{}")
    by_folder, _ = made(tmp_path / "data")
    by_name, _ = made(*(tmp_path / "data/part").iterdir(), root=tmp_path / "data")
    assert by_folder == by_name
    assert [image.path for image in by_folder.images][:3] == [
        "part/00000.tar/00.jpg",
        "part/00000.tar/01.jpg",
        "part/00001.tar/10.jpg",
    ]
    write_manifest(by_folder, tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet") == by_folder
    again, said = made(tmp_path / "m.parquet")  # every member is found in its tar
    assert again == by_folder
    assert said == [f"{tmp_path}/m.parquet: its paths start from {tmp_path}/data"]


@pytest.mark.parametrize("ending", [".tar.gz", ".TGZ"])
def test_a_tar_that_gzip_compressed_is_read_in_place(tmp_path, ending):
    files = {f"{k:03}.png": bytes([k]) * 3_000_000 + os.urandom(10) for k in range(9)}
    files |= {f"x/{k}.jpg": jpeg(k, 64 + k) for k in range(3)}
    content = pack(tmp_path / "s.tar", files).read_bytes()
    half = 12_345_678  # as pigz and bgzip write it: several parts, and zeros at the end
    parts = gzip.compress(content[:half], 1) + gzip.compress(content[half:], 1) + bytes(512)
    (tmp_path / f"s{ending}").write_bytes(parts)
    (tmp_path / "s.tar").unlink()
    manifest, _ = made(tmp_path)
    assert [image.path for image in manifest.images if image.width] == [
        f"s{ending}/x/{k}.jpg" for k in range(3)
    ]
    for name in ("008.png", "002.png", "x/1.jpg", "005.png", "000.png", "x/2.jpg"):
        assert read_content(manifest.root, f"s{ending}/{name}") == files[name]


@pytest.mark.parametrize("name", ["s.tar", "s.tar.gz"])
@pytest.mark.parametrize("is_compressed", [True, False])
def test_the_content_says_whether_a_tar_is_compressed(tmp_path, name, is_compressed):
    content = pack(tmp_path / "s.tar", {"a.jpg": jpeg()}).read_bytes()
    (tmp_path / "s.tar").unlink()
    (tmp_path / name).write_bytes(gzip.compress(content) if is_compressed else content)
    manifest, _ = made(tmp_path / name)
    assert read_content(manifest.root, f"{name}/a.jpg") == jpeg()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda content: b"", "neither a header nor an end mark"),
        (lambda content: b"no gzip", "neither a header nor an end mark"),
        (lambda content: content[:3] + b"no gzip", "damaged compressed data"),
        (lambda content: content[: len(content) // 2], "the compressed data is cut off"),
        (
            lambda content: gzip.compress(bytes(100) + b"x" * 1000),
            "neither a header nor an end mark",
        ),
    ],
)
def test_compressed_tars_that_are_damaged(tmp_path, damage, why):
    content = gzip.compress(pack(tmp_path / "s.tar", {"a.jpg": os.urandom(9000)}).read_bytes())
    (tmp_path / "s.tar.gz").write_bytes(damage(content))
    with refuses("E-TAR-READ", "s.tar.gz: ", why, kind=ManifestError):
        made(tmp_path / "s.tar.gz")


def test_a_compressed_tar_of_more_than_can_be_inflated_in_time(tmp_path, monkeypatch):
    content = pack(tmp_path / "s.tar", {"a.jpg": bytes(1_000_000)}).read_bytes()
    (tmp_path / "s.tar.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(tars, "MAX_INFLATED", 500_000)
    with refuses("E-TAR-READ", "500,000 bytes when inflated", "uncompressed", kind=ManifestError):
        made(tmp_path / "s.tar.gz")


def test_a_tar_beside_images_is_no_source(tmp_path):
    write_photographs(tmp_path, 1)
    pack(tmp_path / "s.tar", {"a.jpg": jpeg()})
    assert [image.image_id for image in folder_manifest(tmp_path).images] == ["p000"]


def test_one_key_in_two_tars(tmp_path):
    pack(tmp_path / "a.tar", {"x.jpg": jpeg()})
    pack(tmp_path / "b.tar", {"x.png": jpeg()})
    with refuses("E-MANIFEST-ID", "'x': a.tar/x.jpg and b.tar/x.png", kind=ManifestError):
        made(tmp_path / "a.tar", tmp_path / "b.tar")


def test_a_tar_that_is_replaced_is_listed_again(tmp_path):
    path = pack(tmp_path / "s.tar", {"a.jpg": b"one"})
    assert read_content(str(tmp_path), "s.tar/a.jpg") == b"one"
    pack(path, {"b.jpg": b"other", "c.jpg": b"x" * 20_000})
    assert read_content(str(tmp_path), "s.tar/b.jpg") == b"other"


def test_of_two_members_with_one_name_the_later_counts_as_in_unpacking(tmp_path):
    pack(tmp_path / "s.tar", {"a.jpg": b"one"})
    with tarfile.open(tmp_path / "s.tar", "a") as tar:
        member = tarfile.TarInfo("a.jpg")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"other"))
    assert read_content(str(tmp_path), "s.tar/a.jpg") == b"other"


def test_links_devices_and_sparse_files_are_no_members(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, kind in (
            ("link.jpg", tarfile.SYMTYPE),
            ("hard.jpg", tarfile.LNKTYPE),
            ("pipe.jpg", tarfile.FIFOTYPE),
            ("device.jpg", tarfile.CHRTYPE),
            ("folder.jpg", tarfile.DIRTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        member = tarfile.TarInfo("sparse.jpg")
        member.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "1000000000"}
        tar.addfile(member)
    assert members(str(tmp_path / "s.tar")) == {}
    with logged() as said, refuses("E-MANIFEST-EMPTY", "s.tar", "KEY", kind=ManifestError):
        folder_manifest(tmp_path)
    assert said == [
        "s.tar: skipped symbolic links, devices and sparse files: 5, such as s.tar/link.jpg"
    ]
    with pytest.raises(FileNotFoundError):
        read_content(str(tmp_path), "s.tar/link.jpg")


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_hard_link_is_the_file_that_it_names(tmp_path, kind):
    long = "d" * (90 if kind == tarfile.USTAR_FORMAT else 150) + "/a.jpg"
    with tarfile.open(tmp_path / "s.tar", "w", format=kind) as tar:
        for target in ("\u00e9.jpg", long):
            member = tarfile.TarInfo(target)
            member.size = len(jpeg())
            tar.addfile(member, io.BytesIO(jpeg()))
            link = tarfile.TarInfo(f"{target[:-4]}2.jpg")
            link.type, link.linkname = tarfile.LNKTYPE, target
            tar.addfile(link)
    manifest, said = made(tmp_path / "s.tar")
    assert [image.width for image in manifest.images] == [64] * 4
    assert as_we_read(tmp_path / "s.tar") == as_tarfile_lists(tmp_path / "s.tar")
    assert said == []


def claiming(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return a header that says of a file that it has `size` bytes, written in base 256."""
    member = tarfile.TarInfo("a.jpg")
    member.type = kind
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (size % (1 << 96)).to_bytes(12, "big")
    header[124] = 0o377 if size < 0 else 0o200
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda content: b"", "not a complete tar file"),
        (lambda content: b"no tar at all" * 100, "not a complete tar file"),
        (lambda content: b"\x1f\x8b" + content, "not a complete tar file"),
        (lambda content: content[:4096], "extends beyond the end of the file"),
        (lambda content: content[: 3 * 512], "neither a header nor an end mark"),
        (lambda content: content[:1536] + b"\1" * 512 + content[2048:], "neither a header nor an end mark"),
        (lambda content: claiming(1 << 60) + content, "extends beyond the end of the file"),
        (lambda content: claiming(-512) + content, "not a complete tar file"),
        (lambda content: claiming(1 << 40, tarfile.XHDTYPE) + content, "a header of 1,099,511,6"),
        (lambda content: claiming(1 << 40, b"L") + content, "a header of 1,099,511,627,776 bytes"),
        (lambda content: claiming(-1024, tarfile.XHDTYPE) + content, "not a complete tar file"),
    ],
)  # fmt: skip
def test_tars_that_are_not_what_they_say(tmp_path, damage, why):
    pack(tmp_path / "s.tar", {"a.jpg": b"x" * 1000, "b.jpg": b"y" * 8000})
    (tmp_path / "s.tar").write_bytes(damage((tmp_path / "s.tar").read_bytes()))
    with refuses("E-TAR-READ", "s.tar: ", why, kind=ManifestError):
        made(tmp_path / "s.tar")
    with pytest.raises(OSError, match="not a complete tar"):
        read_content(str(tmp_path), "s.tar/b.jpg")


def test_members_whose_names_lead_out_cost_themselves_alone(tmp_path):
    odd = {"../a.jpg": jpeg(), "x/../../b.jpg": jpeg()}
    pack(tmp_path / "s.tar", {"c.jpg": jpeg(), **odd})
    manifest, said = made(tmp_path / "s.tar")
    assert [image.image_id for image in manifest.images] == ["c"]
    assert "skipped files that a manifest cannot store" in said[0]
    assert "): 2, such as" in said[0]
    assert said[0].endswith("such as s.tar/../a.jpg")


def test_names_that_are_odd_on_disk_are_escaped_and_can_be_read(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.USTAR_FORMAT, encoding="latin1") as t:
        for name in ("caf\u00e9.jpg", "a\\b.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(jpeg())
            t.addfile(member, io.BytesIO(jpeg()))
    manifest, said = made(tmp_path / "s.tar")
    assert manifest.images == (
        Image("a\\b", "s.tar/a\\\\b.jpg", 64, 48),
        Image("caf\\xe9", "s.tar/caf\\xe9.jpg", 64, 48),
    )
    assert len(said) == 1
    assert "names that are not UTF-8" in said[0]
    assert all(read_content(manifest.root, image.path) == jpeg() for image in manifest.images)


def as_tarfile_lists(path: Path) -> dict[str, bytes]:
    """Return the plain files of a tar, and hard links, as the standard library reads them."""
    with tarfile.open(path, "r:") as tar:
        files = [member for member in tar if (member.isreg() or member.islnk())]
        files = [member for member in files if not member.issparse()]
        return {member.name: tar.extractfile(member).read() for member in files}  # type: ignore[union-attr]


def as_we_read(path: Path) -> dict[str, bytes]:
    return {name: open_member(str(path), name).read() for name in members(str(path))}


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_of_the_standard_library(tmp_path, kind):
    with tarfile.open(tmp_path / "s.tar", "w", format=kind, pax_headers={"comment": "x"}) as tar:
        for k, name in enumerate(
            ["a.jpg", "d/" * 40 + "b.jpg", "c" * 99 + "\u00e9.jpg", "e\udce9"]
        ):
            if kind == tarfile.USTAR_FORMAT and len(name) > 100:
                name = "d" * 150 + "/" + name[-9:]  # in two parts, as ustar has it
            member = tarfile.TarInfo(name)
            member.size, member.mtime = 500 * k, 1.5 + k  # webdataset's times: a pax header each
            member.uid = (
                7 if kind == tarfile.USTAR_FORMAT else 1 << 30
            )  # too large for octal digits
            tar.addfile(member, io.BytesIO(bytes([k]) * member.size))
            folder = tarfile.TarInfo(f"{k}.folder")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
    found = as_we_read(tmp_path / "s.tar")
    assert found == as_tarfile_lists(tmp_path / "s.tar")
    assert len(found) == 4


@pytest.mark.parametrize(
    "options",
    [["--format=v7"], ["--format=oldgnu"], ["--format=gnu"], ["--format=ustar"], ["--format=posix"],
     ["--format=gnu", "--sparse"], ["--format=posix", "--sparse"], ["--format=oldgnu", "--sparse"],
     ["--format=posix", "--sparse", "--sparse-version=0.0"], ["--format=gnu", "-V", "a label"],
     ["--format=gnu", "-G"],
     ["--format=posix", "--pax-option=exthdr.name=%d/PaxHeaders/%f,comment=x"]],
)  # fmt: skip
def test_members_of_what_gnu_tar_writes(tmp_path, options):
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    files = {"a.jpg": b"a" * 700, "deep/b.jpg": b"", "deep/c d.jpg": b"c" * 512}
    if not {"--format=v7", "--format=ustar"} & set(options):
        files[f"deep/{'n' * 120}.jpg"] = b"n"
    for name, content in files.items():
        (source / name).write_bytes(content)
    (source / "link.jpg").symlink_to("a.jpg")
    (source / "again.jpg").hardlink_to(source / "a.jpg")
    for name, holes in (("few", 2), ("many", 60)):  # more holes than one header's map has room for
        with (source / f"{name}.sparse").open("wb") as file:
            for k in range(holes):
                file.seek(k * (1 << 16))
                file.write(bytes([k + 1]) * 4096)
            file.truncate(holes * (1 << 16) + 5)
    command = [
        "tar",
        *options,
        "--sort=name",
        "-cf",
        str(tmp_path / "s.tar"),
        "-C",
        str(source),
        ".",
    ]
    subprocess.run(command, check=True, capture_output=True)
    found = {name.removeprefix("./"): data for name, data in as_we_read(tmp_path / "s.tar").items()}
    wanted = {name: (source / name).read_bytes() for name in files}
    wanted["again.jpg"] = wanted["a.jpg"]
    sparse = {name: data for name, data in found.items() if name.endswith(".sparse")}
    assert {name: data for name, data in found.items() if name not in sparse} == wanted
    if "--sparse" in options:
        assert not sparse
    else:
        assert sparse == {
            f"{n}.sparse": (source / f"{n}.sparse").read_bytes() for n in ("few", "many")
        }


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda header, record: (header, b"99 path=a\n"), "cannot be read"),
        (lambda header, record: (header, b"0 path=a\n"), "cannot be read"),
        (lambda header, record: (header, b"x path=a\n"), "cannot be read"),
        (lambda header, record: (header, b"3 =\n"), "cannot be read"),
        (lambda header, record: (header, b"12 size=-99\n"), "not a number"),
        (lambda header, record: (header, b"13 size=1000"), "cannot be read"),
        (lambda header, record: (header, b"14 size=99999\n"), "extends beyond the end of the file"),
        (lambda header, record: (header[:150] + b"9" + header[151:], record), "neither a header"),
    ],
)  # fmt: skip
def test_extended_headers_that_lie(tmp_path, damage, why):
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("a.jpg")
        member.pax_headers = {"path": "b.jpg"}
        tar.addfile(member)
    content = (tmp_path / "s.tar").read_bytes()
    header, record = damage(content[:512], b"14 path=b.jpg\n")
    (tmp_path / "s.tar").write_bytes(header + record.ljust(512, b"\0") + content[1024:])
    with pytest.raises(OSError, match=why):
        members(str(tmp_path / "s.tar"))


def test_a_folder_of_tars_says_what_it_passes_over(tmp_path):
    files = {"a.jpg": jpeg(), "._a.jpg": b"", "__MACOSX/a.jpg": b"", "b": jpeg(1), "c.dat": b"data"}
    pack(tmp_path / "s.tar", files | {"a.json": b"{}"})
    (tmp_path / "s.tar.gz").write_bytes(b"")
    (tmp_path / ".part.tar").write_bytes(b"")
    with logged() as said:
        manifest = folder_manifest(tmp_path)
    assert [image.image_id for image in manifest.images] == ["a", "b"]
    assert said == [
        f"{tmp_path}: skipped hidden or system files and folders: 1, such as .part.tar",
        f"{tmp_path}: skipped files that are not images: 1, such as s.tar.gz",
        "s.tar: skipped hidden or system files and folders: 2, such as s.tar/._a.jpg",
        "s.tar: skipped files that are not images: 1, such as s.tar/c.dat",
    ]


def test_members_are_read_where_the_system_has_no_pread(tmp_path, monkeypatch):
    content = jpeg()
    path = str(pack(tmp_path / "s.tar", {"a.jpg": content}))
    for name in ("pread", "preadv", "O_CLOEXEC", "O_NONBLOCK", "O_NOFOLLOW"):
        monkeypatch.delattr(os, name)
    with open_member(path, "a.jpg") as file:
        assert file.read() == content
    assert [image.width for image in made(Path(path))[0].images] == [64]


def test_a_pipe_that_takes_the_place_of_a_tar_is_not_waited_for(tmp_path, monkeypatch):
    path = pack(tmp_path / "s.tar", {"a.jpg": jpeg()})
    listed = members(str(path))
    monkeypatch.setattr(tars, "members", lambda path: listed)  # it was looked at just before
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="is a pipe or a device"):
        open_member(str(path), "a.jpg")
