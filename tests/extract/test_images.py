"""A bad image gives a status with a reason; an unusual one gives a picture with a remark."""

import hashlib
import io
import zlib

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import photograph, write_bad_files
from PIL import Image, ImageFile

from clipfeat.extract.pixels import images
from clipfeat.extract.pixels.images import decode, load_picture
from clipfeat.extract.pixels.inspection import CUT_OFF, DAMAGED, SEVERAL_FRAMES
from clipfeat.extract.planning.recipe import Preprocess, make_recipe

CLIP = Preprocess(224, "shortest", "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
RECIPE = make_recipe("square:64", CLIP, (32, 32))
SMALL = Preprocess(32, "shortest", "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
VIEWS = make_recipe("views", SMALL, (32, 32))
FORMATS = ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "JPEG2000", "AVIF")


def load(path, recipe=RECIPE, **options):
    return load_picture(path.name, str(path.parent), recipe, **options)


def content_of(image, kind="PNG", **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def test_a_good_image(tmp_path):
    photograph(0, 70, 50).save(tmp_path / "a.jpg")
    picture = load(tmp_path / "a.jpg")
    assert (picture.status, picture.reason, picture.width, picture.height) == ("ok", "", 70, 50)
    assert picture.pixels is not None
    assert picture.pixels.shape == (64, 64, 3)
    assert picture.sha256 == hashlib.sha256((tmp_path / "a.jpg").read_bytes()).hexdigest()


class TestRefused:
    def test_each_kind_of_bad_file_has_its_status_and_a_reason(self, tmp_path):
        expected = write_bad_files(tmp_path)
        pictures = {p.stem: load(p) for p in tmp_path.iterdir()}
        assert {i: p.status.value for i, p in pictures.items()} == expected
        assert all(p.reason and p.pixels is None for p in pictures.values())
        assert pictures["huge"].reason == "20000x20000 is more than 178,956,970 pixels"
        assert (pictures["broken"].width, pictures["broken"].height) == (160, 120)

    def test_a_missing_file_and_a_folder(self, tmp_path):
        assert load(tmp_path / "none.jpg").status == "missing"
        (tmp_path / "folder.jpg").mkdir()
        picture = load(tmp_path / "folder.jpg")
        assert (picture.status, picture.reason) == (
            "failed",
            "cannot read the file: is a folder; a file is needed",
        )

    def test_more_pixels_than_the_limit_are_not_decoded(self):
        content = content_of(photograph(0, 30, 20))
        assert decode(content, RECIPE, max_pixels=600).status == "ok"
        picture = decode(content, RECIPE, max_pixels=599)
        assert (picture.status, picture.reason) == ("too_large", "30x20 is more than 599 pixels")

    def test_a_side_that_no_index_can_hold(self):
        content = bytearray(content_of(photograph(0, 30, 20), "BMP"))
        content[18:22] = (4_294_967_169).to_bytes(4, "little")  # of a damaged file: the width
        picture = decode(bytes(content), RECIPE)
        assert (picture.status, picture.width, picture.height) == ("too_large", 0, 0)
        assert picture.reason.startswith("4294967169x20 is more than")

    @pytest.mark.parametrize(
        ("kind", "options", "share"),
        [
            ("JPEG", {}, 1),
            ("JPEG", {"progressive": True}, 2),
            ("PNG", {}, 1),
            ("WEBP", {}, 4),
            ("JPEG2000", {}, 4),
            ("AVIF", {}, 4),
        ],
    )
    def test_a_format_that_takes_more_memory_may_have_fewer_pixels(self, kind, options, share):
        content = content_of(photograph(0, 40, 30), kind, **options)
        assert decode(content, RECIPE, max_pixels=40 * 30 * share).status == "ok"
        picture = decode(content, RECIPE, max_pixels=40 * 30 * share - 1)
        assert (picture.status, (picture.width, picture.height)) == ("too_large", (40, 30))
        assert (f"1/{share} of the limit" in picture.reason) == (share > 1)

    def test_a_webp_of_some_bytes_that_would_be_a_gigabyte(self):
        # Lossless, (width - 1) and (height - 1) in 14 bits each; one colour, no bit a pixel.
        bits = (16382 | 16382 << 14).to_bytes(4, "little") + bytes((0b10001000, 0b10001000, 0b1000))
        chunk = b"VP8L" + (1 + len(bits)).to_bytes(4, "little") + b"\x2f" + bits
        content = b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk
        picture = decode(content, RECIPE)
        why = "16383x16383 is more than 44,739,242 pixels, 1/4 of the limit"
        assert (picture.status, picture.reason[: len(why)]) == ("too_large", why)

    def test_a_line_that_a_step_would_enlarge_too_much_is_not_decoded(self):
        content = content_of(Image.new("L", (60_000, 3)))
        picture = decode(content, make_recipe("model", CLIP, (32, 32)))
        # 224 * 60000 / 3 = 4480000: a gigapixel
        why = "60000x3 would be resized to 4480000x224"
        assert (picture.status, picture.reason) == ("unsupported", why)

    def test_a_line_of_which_no_pixel_is_left(self):
        content = content_of(Image.new("L", (4000, 2)))
        picture = decode(content, make_recipe("pretrain384", CLIP, (32, 32)))
        assert (picture.status, picture.reason) == (
            "unsupported",
            "4000x2 would be resized to 0x0",
        )

    def test_less_than_the_crop(self, tmp_path):
        (tmp_path / "own.toml").write_text(
            'name = "own"\nsteps = [{ step = "crop", height = 40, width = 30 }]'
        )
        recipe = make_recipe(str(tmp_path / "own.toml"), CLIP, (32, 32))
        picture = decode(content_of(photograph(0, 64, 39)), recipe)
        why = "64x39 gives 64x39, less than the crop to 30x40"
        assert (picture.status, picture.reason) == ("unsupported", why)

    def test_postscript_is_never_run(self):
        """Pillow would start Ghostscript for it."""
        content = content_of(photograph(0), "EPS")
        picture = decode(content, RECIPE)
        assert (picture.status, "PostScript" in picture.reason) == ("undecodable", True)

    @pytest.mark.parametrize("cut", [30, 200, 400, 600])
    def test_a_png_cut_anywhere(self, cut):
        assert decode(content_of(photograph(0))[:cut], RECIPE).status == "undecodable"

    @pytest.mark.parametrize("kind", FORMATS)
    def test_no_broken_byte_raises(self, kind):
        whole = content_of(photograph(0, 40, 30), kind)

        @settings(max_examples=60, deadline=None)
        @given(st.data())
        def broken(data):
            content = bytearray(whole)
            early = st.integers(0, min(200, len(whole) - 1))
            for at in data.draw(st.lists(early | st.integers(0, len(whole) - 1), max_size=8)):
                content[at] = data.draw(st.integers(0, 255))
            end = data.draw(st.integers(0, len(whole)))
            for accept in (False, True):
                picture = decode(bytes(content[:end]), RECIPE, accept_truncated=accept)
                assert (
                    (picture.pixels is None)
                    == (picture.status != "ok")
                    == bool(picture.status != "ok" and picture.reason)
                )

        broken()


class TestTruncated:
    @pytest.mark.parametrize("kind", ["JPEG", "PNG"])
    def test_it_is_accepted_only_where_asked_for(self, kind):
        whole = content_of(photograph(0, 160, 120), kind)
        content = whole[: len(whole) // 2]
        assert decode(content, RECIPE).status == "undecodable"
        picture = decode(content, RECIPE, accept_truncated=True)
        assert (picture.status, picture.reason) == ("ok", CUT_OFF)
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            image = Image.open(io.BytesIO(content)).resize((64, 64), Image.Resampling.BICUBIC)
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        np.testing.assert_array_equal(picture.pixels, np.asarray(image))
        assert decode(content, RECIPE).status == "undecodable"  # the switch is off again

    def test_a_whole_file_is_as_it_was(self):
        content = content_of(photograph(0), "JPEG")
        strict = decode(content, RECIPE)
        picture = decode(content, RECIPE, accept_truncated=True)
        assert picture.reason == ""
        np.testing.assert_array_equal(picture.pixels, strict.pixels)

    @pytest.mark.parametrize("content", [b"", b"this is no image", b"\xff\xd8\xff\xe0\0\x10JFIF"])
    def test_what_is_not_an_image_stays_undecodable(self, content):
        assert decode(content, RECIPE, accept_truncated=True).status == "undecodable"

    def test_a_file_that_is_damaged_is_not_called_cut_off(self):
        content = bytearray(content_of(photograph(0, 64, 64)))
        at = content.index(b"IDAT")
        end = at + 4 + int.from_bytes(content[at - 4 : at], "big")
        content[end // 2] ^= 0x55  # within the compressed pixels, whose checksum then agrees
        content[end : end + 4] = zlib.crc32(content[at:end]).to_bytes(4, "big")
        assert decode(bytes(content), RECIPE).status == "undecodable"
        picture = decode(bytes(content), RECIPE, accept_truncated=True)
        assert (picture.status, picture.reason) == ("ok", DAMAGED)


class TestFrames:
    @pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
    def test_the_first_is_used_with_a_remark(self, kind):
        frames = [photograph(seed, 40, 30) for seed in range(3)]
        options = {"lossless": True} if kind == "WEBP" else {}
        content = content_of(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        picture = decode(content, RECIPE)
        assert (picture.status, picture.reason) == ("ok", SEVERAL_FRAMES)
        first = Image.open(io.BytesIO(content))
        expected = first.resize((64, 64), Image.Resampling.BICUBIC).convert("RGB")
        np.testing.assert_array_equal(picture.pixels, np.asarray(expected))

    @pytest.mark.parametrize("kind", FORMATS)
    def test_one_frame_has_no_remark(self, kind):
        assert decode(content_of(photograph(0, 40, 30), kind), RECIPE).reason == ""


class TestViews:
    @pytest.fixture
    def folder(self, tmp_path):
        for view in range(36):
            photograph(view, 64, 48).save(tmp_path / f"scan_view_{view}.jpg")
        (tmp_path / "notes.txt").write_text("no view")
        return tmp_path

    def test_they_come_in_view_order_and_not_in_that_of_names(self, folder):
        picture = load(folder, VIEWS)
        assert (picture.status, picture.reason) == ("ok", "")
        assert (picture.width, picture.height) == (64, 48)
        assert picture.pixels is not None
        assert picture.pixels.shape == (36, 32, 32, 3)
        single = msgspec.structs.replace(VIEWS, views=None)
        contents = [(folder / f"scan_view_{view}.jpg").read_bytes() for view in range(36)]
        for view in (0, 2, 10, 35):
            np.testing.assert_array_equal(
                picture.pixels[view], decode(contents[view], single).pixels
            )
        assert picture.sha256 == hashlib.sha256(b"".join(contents)).hexdigest()

    def test_a_bad_view_refuses_the_record_and_is_named(self, folder):
        (folder / "scan_view_17.jpg").write_bytes(b"no image")
        picture = load(folder, VIEWS)
        assert (picture.status, picture.pixels) == ("undecodable", None)
        assert picture.reason == "view 17: not an image but text, which begins with 'no image'"
        assert len(picture.sha256) == 64

    @pytest.mark.parametrize(
        ("old", "new", "why"),
        [
            ("scan_view_5.jpg", "aside.txt", "35 views; a viewpoint has 36"),
            ("scan_view_5.jpg", "scan_view_05.png", None),
            ("scan_view_5.jpg", "scan_view_006.jpg", "are the same view"),
            ("scan_view_5.jpg", "scan_view_36.jpg", "views 0 to 36; expected 0 to 35"),
            ("scan_view_5.jpg", "scan.jpg", "'scan.jpg' has no number of a view, 0 to 35"),
        ],
    )
    def test_names(self, folder, old, new, why):
        (folder / old).rename(folder / new)
        picture = load(folder, VIEWS)
        if why is None:
            assert picture.status == "ok"
        else:
            assert (picture.status, why in picture.reason) == ("unsupported", True)

    def test_views_that_come_to_other_sizes(self, folder):
        photograph(5, 48, 64).save(folder / "scan_view_7.jpg")
        assert load(folder, VIEWS).status == "ok"  # cropped to one size
        aspect = make_recipe("aspect:32,64", SMALL, (16, 16), vector="embedding")
        ragged = msgspec.structs.replace(aspect, views=36)
        picture = load(folder, ragged)
        why = "view 7 has 32x48 pixels for the backbone, view 0 has 48x32; all views must have one"
        assert (picture.status, why in picture.reason) == ("unsupported", True)

    def test_a_remark_of_a_view_is_the_records(self, folder):
        whole = (folder / "scan_view_3.jpg").read_bytes()
        (folder / "scan_view_3.jpg").write_bytes(whole[: len(whole) * 3 // 4])
        assert load(folder, VIEWS).status == "undecodable"
        picture = load(folder, VIEWS, accept_truncated=True)
        assert (picture.status, picture.reason) == ("ok", f"view 3: {CUT_OFF}")

    def test_no_such_folder(self, tmp_path):
        assert load(tmp_path / "none", VIEWS).status == "missing"
        picture = load_picture("scan/viewpoint", "https://example.org/views", VIEWS)
        assert (picture.status, "local folder" in picture.reason) == ("unsupported", True)


def test_a_decoder_that_lacks_the_package_of_a_url_says_so():
    """One worker of several may lack it."""
    picture = load_picture("a.jpg", "abfs://x", RECIPE)
    assert (picture.status, "adlfs" in picture.reason) == ("failed", True)


def test_decoders_need_no_torch():
    import subprocess
    import sys

    code = "import sys, clipfeat.extract.pixels.images as m; print({'torch', 'open_clip'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert images.MAX_PIXELS == 178_956_970
