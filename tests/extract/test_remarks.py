"""An unusual image has a remark, and its pixels are those that stock CLIP sees."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from pictures import photograph
from PIL import Image, PngImagePlugin

from clipfeat.extract.pixels.images import decode
from clipfeat.extract.pixels.inspection import (
    CMYK,
    DEEP,
    ENDED,
    SEVERAL_FRAMES,
    SIDE_CHUNK,
    TRANSPARENT,
    TURNED,
)
from clipfeat.extract.planning.recipe import Preprocess, make_recipe

CLIP = Preprocess(224, "shortest", "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
RECIPE = make_recipe("square:64", CLIP, (32, 32))
JPEGS = [
    {}, {"progressive": True}, {"subsampling": 0}, {"optimize": True},
    {"restart_marker_blocks": 1}, {"restart_marker_rows": 1},
]  # fmt: skip


def content_of(image, kind="PNG", **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def remark(content, **options):
    """Return the remark on a file, having checked its pixels against stock CLIP's own steps."""
    picture = decode(content, RECIPE, **options)
    assert (picture.status, picture.pixels is None) == ("ok", False), picture.reason
    stock = Image.open(io.BytesIO(content)).resize((64, 64), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(picture.pixels, np.asarray(stock.convert("RGB")))
    return picture.reason


def photo(mode="RGB"):
    return photograph(0, 64, 48).convert(mode)


class TestPixels:
    def test_more_than_8_bits(self):
        gray = np.asarray(photo("L"))
        assert remark(content_of(Image.fromarray(gray.astype(np.uint16) * 257))) == DEEP
        assert remark(content_of(Image.fromarray(gray.astype(np.int32) * 257), "TIFF")) == DEEP
        assert remark(content_of(Image.fromarray(gray.astype(np.float32) / 255), "TIFF")) == DEEP

    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_an_alpha_channel(self, mode):
        image = photo()
        image.putalpha(photograph(1, 64, 48).convert("L"))
        assert remark(content_of(image.convert(mode))) == TRANSPARENT
        assert remark(content_of(photo(mode))) == ""  # all of it is opaque

    @pytest.mark.parametrize("mode", ["P", "L", "1", "RGB"])
    def test_a_transparent_colour(self, mode):
        image = photo(mode)
        assert remark(content_of(image, transparency=image.getpixel((5, 5)))) == TRANSPARENT
        assert remark(content_of(image)) == ""

    def test_a_colour_that_is_called_a_is_not_an_alpha_channel(self):
        assert remark(content_of(photo("LAB"), "TIFF")) == ""

    def test_cmyk(self):
        assert remark(content_of(photo("CMYK"), "JPEG")) == CMYK

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    def test_a_turned_image(self, kind):
        exif = Image.Exif()
        exif[0x0112] = 6  # "rotate by 90 degrees to view"
        assert remark(content_of(photo(), kind, exif=exif)) == TURNED
        exif[0x0112] = 1  # "as it is"
        assert remark(content_of(photo(), kind, exif=exif)) == ""

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # of Pillow as the test calls it
    def test_broken_exif_data_is_ignored(self):
        assert remark(content_of(photo(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")) == ""

    def test_several_remarks_are_separated_by_semicolons(self):
        exif = Image.Exif()
        exif[0x0112] = 3
        frames = [photograph(seed, 64, 48).convert("RGBA") for seed in range(2)]
        frames[0].putalpha(7)
        content = content_of(
            frames[0], "WEBP", save_all=True, append_images=frames[1:], exif=exif, lossless=True
        )
        assert remark(content).split("; ") == [SEVERAL_FRAMES, TURNED, TRANSPARENT]


class TestEndsEarly:
    @pytest.mark.parametrize("options", JPEGS)
    @pytest.mark.parametrize("mode", ["RGB", "L"])
    def test_a_jpeg_that_claims_more_rows_than_it_has(self, mode, options):
        content = bytearray(content_of(photo(mode), "JPEG", **options))
        frame = re.search(b"\xff[\xc0\xc2]\0[\x0b\x11]\x08", content)
        assert frame is not None
        content[frame.end() : frame.end() + 2] = struct.pack(">H", 96)  # rows
        assert remark(bytes(content)) == ENDED

    @pytest.mark.parametrize("options", JPEGS)
    @pytest.mark.parametrize("mode", ["RGB", "L"])
    def test_a_gray_corner_has_no_remark(self, mode, options):
        """Of gray as libjpeg fills it: of bars below a picture, or of nothing else."""
        image = photo(mode)
        image.paste(Image.new(mode, (64, 16), "#808080"), (0, 32))
        assert remark(content_of(image, "JPEG", **options)) == ""
        assert remark(content_of(Image.new(mode, (64, 48), "#808080"), "JPEG", **options)) == ""

    def test_a_jpeg_that_claims_to_be_huge(self):
        content = bytearray(content_of(photo(), "JPEG", progressive=True))
        frame = re.search(b"\xff\xc2\0\x11\x08", content)
        assert frame is not None
        content[frame.end() : frame.end() + 4] = struct.pack(">HH", 13_000, 13_000)
        assert decode(bytes(content), RECIPE).status == "too_large"

    def test_a_png_of_which_rows_are_missing(self):
        def png(rows):
            header = struct.pack(">IIBBBBB", 64, 48, 8, 2, 0, 0, 0)
            row = b"\0" + bytes(range(1, 193))
            pieces = [(b"IHDR", header), (b"IDAT", zlib.compress(row * rows)), (b"IEND", b"")]
            return b"\x89PNG\r\n\x1a\n" + b"".join(
                struct.pack(">I", len(data))
                + name
                + data
                + struct.pack(">I", zlib.crc32(name + data))
                for name, data in pieces
            )

        assert remark(png(48)) == ""
        assert remark(png(30)) == ENDED

    def test_a_jpeg_2000_of_which_tiles_are_missing(self):
        content = bytearray(content_of(photograph(0, 64, 48), "JPEG2000"))
        for at in (content.index(b"ihdr") + 4, content.index(b"\xff\x51") + 10):  # heights
            content[at : at + 4] = struct.pack(">I", 96)
        assert remark(bytes(content)) == ENDED

    def test_a_tiff_of_which_strips_are_missing(self):
        """Its header has the rows (tag 257) of which the strips are listed, a long number each."""
        content = bytearray(content_of(photo(), "TIFF", tiffinfo={257: 48}))
        rows = content.index(struct.pack("<HHII", 257, 4, 1, 48))
        content[rows + 8 : rows + 12] = struct.pack("<I", 96)
        assert remark(bytes(content)) == ENDED

    @pytest.mark.parametrize("orientation", [1, 6])
    @pytest.mark.parametrize("strip", [{}, {278: 5}])
    def test_a_whole_tiff_has_no_remark(self, strip, orientation):
        """Nor is one that Pillow turns."""
        content = content_of(photo(), "TIFF", tiffinfo={274: orientation, **strip})
        assert remark(content) == ""

    @pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
    def test_a_black_image_has_no_remark(self, mode):
        black = Image.new(mode, (64, 48), None if mode != "RGBA" else (0, 0, 0, 255))
        assert ENDED not in remark(content_of(black))


class TestSideChunks:
    """Damage outside the pixels of a PNG costs nothing."""

    def broken(self, image, **options):
        info = PngImagePlugin.PngInfo()
        info.add_text("Comment", "what the camera said of itself")
        content = bytearray(content_of(image, pnginfo=info, **options))
        content[content.index(b"camera")] ^= 1  # no longer what its checksum says
        return bytes(content)

    @pytest.mark.parametrize("accept", [False, True])
    @pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "I;16"])
    def test_a_damaged_text(self, mode, accept):
        image = photo("L").convert(mode) if mode == "I;16" else photo(mode)
        whole = decode(content_of(image), RECIPE)
        picture = decode(self.broken(image), RECIPE, accept_truncated=accept)
        expected = "; ".join(filter(None, (SIDE_CHUNK, whole.reason)))
        assert (picture.status, picture.reason) == ("ok", expected)
        np.testing.assert_array_equal(picture.pixels, whole.pixels)

    def test_a_text_longer_than_pillow_reads(self):
        info = PngImagePlugin.PngInfo()
        info.add_text("Comment", "a" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
        content = content_of(photo(), pnginfo=info)
        picture = decode(content, RECIPE)
        assert (picture.status, picture.reason) == ("ok", SIDE_CHUNK)
        np.testing.assert_array_equal(picture.pixels, decode(content_of(photo()), RECIPE).pixels)

    def test_the_transparent_colour_stays(self):
        image = photo("P")
        content = self.broken(image, transparency=image.getpixel((5, 5)))
        assert decode(content, RECIPE).reason == f"{SIDE_CHUNK}; {TRANSPARENT}"

    def test_damaged_pixels_stay_an_error(self):
        content = bytearray(self.broken(photo()))
        content[content.index(b"IDAT") + 40] ^= 1
        assert decode(bytes(content), RECIPE).status == "undecodable"
