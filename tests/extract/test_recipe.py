"""Recipes by name, and their pixels against torchvision and open_clip's own transform."""

import io
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from pictures import photograph
from PIL import Image
from torchvision.transforms import v2

from clipfeat.extract.backbone import normalised
from clipfeat.extract.errors import ExtractUsageError
from clipfeat.extract.images import decode
from clipfeat.extract.recipe import Preprocess, Recipe, check_recipe_name, make_recipe
from clipfeat.featstore import GridShape

CLIP = Preprocess(224, "shortest", "bicubic", OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
MODES = ("RGB", "L", "P", "CMYK", "RGBA", "LA", "1")


def png_or_tiff(image):
    content = io.BytesIO()
    image.save(content, "TIFF" if image.mode == "CMYK" else "PNG")
    return content.getvalue()


def test_names():
    assert make_recipe("caption448", CLIP) == make_recipe("square:448", CLIP)
    assert make_recipe("square:448", CLIP) == Recipe(
        "square:448", "stretch", 448, 448, "bicubic", CLIP.mean, CLIP.std
    )
    assert make_recipe("model", CLIP).resize == "shortest"
    assert make_recipe("caption448", CLIP).grid_shape((32, 32)) == GridShape(14, 14)
    assert make_recipe("square:100", CLIP).grid_shape((32, 32)) == GridShape(3, 3)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("caption44", "no such recipe; did you mean caption448"),
        ("square", "no such recipe"),
        ("square:", "no such recipe"),
        ("square:-1", "no such recipe"),
        ("square:0", "N must be 1 to 4096"),
        ("square:99999", "N must be 1 to 4096"),
        ("", "no such recipe"),
    ],
)
def test_names_refused(name, why):
    with pytest.raises(ExtractUsageError, match=why):
        check_recipe_name(name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(300, 231), (97, 301), (224, 224)])
def test_model_is_open_clips_own_transform(mode, size):
    image = photograph(1, *size).convert(mode)
    stock: Any = open_clip.image_transform(224, is_train=False)
    recipe = make_recipe("model", CLIP)
    picture = decode(png_or_tiff(image), recipe, "")
    assert picture.pixels is not None
    ours = normalised(torch.from_numpy(picture.pixels[None].copy()), recipe)[0]
    torch.testing.assert_close(ours, stock(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(300, 231), (97, 301)])
def test_square_is_torchvisions_resize_to_both_sides(size):
    image = photograph(2, *size)
    resize = v2.Resize((448, 448), interpolation=v2.InterpolationMode.BICUBIC)
    picture = decode(png_or_tiff(image), make_recipe("caption448", CLIP), "")
    np.testing.assert_array_equal(picture.pixels, np.asarray(resize(image)))


def test_exif_orientation_is_ignored_as_stock_clip_ignores_it():
    image = photograph(3, 40, 60)
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to view"
    content = io.BytesIO()
    image.save(content, "PNG", exif=exif)
    recipe = make_recipe("square:64", CLIP)
    turned = decode(content.getvalue(), recipe, "")
    np.testing.assert_array_equal(turned.pixels, decode(png_or_tiff(image), recipe, "").pixels)
