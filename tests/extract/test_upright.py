"""The step `upright`: images turned as their EXIF orientation says, from the plan to the record."""

import io
import json

import fsspec
import numpy as np
import pytest
from pictures import photograph
from PIL import Image, ImageOps
from refused import refuses

from clipfeat.base.errors import ExtractUsageError, ManifestError
from clipfeat.cli.extract import load_images
from clipfeat.extract import ExtractConfig, extract_images
from clipfeat.extract.pixels.images import Room, decode, resized
from clipfeat.extract.pixels.inspection import MADE_UPRIGHT, NOT_TURNED, TURNED
from clipfeat.extract.planning.recipe import Preprocess, Recipe, check_recipe, make_recipe
from clipfeat.featstore import StoreError
from clipfeat.featstore.audit.verify import verify
from clipfeat.featstore.geometry import BICUBIC, RGB, Stretch, Upright
from clipfeat.manifests import SourceOptions, folder_manifest, make_manifest, read_manifest
from clipfeat.manifests import write_manifest as write
from clipfeat.manifests.headers import read_sizes

CLIP = Preprocess(224, "shortest", "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
RECIPE = make_recipe("aspect:64,128", CLIP, (32, 32), upright=True)
ORIENTATIONS = range(1, 9)
WIDE = (90, 40)


def content_of(image, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = io.BytesIO()
    image.save(content, kind, exif=exif)
    return content.getvalue()


def upright(content):
    """Return the image that Pillow's own function turns upright."""
    with Image.open(io.BytesIO(content)) as image:
        return ImageOps.exif_transpose(image)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_pixels_and_sizes_are_those_of_pillows_exif_transpose(tmp_path, kind, orientation):
    content = content_of(photograph(1, *WIDE), kind, orientation)
    expected = upright(content)
    picture = decode(content, RECIPE)
    assert (picture.width, picture.height) == expected.size
    np.testing.assert_array_equal(picture.pixels, resized(expected, RECIPE.steps))
    assert picture.pixels is not None
    assert picture.pixels.shape[:2] == ((64, 128) if expected.size == WIDE else (128, 64))
    (tmp_path / "a").write_bytes(content)
    assert read_sizes(str(tmp_path), ["a"], upright=True) == [expected.size]


@pytest.mark.parametrize("mode", ["P", "LA", "CMYK", "L"])
def test_images_are_turned_in_their_own_mode(mode):
    content = content_of(photograph(2, *WIDE).convert(mode), "TIFF" if mode == "CMYK" else "PNG", 6)
    expected = resized(upright(content), RECIPE.steps)
    np.testing.assert_array_equal(decode(content, RECIPE).pixels, expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_images_that_a_device_will_resize_are_turned_too(kind, orientation):
    content = content_of(photograph(3, *WIDE), kind, orientation)
    expected = upright(content)
    planned = RECIPE.size(*expected.size)
    picture = decode(content, RECIPE, room=Room(np.zeros(1 << 20, np.uint8), planned))
    assert picture.is_as_decoded
    np.testing.assert_array_equal(picture.pixels, np.asarray(expected))


def test_the_remark_says_which(tmp_path):
    content = content_of(photograph(1), "JPEG", 6)
    assert decode(content, RECIPE).reason == MADE_UPRIGHT
    assert decode(content, make_recipe("aspect:64,128", CLIP, (32, 32))).reason == TURNED
    assert decode(content_of(photograph(1), "JPEG", 1), RECIPE).reason == ""


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(value):
    picture = decode(content_of(photograph(1, *WIDE), "PNG", value), RECIPE)
    assert (picture.width, picture.height) == WIDE
    assert picture.reason == NOT_TURNED


# What turns an upright image into the stored one: the inverse of Exif's table for tag 274.
STORED = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels, -1),
}


@pytest.fixture
def folder(tmp_path):
    """Eight pictures, each as it is (p1) and as a file that must be turned to show the same (o1)."""
    (tmp_path / "images").mkdir()
    for orientation in ORIENTATIONS:
        pixels = np.asarray(photograph(orientation, *WIDE))
        stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](pixels)))
        for name, image, tag in (("o", stored, orientation), ("p", Image.fromarray(pixels), 1)):
            path = tmp_path / f"images/{name}{orientation}.png"
            path.write_bytes(content_of(image, "PNG", tag))
    return tmp_path / "images"


CONFIG = {"model": "RN50", "pretrained": "none", "device": "cpu", "decoders": 1, "batch_size": 4}
PADDED = """
name = "own"
steps = [{ step = "upright" },
         { step = "shortest-maskrcnn", side = 64, longest = 128, interpolation = "bilinear" },
         { step = "pad", height = 64, width = 128, turn = true, odd = "first" }]
"""


@pytest.mark.usefixtures("one_backbone")
class TestExtraction:
    def test_a_turned_file_has_the_record_of_the_picture_that_it_shows(self, folder, tmp_path):
        manifest = folder_manifest(folder, upright=True)
        assert {image[2:] for image in manifest.images} == {WIDE}
        config = ExtractConfig(recipe="aspect:64,128", upright=True, **CONFIG)
        report = extract_images(manifest, tmp_path / "s", config)
        assert not report.refused
        store = report.store
        assert store is not None
        for orientation in ORIENTATIONS:
            assert store[f"o{orientation}"].shape == (2, 4, 2048)
            np.testing.assert_array_equal(store[f"o{orientation}"], store[f"p{orientation}"])
        assert Recipe.from_json(store.identity.recipe).steps == RECIPE.steps
        assert {(row.width, row.height) for row in store.index} == {WIDE}
        assert verify(store.path) == []

    def test_without_it_nothing_is_turned(self, folder, tmp_path):
        config = ExtractConfig(recipe="aspect:64,128", **CONFIG)
        store = extract_images(folder_manifest(folder), tmp_path / "s", config).store
        assert store is not None
        shapes = [store[f"o{orientation}"].shape[:2] for orientation in ORIENTATIONS]
        assert shapes == [(2, 4)] * 4 + [(4, 2)] * 4

    def test_a_recipe_file_and_its_masks(self, folder, tmp_path):
        (tmp_path / "own.toml").write_text(PADDED)
        manifest = load_images(folder, upright=check_recipe(str(tmp_path / "own.toml")).is_upright)
        config = ExtractConfig(recipe=str(tmp_path / "own.toml"), **CONFIG)
        store = extract_images(manifest, tmp_path / "s", config).store
        assert store is not None
        masks = [store.mask(f"o{orientation}") for orientation in ORIENTATIONS]
        assert {mask.shape for mask in masks} == {(2, 4)}
        assert all((mask == masks[0]).all() for mask in masks)

    def test_a_manifest_of_the_other_sizes_is_refused_before_any_work(self, folder, tmp_path):
        for is_upright, remedy in ((True, "add --upright"), (False, "leave out --upright")):
            manifest = folder_manifest(folder, upright=not is_upright)
            config = ExtractConfig(upright=is_upright, **CONFIG)
            with refuses("E-RECIPE-UPRIGHT", remedy, kind=ExtractUsageError):
                extract_images(manifest, tmp_path / "s", config)
        assert not (tmp_path / "s").exists()


def test_a_manifest_says_that_its_sizes_are_those_of_turned_images(folder, tmp_path):
    for is_upright in (False, True):
        manifest = make_manifest([folder], options=SourceOptions(upright=is_upright))
        write(manifest, tmp_path / "m.parquet")
        assert read_manifest(tmp_path / "m.parquet") == manifest
        assert manifest.upright == is_upright
    with refuses("E-MANIFEST-OPTION", "--views and --upright", kind=ManifestError):
        make_manifest([folder], options=SourceOptions(views=True, upright=True))


def test_a_list_of_files_behind_a_url_does_not_say_what_is_turned(tmp_path):
    content = content_of(photograph(6, *WIDE), "PNG", 6)
    fsspec.filesystem("memory").pipe("/turned/a.png", content)
    row = {"image_id": "a", "path": "a.png", "width": WIDE[0], "height": WIDE[1]}
    (tmp_path / "list.jsonl").write_text(json.dumps(row))
    for is_upright, size in ((False, WIDE), (True, WIDE[::-1])):
        options = SourceOptions(upright=is_upright)
        manifest = make_manifest([tmp_path / "list.jsonl"], "memory://turned", options)
        assert [image[2:] for image in manifest.images] == [size]


class TestRecipe:
    def test_it_is_the_first_step_of_any_recipe_and_part_of_the_identity(self, tmp_path):
        (tmp_path / "own.toml").write_text(PADDED.replace('{ step = "upright" },', ""))
        for name in ("vqa600", "caption448", "pretrain384", "model", str(tmp_path / "own.toml")):
            plain, turned = (check_recipe(name, upright=flag) for flag in (False, True))
            assert turned.steps == (Upright(), *plain.steps)
            assert turned.to_json()["steps"][0] == {"step": "upright"}
            assert Recipe.from_json(turned.to_json()).is_upright
            assert not plain.is_upright

    def test_once_is_enough(self, tmp_path):
        (tmp_path / "own.toml").write_text(PADDED)
        path = str(tmp_path / "own.toml")
        assert check_recipe(path, upright=True) == check_recipe(path)

    def test_only_the_first_step_can_be_it(self):
        stretch = Stretch(64, 64, **BICUBIC)
        for steps in ((stretch, Upright(), RGB()), (Upright(), Upright(), stretch, RGB())):
            with refuses("E-RECIPE-STEPS", "upright must be the first", kind=StoreError):
                Recipe("r", steps, CLIP.mean, CLIP.std)
        with refuses("E-RECIPE-STEPS", "the last one", kind=StoreError):
            Recipe("r", (Upright(), RGB()), CLIP.mean, CLIP.std)

    def test_views_have_none(self):
        with refuses("E-RECIPE-VIEWS", "drop --upright", kind=ExtractUsageError):
            check_recipe("views", upright=True)
