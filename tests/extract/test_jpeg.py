"""JPEG files that simplejpeg decodes have Pillow's pixels; Pillow decodes all others."""

import io

import numpy as np
import pytest
import simplejpeg
from pictures import photograph
from PIL import Image

from clipfeat.extract.pixels import jpeg
from clipfeat.extract.pixels.images import Room, decode
from clipfeat.extract.pixels.jpeg import decode_jpeg
from clipfeat.extract.planning.recipe import Preprocess, make_recipe

RECIPE = make_recipe(
    "square:64", Preprocess(224, "shortest", "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), (32, 32)
)
SIZES = [(64, 48), (161, 119), (17, 33), (2, 7), (333, 500)]
ORIENTED = Image.Exif()
ORIENTED[0x0112] = 6
KINDS = {
    **{name: {"subsampling": name} for name in ("4:4:4", "4:2:2", "4:2:0", "4:1:1")},
    "progressive": {"progressive": True},
    "progressive 4:2:2": {"progressive": True, "subsampling": "4:2:2"},
    "coarse": {"quality": 5},
    "fine": {"quality": 100},
    "restarts": {"restart_marker_rows": 1},
    "restarts in a row": {"restart_marker_blocks": 3},
    "exif": {"exif": ORIENTED},
    "profile": {"icc_profile": b"x" * 70_000},
    "RGB components": {"keep_rgb": True},
    "gray": {"mode": "L"},
    "CMYK": {"mode": "CMYK"},
}


def noisy(size):
    pixels = np.asarray(photograph(1, *size)).astype(int)
    noise = np.random.default_rng(2).normal(0, 20, pixels.shape)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


def jpeg_file(size=(161, 119), mode="RGB", **options):
    content = io.BytesIO()
    noisy(size).convert(mode).save(content, "JPEG", **{"quality": 85, **options})
    return content.getvalue()


def by_pillow(content):
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def check_decode(content):
    """Check that a picture in a room is the file's, with the remarks of a decoder that resizes."""
    room = Room(np.full(3 * 512 * 512, 77, np.uint8), (64, 64))
    ours, expected = decode(content, RECIPE, room=room), decode(content, RECIPE)
    assert (ours.status, ours.reason) == (expected.status, expected.reason)
    assert (ours.width, ours.height) == (expected.width, expected.height)
    if ours.is_as_decoded:
        np.testing.assert_array_equal(ours.pixels, by_pillow(content))
        assert np.shares_memory(ours.pixels, room.memory)
    return ours


@pytest.mark.parametrize("kind", KINDS)
def test_its_pixels_are_pillows(kind):
    for size in SIZES:
        content = jpeg_file(size, **KINDS[kind])
        assert check_decode(content).is_as_decoded == (kind != "CMYK")
        if kind != "CMYK":
            pixels = np.empty((size[1], size[0], 3), np.uint8)
            assert decode_jpeg(content, pixels)
            np.testing.assert_array_equal(pixels, by_pillow(content))


def test_a_sampling_that_pillow_does_not_write():
    for width, height in SIZES:
        pixels = np.array(noisy((width, height)))
        content = simplejpeg.encode_jpeg(pixels, colorsubsampling="440")
        assert decode_jpeg(content, pixels)
        np.testing.assert_array_equal(pixels, by_pillow(content))


@pytest.mark.parametrize("kind", ["4:2:0", "progressive", "restarts", "gray"])
def test_damaged_files_are_for_pillow(kind):
    content = jpeg_file(**KINDS[kind])
    pixels = np.empty((119, 161, 3), np.uint8)
    for end in range(0, len(content) - 2, len(content) // 20):
        assert not decode_jpeg(content[:end], pixels)
        check_decode(content[:end])
        check_decode(content[:end] + content[-2:])
    for place in range(700, len(content), len(content) // 20):
        flipped = bytearray(content)
        flipped[place] ^= 0x55
        check_decode(bytes(flipped))
    check_decode(content + b"\0\0")


def test_fewer_rows_than_its_header_says():
    short = bytearray(jpeg_file((64, 48)))
    frame = short.index(b"\xff\xc0\0\x11\x08")
    short[frame + 5 : frame + 7] = (96).to_bytes(2, "big")
    assert "ends before the last pixel" in check_decode(bytes(short)).reason


def test_gray_at_the_last_pixel_is_not_taken_for_the_end():
    content = io.BytesIO()
    Image.new("RGB", (40, 30), (128, 128, 128)).save(content, "JPEG")
    assert check_decode(content.getvalue()).reason == ""


def test_another_size_is_for_pillow():
    assert not decode_jpeg(jpeg_file((64, 48)), np.empty((64, 48, 3), np.uint8))


def test_a_decoder_with_other_pixels_is_not_used(monkeypatch):
    decode_one = simplejpeg.decode_jpeg

    def coarse(content, colorspace, **options):
        return decode_one(content, colorspace, fastupsample=True, fastdct=True, **options)

    jpeg.jpeg_decoder.cache_clear()
    monkeypatch.setattr(simplejpeg, "decode_jpeg", coarse)
    assert jpeg.jpeg_decoder() is None
    assert check_decode(jpeg_file()).is_as_decoded
    jpeg.jpeg_decoder.cache_clear()
