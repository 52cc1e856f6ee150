"""Resizing goes along rows first and columns second, whichever Pillow is installed."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from clipfeat.extract.pixels.images import resize_problem, resized
from clipfeat.extract.planning.recipe import Recipe
from clipfeat.featstore.geometry import BICUBIC, BILINEAR, RGB, Resampling, Stretch

# What `image.resize(size).convert("RGB")`, one call, gave under Pillow 12.3.0 and under 13.0.0: the
# first 16 hex digits of the pixels' sha256. Where the two differ, 13 resized the columns first.
ONE_CALL = [
    ("RGB", (97, 301), (64, 64), "bicubic", "662175bef1903d93", "8756fa133fe9e468"),
    ("RGB", (97, 301), (64, 64), "bilinear", "396c1e9518bd8593", "bf17b4a0312fe4b5"),
    ("RGB", (40, 30), (96, 12), "bicubic", "917d6d023ae66ed8", "a4df99a8c8c28e73"),
    ("RGB", (301, 97), (64, 64), "bicubic", "624ba6a1e6d246fc", "624ba6a1e6d246fc"),
    ("RGB", (97, 301), (97, 64), "bicubic", "6409f1a21e3edac9", "6409f1a21e3edac9"),
    ("L", (97, 301), (64, 64), "bicubic", "ec4d36d303c6708b", "6a49216225583923"),
    ("CMYK", (97, 301), (64, 64), "bicubic", "ea42be46a8cecb65", "6a7fe93ac6b21d37"),
    ("RGBA", (97, 301), (64, 64), "bicubic", "84ce8ce8b4da679b", "82eda02961adc425"),
    ("RGBA", (97, 301), (64, 301), "bicubic", "14fe0c2dcd852067", "14fe0c2dcd852067"),
    ("LA", (97, 301), (64, 64), "bilinear", "aa64e4a618990a3f", "0bd50c458d820010"),
    ("I;16", (97, 301), (64, 64), "bicubic", "a21a44508ef0478c", "44ce322f350d2948"),
    ("F", (97, 301), (64, 64), "bicubic", "b30e146d2a678814", "b30e146d2a678814"),
    ("P", (97, 301), (64, 64), "bicubic", "1eeb62f9bc8c2644", "1eeb62f9bc8c2644"),
]


def pattern(mode: str, width: int, height: int) -> Image.Image:
    """Return an image of sums in whole numbers, the same on any machine and in any version."""
    rows, cols = np.mgrid[:height, :width].astype(np.int64)
    bands = [
        (rows * rows * (7 + b) + cols * cols * (3 + 5 * b) + rows * cols * 11 + b * 50) % 251
        for b in range(4)
    ]
    if mode == "I;16":
        return Image.fromarray((bands[0] * 2).astype(np.uint16))
    if mode == "F":
        return Image.fromarray(bands[0].astype(np.float32) * 1.5)
    count = {"L": 1, "P": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    pixels = np.stack(bands[:count], axis=2).astype(np.uint8)
    image = Image.frombytes(mode, (width, height), pixels.tobytes())
    if mode == "P":
        image.putpalette(bytes(k * 37 % 256 for k in range(768)))
    return image


def stretch(size: tuple[int, int], resampling: Resampling = BICUBIC) -> Recipe:
    steps = (Stretch(size[1], size[0], **resampling), RGB())
    return Recipe("own", steps, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(("mode", "size", "to", "interpolation", "pillow12", "pillow13"), ONE_CALL)
def test_rows_are_resized_first(mode, size, to, interpolation, pillow12, pillow13):
    image = pattern(mode, *size)
    ours = resized(image, stretch(to, BICUBIC if interpolation == "bicubic" else BILINEAR).steps)
    assert hashlib.sha256(ours.tobytes()).hexdigest()[:16] == pillow12
    # The hashes are of these pixels, and not of other numbers.
    whole = image.resize(to, Image.Resampling[interpolation.upper()]).convert("RGB")
    assert hashlib.sha256(np.asarray(whole).tobytes()).hexdigest()[:16] in (pillow12, pillow13)


def test_an_image_of_the_right_size_is_unchanged():
    """Alpha is not multiplied in and out again, which would round."""
    image = pattern("RGBA", 50, 40)
    ours = resized(image, stretch((50, 40)).steps)
    np.testing.assert_array_equal(ours, np.asarray(image)[..., :3])


def test_a_line_that_would_be_huge_between_the_passes_is_refused():
    # 448 columns of 80,000,000 rows each, on the way to 448 x 448
    refused = resize_problem(stretch((448, 448)), 2, 80_000_000)
    why = "2x80000000 would be 448x80000000 on the way to 448x448"
    assert refused == ("unsupported", why)
    assert resize_problem(stretch((448, 448)), 80_000_000, 2) is None  # 448 x 2 on the way
