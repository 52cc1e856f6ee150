"""For a file that is not an image, the reason says what it is."""

import io

import numpy as np
import pytest
from pictures import photograph
from PIL import Image

from clipfeat.extract.pixels.images import decode
from clipfeat.extract.planning.recipe import Preprocess, make_recipe

CLIP = Preprocess(224, "shortest", "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
RECIPE = make_recipe("square:64", CLIP, (32, 32))
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
FILES = [
    (POINTER, "git lfs pull"),
    (b"\r\n<!DOCTYPE html><html><body>404 Not Found</body></html>", "web page (HTML)"),
    (b"\xef\xbb\xbf<HTML><head>", "web page (HTML)"),
    (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
    (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    (b'{"error": "rate limit exceeded"}', "JSON"),
    (b"%PDF-1.7\n", "PDF"),
    (b"8BPS\0\1" + bytes(20), "Photoshop"),
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "HEIC"),
    (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(40), "HEIC"),
    (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif" + bytes(40), "AVIF: "),
    (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(40), "MP4"),
    (b"\xff\x0a" + bytes(range(40)), "JPEG XL"),
    (b"PK\3\4" + bytes(range(40)), "ZIP"),
    (b"\x1f\x8b\x08" + bytes(range(40)), "gzip"),
    (bytes(3000), "nothing but zero bytes"),
    (b"Too Many Requests\n", "text, which begins with 'Too Many Requests'"),
    ("Доступ запрещён".encode(), "text, which begins with 'Доступ запрещён'"),
    (b"\x93NUMPY\1\0", "begins with the bytes 93 4e 55 4d 50 59 01 00"),
    (b"\x1b[31mred", "begins with the bytes 1b 5b 33 31 6d 72 65 64"),
    (b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x20", "PNG: "),
    (b"GIF89a\1", "GIF: "),
    (b"BM" + bytes(range(200, 250)), "BMP: "),
]


def content_of(image, kind, **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


@pytest.mark.parametrize(("content", "reason"), FILES)
def test_each_kind_is_named(content, reason):
    picture = decode(content, RECIPE)
    assert (picture.status, picture.width) == ("undecodable", 0)
    assert reason in picture.reason
    assert picture.reason.isprintable()


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("left", [0.1, 0.5, 0.9])
def test_a_webp_that_is_cut_off(lossless, left):
    whole = content_of(photograph(0, 160, 120), "WEBP", lossless=lossless)
    picture = decode(whole[: int(left * len(whole))], RECIPE)
    assert (picture.status, picture.reason) == ("undecodable", "WEBP: the file is cut off")


def test_avif_is_read_by_its_content():
    content = content_of(photograph(0, 160, 120), "AVIF")
    picture = decode(content, RECIPE)
    stock = Image.open(io.BytesIO(content)).resize((64, 64), Image.Resampling.BICUBIC)
    assert (picture.status, picture.reason) == ("ok", "")
    np.testing.assert_array_equal(picture.pixels, np.asarray(stock))
    cut = decode(content[: len(content) // 2], RECIPE)
    assert (cut.status, cut.reason.startswith("AVIF: ")) == ("undecodable", True)
