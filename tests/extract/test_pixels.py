"""The pixels of every recipe, against plain statements of it in torchvision, PIL and by hand."""

import io
import math
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from pictures import photograph
from PIL import Image
from timm.data.transforms_factory import create_transform
from torchvision.transforms import InterpolationMode, v2

from clipfeat.extract.backbones.backbone import normalised
from clipfeat.extract.pixels.images import decode
from clipfeat.extract.planning.recipe import Preprocess, make_recipe

CLIP = Preprocess(224, "shortest", "bicubic", OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
CELL = (32, 32)
MODES = ("RGB", "L", "P", "CMYK", "RGBA", "LA", "1", "I;16")
SIZES = [(300, 231), (97, 301), (224, 224), (640, 480), (2, 3), (900, 70)]


@pytest.fixture(autouse=True)
def rows_first(monkeypatch):
    """Have every resize of stock code work as in Pillow 12: test_resizing.py."""
    one_call = Image.Image.resize

    def two_calls(image, size, resample=None, *rest):
        alpha = {"LA": "La", "RGBA": "RGBa"}.get(image.mode)
        if alpha and image.size != tuple(size):
            return two_calls(image.convert(alpha), size, resample, *rest).convert(image.mode)
        rows = one_call(image, (size[0], image.height), resample, *rest)
        return one_call(rows, size, resample, *rest)

    monkeypatch.setattr(Image.Image, "resize", two_calls)


def file_of(image, **options):
    content = io.BytesIO()
    image.save(content, "TIFF" if image.mode == "CMYK" else "PNG", **options)
    return content.getvalue()


def image_in(mode, size):
    """Return a picture of one of Pillow's modes, as it comes out of its file."""
    image = photograph(1, *size)
    if mode == "I;16":
        deep = np.asarray(image.convert("L")).astype(np.uint16) * 3  # some above 255, some below
        image = Image.fromarray(deep)
    elif mode in ("RGBA", "LA"):
        image.putalpha(photograph(2, *size).convert("L"))
        image = image.convert(mode)
    else:
        image = image.convert(mode)
    opened = Image.open(io.BytesIO(file_of(image)))
    assert opened.mode == mode
    return opened


def pixels_of(content, recipe):
    picture = decode(content, recipe)
    assert picture.pixels is not None, picture.reason
    return picture.pixels


def square_448(image):
    """CLIP-ViL's captions: both sides to 448, bicubic."""
    return v2.Resize((448, 448), interpolation=InterpolationMode.BICUBIC)(image).convert("RGB")


def vqa_600(image):
    """CLIP-ViL's VQA: Detectron2's shortest edge 600, longest 1000, then 600 x 1000 by force."""
    width, height = image.size
    scale = 600 / min(width, height)
    width, height = width * scale, height * scale
    if max(width, height) > 1000:
        scale = 1000 / max(width, height)
        width, height = width * scale, height * scale
    size = (math.floor(width + 0.5), math.floor(height + 0.5))
    image = image.resize(size, Image.Resampling.BILINEAR)
    return image.resize((1000, 600), Image.Resampling.BILINEAR).convert("RGB")


def pretrain_384(image):
    """CLIP-ViL's pretraining: shortest 384, longest 640, RGB, black around it."""
    width, height = image.size
    short, long = min(width, height), max(width, height)
    side = 384 if 384 * long / short <= 640 else round(640 * short / long)
    if short != side:
        long = math.floor(side * long / short)
        size = (side, long) if width < height else (long, side)
        image = image.resize(size, Image.Resampling.BILINEAR)
    image = image.convert("RGB")
    frame = (384, 640) if image.width <= image.height else (640, 384)
    black = Image.new("RGB", frame)
    left, top = (math.ceil((f - i) / 2) for f, i in zip(frame, image.size, strict=True))
    black.paste(image, (left, top))
    return black


def aspect_100_150(image):
    """Whole cells of 32 pixels, the nearest to a shorter side of 100, the longer at most 150."""
    scale = min(100 / min(image.size), 150 / max(image.size))
    width, height = (max(1, math.floor(side * scale / 32 + 0.5)) * 32 for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC).convert("RGB")


RECIPES = {
    "caption448": square_448,
    "vqa600": vqa_600,
    "pretrain384": pretrain_384,
    "aspect:100,150": aspect_100_150,
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("size", SIZES)
def test_each_recipe_is_its_plain_statement(name, size):
    recipe = make_recipe(name, CLIP, CELL)
    image = photograph(1, *size)
    ours = pixels_of(file_of(image), recipe)
    np.testing.assert_array_equal(ours, np.asarray(RECIPES[name](image)))
    assert ours.shape[:2] == recipe.size(*size)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("mode", MODES)
def test_each_recipe_in_each_mode(name, mode):
    image = image_in(mode, (97, 130))
    ours = pixels_of(file_of(image), make_recipe(name, CLIP, CELL))
    np.testing.assert_array_equal(ours, np.asarray(RECIPES[name](image)))


NATIVE = [
    ("shortest", 224), ("squash", 224), ("longest", 224),
    ("shortest", (160, 256)), ("squash", (160, 256)), ("longest", (160, 256)),
]  # fmt: skip


@pytest.mark.parametrize(("resize", "native_size"), NATIVE)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(300, 231), (97, 301), (224, 224), (13, 9)])
def test_model_is_open_clips_own_transform(resize, native_size, interpolation, size):
    check_model(photograph(1, *size), resize, native_size, interpolation)


@pytest.mark.parametrize(("resize", "native_size"), [NATIVE[0], NATIVE[2], NATIVE[3]])
@pytest.mark.parametrize("mode", MODES)
def test_model_in_each_mode(resize, native_size, mode):
    check_model(image_in(mode, (101, 140)), resize, native_size, "bicubic")


def check_model(image, resize, native_size, interpolation):
    stock: Any = open_clip.image_transform(
        native_size, is_train=False, resize_mode=resize, interpolation=interpolation
    )
    native = Preprocess(native_size, resize, interpolation, CLIP.mean, CLIP.std)
    recipe = make_recipe("model", native, CELL)
    pixels = pixels_of(file_of(image), recipe)
    ours = normalised(torch.from_numpy(pixels[None].copy()), recipe)[0]
    torch.testing.assert_close(ours, stock(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("mode", "resize"), [("center", "shortest"), ("squash", "squash")])
@pytest.mark.parametrize("crop", [0.875, 0.95, 1.0])
@pytest.mark.parametrize("size", [(300, 231), (97, 301)])
def test_model_is_timms_own_transform(mode, resize, crop, size):
    image = photograph(1, *size)
    stock: Any = create_transform(
        224, interpolation="bicubic", mean=CLIP.mean, std=CLIP.std, crop_pct=crop, crop_mode=mode
    )
    recipe = make_recipe(
        "model", Preprocess(224, resize, "bicubic", CLIP.mean, CLIP.std, crop), CELL
    )
    pixels = pixels_of(file_of(image), recipe)
    ours = normalised(torch.from_numpy(pixels[None].copy()), recipe)[0]
    torch.testing.assert_close(ours, stock(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [*RECIPES, "model"])
def test_exif_orientation_is_ignored_as_stock_clip_ignores_it(name):
    image = photograph(3, 40, 60)
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to view"
    recipe = make_recipe(name, CLIP, CELL)
    turned = pixels_of(file_of(image, exif=exif), recipe)
    np.testing.assert_array_equal(turned, pixels_of(file_of(image), recipe))


def test_a_recipe_of_ones_own(tmp_path):
    (tmp_path / "own.toml").write_text(
        'name = "own"\n'
        'steps = [{ step = "rgb" }, { step = "shortest", side = 50, interpolation = "bilinear" },\n'
        '         { step = "crop", height = 40, width = 30 }]'
    )
    recipe = make_recipe(str(tmp_path / "own.toml"), CLIP, CELL)
    image = image_in("P", (97, 130))
    resize = v2.Resize(50, interpolation=InterpolationMode.BILINEAR)
    expected = v2.CenterCrop((40, 30))(resize(image.convert("RGB")))
    np.testing.assert_array_equal(pixels_of(file_of(image), recipe), np.asarray(expected))


def test_jpeg_draft_decoding_would_change_the_pixels():
    """Decoding at half size is faster and is not used: docs/recipes.md."""
    content = io.BytesIO()
    photograph(4, 1280, 960).save(content, "JPEG", quality=90)
    ours = pixels_of(content.getvalue(), make_recipe("square:224", CLIP, CELL))
    draft = Image.open(content)
    draft.draft("RGB", (224, 224))
    assert draft.size == (320, 240)
    halved = np.asarray(draft.resize((224, 224), Image.Resampling.BICUBIC))
    assert (ours != halved).mean() > 0.1
