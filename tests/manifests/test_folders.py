"""The images in folders: by their endings and their content; whatever is skipped is logged."""

import errno
import os
import struct
import subprocess
import sys
import unicodedata

import pytest
from lists import made, picture, write_json
from logged import logged
from pictures import photograph
from PIL import Image as Pillow
from refused import refuses

from clipfeat.base.errors import ExtractUsageError, UsageError
from clipfeat.base.text import IMAGE_SUFFIXES
from clipfeat.cli.extract import load_images
from clipfeat.manifests import (
    Image,
    Manifest,
    ManifestError,
    folder_manifest,
    read_content,
    read_manifest,
    write_manifest,
)
from clipfeat.manifests.headers import FORMATS, read_sizes, size_in


def paths(manifest):
    return [image.path for image in manifest.images]


def test_endings_are_those_that_pillow_registers_for_the_formats_we_read():
    Pillow.init()
    registered = Pillow.registered_extensions().items()
    assert {ending for ending, kind in registered if kind in (*FORMATS, "MPO")} <= IMAGE_SUFFIXES
    assert set(FORMATS) <= set(Pillow.OPEN)


# The names that people's data sets have: Windows, cameras, crawlers, medical images.
@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.jfif", "JPEG"), ("a.JPE", "JPEG"), ("a.pjpeg", "JPEG"), ("a.jps", "JPEG"),
     ("a.pgm", "PPM"), ("a.avif", "AVIF"), ("a.j2k", "JPEG2000")],
)  # fmt: skip
def test_rarer_endings_are_images(tmp_path, name, kind):
    photograph(0, 30, 20).save(tmp_path / name, kind)
    manifest, said = made(tmp_path)
    assert (manifest.images, said) == ((Image("a", name, 30, 20),), [])


def test_files_of_other_names_are_judged_by_what_they_hold(tmp_path):
    photograph(0, 30, 20).save(tmp_path / "0a1b2c", "PNG")
    photograph(0, 40, 20).save(tmp_path / "v1.5", "WEBP")
    photograph(0, 50, 20).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg~").write_bytes((tmp_path / "a.jpg").read_bytes())
    (tmp_path / "LICENSE").write_text("BM is how a bitmap begins")
    (tmp_path / "b.mov").write_bytes(b"\0\0\0\x18ftypqt  " + bytes(100))
    (tmp_path / "a.txt").write_text("a caption")
    manifest, said = made(tmp_path)
    assert manifest.images == (
        Image("0a1b2c", "0a1b2c", 30, 20),
        Image("a", "a.jpg", 50, 20),
        Image("a.jpg~", "a.jpg~", 50, 20),  # an ending that is not an image's belongs to the id
        Image("v1.5", "v1.5", 40, 20),
    )
    assert said[0].startswith(f"{tmp_path}: skipped files that are not images: 3, such as ")
    assert "recognised by their content, with other endings: 3, such as" in said[1]
    assert len(said) == 2


def test_what_systems_leave_behind_is_passed_over_with_a_count(tmp_path):
    picture(tmp_path / "a/p.jpg")
    for name in ("._p.jpg", ".hidden/q.jpg", "__MACOSX/a/p.jpg", "a/@eaDir/p.jpg/thumb.jpg",
                 "a/.ipynb_checkpoints/p-checkpoint.jpg", "Thumbs.db"):  # fmt: skip
        picture(tmp_path / f"{name}.jpg").rename(tmp_path / name)
    manifest, said = made(tmp_path)
    assert paths(manifest) == ["a/p.jpg"]
    assert len(said) == 1
    assert "skipped hidden or system files and folders: 6, such as " in said[0]


def test_files_that_cannot_be_used_are_rows_for_extraction_to_judge(tmp_path):
    picture(tmp_path / "good.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    (tmp_path / "mount").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    photograph(0).save(tmp_path / "wide.bmp")
    header = bytearray((tmp_path / "wide.bmp").read_bytes())
    struct.pack_into("<I", header, 18, 4_294_967_169)  # BITMAPINFOHEADER: the width
    (tmp_path / "wide.bmp").write_bytes(header)
    manifest, said = made(tmp_path)
    sizes = {image.image_id: image.width for image in manifest.images}
    assert sizes == {"good": 64, "gone": 0, "circle": 0, "pipe": 0, "wide": 0}
    assert said == [f"{tmp_path}: skipped links whose target does not exist: 1, such as mount"]
    write_manifest(manifest, tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet") == manifest
    with pytest.raises(FileNotFoundError):
        read_content(manifest.root, "gone.jpg")
    with pytest.raises(OSError, match="symbolic links") as refused:
        read_content(manifest.root, "circle.jpg")
    assert refused.value.errno == errno.ELOOP


def test_two_files_of_one_stem(tmp_path):
    picture(tmp_path / "a/1.jpg")
    picture(tmp_path / "b/1.jpg")
    with refuses("E-MANIFEST-ID", "a/1.jpg and b/1.jpg", "--ids path", kind=ManifestError):
        made(tmp_path)
    by_path = load_images(tmp_path, "path")
    assert [image.image_id for image in by_path.images] == ["a/1", "b/1"]
    picture(tmp_path / "a/1.png")
    with refuses("E-MANIFEST-ID", "rename one"):  # --ids path would not help
        made(tmp_path)


def test_a_manifest_whose_root_nothing_here_can_read_is_refused_at_once(tmp_path):
    """And not for each image, in a decoder that dies."""
    write_manifest(Manifest.of("abfs://x", [Image("a", "a.jpg", 9, 9)]), tmp_path / "m.parquet")
    with pytest.raises(UsageError) as refused:
        load_images(tmp_path / "m.parquet")
    assert refused.value.code == "E-URL-DRIVER"


def test_a_root_that_a_manifest_names_is_said_before_it_is_read(tmp_path):
    picture(tmp_path / "images/a.jpg")
    write_manifest(folder_manifest(str(tmp_path / "images")), str(tmp_path / "m.parquet"))
    with logged() as said:
        manifest = load_images(tmp_path / "m.parquet")
    assert said == [f"{tmp_path}/m.parquet: images are read from {tmp_path}/images"]
    with refuses("E-MANIFEST-IDS", kind=ExtractUsageError):
        load_images(tmp_path / "m.parquet", "path")
    # Another root takes its place.
    (tmp_path / "images").rename(tmp_path / "mine")
    picture(tmp_path / "images/other.jpg")
    moved, said = made(tmp_path / "m.parquet", root=tmp_path / "mine")
    assert (moved.root, moved.images, said) == (str(tmp_path / "mine"), manifest.images, [])
    with pytest.raises(ManifestError):
        made(tmp_path / "m.parquet")
    with refuses("E-MANIFEST-ABSENT", kind=ManifestError):
        made(tmp_path / "m.parquet", root=tmp_path / "images")


def test_names_of_a_locale_that_is_not_utf8_are_the_same(tmp_path):
    picture(tmp_path / "images/caf\u00e9.jpg")
    list_ = write_json(tmp_path / "l.json", {"images": [{"id": 1, "file_name": "caf\u00e9.jpg"}]})
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from clipfeat.manifests import make_manifest, write_manifest\n"
        "assert sys.getfilesystemencoding() == 'ascii'\n"
        "for source in map(Path, sys.argv[2:]):\n"
        "    found = make_manifest([source], sys.argv[1])\n"
        "    write_manifest(found, source.with_suffix('.parquet'))\n"
    )
    ascii_ = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    images = tmp_path / "images"
    command = [sys.executable, "-c", code, images, images, list_]
    done = subprocess.run(command, env={**os.environ, **ascii_}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    found = [read_manifest(tmp_path / name).images for name in ("images.parquet", "l.parquet")]
    expected = Image("caf\u00e9", "caf\u00e9.jpg", 64, 48)
    assert found == [(expected,), (expected._replace(image_id="1"),)]


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_list", ["NFC", "NFD"])
def test_letters_with_marks_are_found_in_either_normal_form(tmp_path, on_disk, in_list):
    name = "caf\u00e9/\u00e9t\u00e9.jpg"
    there = unicodedata.normalize(on_disk, name)
    picture(tmp_path / there)
    listed = unicodedata.normalize(in_list, name)
    source = write_json(tmp_path / "l.json", {"images": [{"id": 1, "file_name": listed}]})
    manifest, said = made(source)
    assert (manifest.images, said) == ((Image("1", there, 64, 48),), [])
    assert read_content(manifest.root, there)


def test_sizes_of_a_list_give_way_to_those_of_the_headers(tmp_path):
    for name in "ab":
        picture(tmp_path / f"{name}.jpg", 64, 48)
    entries = [
        {"id": k, "file_name": f"{name}.jpg", "width": width, "height": height}
        for k, (name, width, height) in enumerate([("a", 64, 48), ("b", 48, 64), ("c", 9, 8)])
    ]
    manifest, said = made(write_json(tmp_path / "l.json", {"images": entries}))
    assert [image[2:] for image in manifest.images] == [(64, 48), (64, 48), (9, 8)]
    assert said[1] == (
        "sizes in the list that differ from those in the files, which are used: 1, such as 48x64 "
        "of b.jpg, which has 64x48"
    )


class TestSizes:
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
    def test_equal_those_of_pillow(self, tmp_path, kind):
        for width, height in ((1, 1), (640, 3), (3, 640)):
            photograph(0, width, height).save(tmp_path / f"{width}", kind)
        assert read_sizes(str(tmp_path), ["1", "640", "3"]) == [(1, 1), (640, 3), (3, 640)]

    @pytest.mark.parametrize(
        "choices",
        [{}, {"progressive": True}, {"exif": bytes(60_000)}, {"icc_profile": bytes(200_000)},
         {"comment": b"\xff\xc0\0\x11\x08\0\1\0\1"}, {"subsampling": 2, "restart_marker_rows": 1}],
    )  # fmt: skip
    def test_of_jpeg_files_with_much_before_the_frame(self, tmp_path, choices):
        path = tmp_path / "a.jpg"
        photograph(0, 70, 40).save(path, **choices)
        assert size_in(path.read_bytes()) == (70, 40)
        assert size_in(path.read_bytes()[:3]) is None
        assert read_sizes(str(tmp_path), ["a.jpg"]) == [(70, 40)]

    def test_what_is_no_header_is_left_to_pillow(self):
        for head in (b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xda\0\x0c", b"\xff\xd8\xff\xff\xff\xc0",
                     b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xc0\0\x11\x08" + bytes(8)):  # fmt: skip
            assert size_in(head) is None
