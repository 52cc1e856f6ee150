"""HEIC is read where its plugin is installed; the reason says so where it is not."""

import io
import sys
import types

import pytest
from pictures import photograph
from PIL import Image, PngImagePlugin

from clipfeat.extract.pixels.images import decode
from clipfeat.extract.planning.recipe import Preprocess, make_recipe
from clipfeat.manifests import folder_manifest, headers

CLIP = Preprocess(224, "shortest", "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
RECIPE = make_recipe("square:64", CLIP, (32, 32))
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


class FakePlugin(PngImagePlugin.PngImageFile):
    """A plugin of Pillow under the name of pillow-heif's, for files that hold a PNG."""

    format = "HEIF"

    def _open(self):
        assert self.fp is not None
        self.fp = io.BytesIO(self.fp.read()[len(HEIC) :])
        super()._open()


@pytest.fixture
def installed(monkeypatch):
    """As if pillow-heif were installed: it has this function, and registers this name."""

    def register_heif_opener():
        Image.register_open("HEIF", FakePlugin, lambda start: start[4:12] == b"ftypheic")

    plugin = types.SimpleNamespace(register_heif_opener=register_heif_opener)
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    headers.reads_heic.cache_clear()
    yield
    headers.reads_heic.cache_clear()
    Image.OPEN.pop("HEIF", None)
    Image.ID.remove("HEIF")


@pytest.fixture
def absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    headers.reads_heic.cache_clear()
    yield
    headers.reads_heic.cache_clear()


def content() -> bytes:
    png = io.BytesIO()
    photograph(0).save(png, "PNG")
    return HEIC + png.getvalue()


@pytest.mark.usefixtures("installed")
def test_the_plugin_is_used(tmp_path):
    picture = decode(content(), RECIPE)
    assert (picture.status, picture.width, picture.height) == ("ok", 64, 48)
    (tmp_path / "a.heic").write_bytes(content())
    assert folder_manifest(tmp_path).images[0] == ("a", "a.heic", 64, 48)


@pytest.mark.usefixtures("installed")
def test_it_has_the_limit_of_formats_that_hold_several_copies():
    assert decode(content(), RECIPE, max_pixels=4 * 64 * 48).status == "ok"
    assert decode(content(), RECIPE, max_pixels=4 * 64 * 48 - 4).status == "too_large"


@pytest.mark.usefixtures("installed")
def test_a_damaged_file_is_not_said_to_lack_the_plugin():
    picture = decode(HEIC + b"\x89PNG\r\n\x1a\n" + bytes(50), RECIPE)
    assert picture.status == "undecodable"
    assert "pillow-heif" not in picture.reason


@pytest.mark.usefixtures("absent")
def test_without_the_plugin_the_reason_says_what_to_install(tmp_path):
    picture = decode(content(), RECIPE)
    assert picture.status == "undecodable"
    assert "HEIC" in picture.reason
    assert "pip install pillow-heif" in picture.reason
    (tmp_path / "a.heic").write_bytes(content())
    photograph(1).save(tmp_path / "b.jpg")
    images = folder_manifest(tmp_path).images
    assert [(image.image_id, image.width) for image in images] == [("a", 0), ("b", 64)]
