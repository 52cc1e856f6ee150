"""A bad image is a value with a reason."""

import hashlib

import pytest
from pictures import photograph, write_bad_files
from torchvision.transforms import v2

from clipfeat.extract.images import load_picture, shortest_side
from clipfeat.extract.recipe import Preprocess, make_recipe

RECIPE = make_recipe(
    "square:64", Preprocess(224, "shortest", "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
)


def test_a_good_image(tmp_path):
    photograph(0, 70, 50).save(tmp_path / "a.jpg")
    picture = load_picture(tmp_path / "a.jpg", RECIPE)
    assert (picture.status, picture.reason, picture.width, picture.height) == ("ok", "", 70, 50)
    assert picture.pixels is not None
    assert picture.pixels.shape == (64, 64, 3)
    assert picture.sha256 == hashlib.sha256((tmp_path / "a.jpg").read_bytes()).hexdigest()


def test_each_kind_of_bad_file_has_its_status_and_a_reason(tmp_path):
    expected = write_bad_files(tmp_path)
    pictures = {p.stem: load_picture(p, RECIPE) for p in tmp_path.iterdir()}
    assert {i: p.status.value for i, p in pictures.items()} == expected
    assert all(p.reason and p.pixels is None for p in pictures.values())
    assert pictures["huge"].reason == "20000x20000 is more than 178,956,970 pixels"
    assert (pictures["broken"].width, pictures["broken"].height) == (160, 120)


def test_a_missing_file_and_a_folder(tmp_path):
    assert load_picture(tmp_path / "none.jpg", RECIPE).status == "missing"
    (tmp_path / "folder.jpg").mkdir()
    picture = load_picture(tmp_path / "folder.jpg", RECIPE)
    assert (picture.status, picture.reason) == ("failed", "cannot read the file: Is a directory")


@pytest.mark.parametrize("cut", [30, 200, 400, 600])
def test_a_png_cut_anywhere_never_raises(tmp_path, cut):
    photograph(0).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:cut])
    assert load_picture(tmp_path / "a.png", RECIPE).status == "undecodable"


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (500, 500), (333, 1000), (99, 17)])
def test_shortest_side_is_torchvisions_rule(size):
    assert shortest_side(size, 224) == v2.Resize(224)(photograph(0, *size)).size
