"""JPEG files decoded by torchvision on the device; here the device is a CPU."""

import dataclasses
import io

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pictures import photograph, write_bad_files, write_photographs
from PIL import Image
from refused import refuses

from clipfeat.base.errors import ExtractUsageError
from clipfeat.cli.main import clipfeat
from clipfeat.extract.pixels import device_decoding
from clipfeat.extract.pixels.device_decoding import decode_on_device, decode_one_on_device
from clipfeat.extract.pixels.images import decode
from clipfeat.extract.pixels.inspection import ENDED, MAX_BYTES, TURNED, is_plain
from clipfeat.extract.planning.recipe import Preprocess, Recipe, make_recipe
from clipfeat.extract.recompute import recompute
from clipfeat.featstore import FeatureStore, Status, StoreError
from clipfeat.featstore.audit.verify import verify

pytestmark = [
    pytest.mark.usefixtures("one_backbone"),
    # torchvision announces that its decoders will move to another package.
    pytest.mark.filterwarnings("ignore:The image decoding and:DeprecationWarning"),
]

CPU = torch.device("cpu")
CLIP = Preprocess(224, "shortest", "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CELL = (32, 32)
ORIENTED = Image.Exif()
ORIENTED[0x0112] = 6  # "rotate by 90 degrees to view"
PLAIN = {
    "4:2:0": {"subsampling": 2},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "coarse": {"quality": 30},
    "optimised": {"optimize": True},
    "rotated": {"exif": ORIENTED},
    "commented": {"comment": b"\xff\xd9 is no end here \xff\xda"},
    "gray": {"mode": "L"},
    "gray, progressive": {"mode": "L", "progressive": True},
}
SIZES = [(300, 231), (97, 301), (224, 224), (640, 480), (161, 119), (1280, 960), (900, 70)]
# Most and mean levels of 255 off Pillow's, of any image here. The decoded images are the same,
# the resizes round differently.
BOUNDS = {
    "square:448": (2, 0.02),
    "aspect:100,150": (2, 0.25),
    "pretrain384": (2, 0.1),
    "vqa600": (2, 0.02),
}


def jpeg(seed=1, size=(64, 48), *, mode="RGB", **options):
    content = io.BytesIO()
    photograph(seed, *size).convert(mode).save(content, "JPEG", **{"quality": 90, **options})
    return content.getvalue()


def recipes(name):
    """Return the recipe with Pillow and with torchvision."""
    return make_recipe(name, CLIP, CELL), make_recipe(name, CLIP, CELL, decoder="torchvision")


def off(content, name):
    """Return the differences between the two decoders' pixels."""
    by_pillow, on_device = recipes(name)
    expected, handed = decode(content, by_pillow), decode(content, on_device)
    assert (handed.status, handed.pixels, handed.jpeg) == (Status.OK, None, content)
    found = decode_one_on_device(handed, on_device, CPU)
    assert found.jpeg is None
    assert (found.width, found.height) == (expected.width, expected.height)
    assert found.pixels is not None
    assert expected.pixels is not None
    assert found.pixels.shape == expected.pixels.shape
    return np.abs(found.pixels.astype(int) - expected.pixels)


class TestPixels:
    @pytest.mark.parametrize("kind", PLAIN)
    @pytest.mark.parametrize("name", BOUNDS)
    def test_they_are_pillows_but_for_the_rounding_of_a_resize(self, name, kind):
        most, mean = BOUNDS[name]
        for size in SIZES:
            differences = off(jpeg(size=size, **PLAIN[kind]), name)
            assert differences.max() <= most
            assert differences.mean() <= mean

    @pytest.mark.parametrize("kind", PLAIN)
    def test_without_a_resize_they_are_the_same(self, kind):
        """So crop and pad, with odd margins and beyond the image, equal Pillow's to the pixel."""
        for name, size in (
            ("pretrain384", (384, 501)),
            ("pretrain384", (641, 200)),  # a pixel too wide
            ("model", (225, 224)),
            ("model", (224, 231)),
        ):
            recipe = make_recipe(name, CLIP, CELL)
            assert recipe.sizes(*size)[0] == size
            assert not off(jpeg(size=size, **PLAIN[kind]), name).any()

    def test_damage_that_markers_do_not_show_gives_pillows_pixels(self):
        """Both fill the rest with gray; the remark is clipfeat's."""
        content = jpeg(size=(161, 119))
        holed = content[: len(content) * 2 // 3] + content[-2:]
        assert is_plain(holed)
        assert off(holed, "square:448").max() <= 2


def test_odd_files_get_the_remarks_that_they_get_with_pillow():
    recipe = make_recipe("square:64", CLIP, CELL, decoder="torchvision")
    short = bytearray(jpeg())
    frame = short.index(b"\xff\xc0\0\x11\x08")
    short[frame + 5 : frame + 7] = (96).to_bytes(2, "big")  # rows, of which it has 48
    for content, remark in ((jpeg(exif=ORIENTED), TURNED), (bytes(short), ENDED), (jpeg(), "")):
        picture = decode(content, recipe)
        assert picture.jpeg is not None
        picture = decode_one_on_device(picture, recipe, CPU)
        assert (picture.status, picture.reason) == ("ok", remark)
        assert decode(content, msgspec.structs.replace(recipe, decoder="pillow")).reason == remark


class TestWhichFilesAreHandedThrough:
    @pytest.mark.parametrize("kind", PLAIN)
    def test_plain_ones(self, kind):
        assert is_plain(jpeg(**PLAIN[kind]))

    @pytest.mark.parametrize(
        ("content", "options"),
        [
            ("CMYK", {"mode": "CMYK"}),
            ("RGB components", {"keep_rgb": True}),
            ("restart intervals", {"restart_marker_rows": 1}),
        ],
    )
    def test_others_are_for_pillow(self, content, options):
        self.check_pillow(jpeg(**options))

    def test_other_formats_are_for_pillow(self):
        for kind in ("PNG", "WEBP", "JPEG2000"):
            content = io.BytesIO()
            photograph(1).save(content, kind)
            self.check_pillow(content.getvalue())

    def test_bytes_after_the_end_are_for_pillow(self):
        self.check_pillow(jpeg() + b"\0")

    def test_a_lost_restart_is_for_pillow(self):
        content = jpeg(size=(161, 119), restart_marker_rows=1)
        first, second = content.index(b"\xff\xd2"), content.index(b"\xff\xd3")
        self.check_pillow(content[:first] + content[second:])

    def test_a_file_of_too_many_bytes_is_for_pillow(self):
        content = jpeg()
        comment = b"\xff\xfe\xff\xff" + bytes(0xFFFD)
        self.check_pillow(content[:2] + comment * (MAX_BYTES // len(comment) + 1) + content[2:])

    def test_a_resize_beyond_a_gpus_memory_is_for_pillow(self):
        on_device = recipes("square:64")[1]
        assert decode(jpeg(size=(2048, 8)), on_device).jpeg is not None
        self.check_pillow(jpeg(size=(2049, 8)))

    def check_pillow(self, content):
        by_pillow, on_device = recipes("square:64")
        expected, found = decode(content, by_pillow), decode(content, on_device)
        assert found.jpeg is None
        assert found.pixels is not None
        np.testing.assert_array_equal(found.pixels, expected.pixels)

    @pytest.mark.parametrize("kind", ["4:2:0", "progressive"])
    def test_a_file_cut_anywhere_is_not_plain(self, kind):
        content = jpeg(**PLAIN[kind])
        assert not any(is_plain(content[:end]) for end in range(len(content)))

    def test_a_file_that_is_cut_off_is_treated_as_with_pillow(self):
        by_pillow, on_device = recipes("square:64")
        content = jpeg(size=(160, 120))
        content = content[: len(content) // 2]
        assert decode(content, on_device) == decode(content, by_pillow)
        assert decode(content, on_device).status == "undecodable"
        expected = decode(content, by_pillow, accept_truncated=True)
        found = decode(content, on_device, accept_truncated=True)
        assert (found.reason, found.jpeg) == (expected.reason, None)
        np.testing.assert_array_equal(found.pixels, expected.pixels)

    def test_header_and_limits_are_checked_before(self):
        on_device = recipes("square:64")[1]
        assert decode(jpeg(size=(64, 48)), on_device, max_pixels=3071).status == "too_large"
        assert decode(jpeg(size=(1, 48)), on_device).status == "unsupported"


def without_its_table(content):
    """Return a JPEG whose luma refers to a quantisation table that is missing."""
    frame = content.index(b"\xff\xc0")
    broken = bytearray(content)
    broken[frame + 12] = 3
    return bytes(broken)


class TestBatch:
    RECIPE = recipes("square:64")[1]

    def batch_of(self, contents):
        """Return pictures, and pixels as decoder processes leave them: stale where a JPEG is."""
        pictures = [decode(content, self.RECIPE) for content in contents]
        pixels = np.full((len(pictures) + 1, 64, 64, 3), 77, np.uint8)
        pixels[-1] = 0  # a batch is padded with black
        for place, picture in zip(pixels, pictures, strict=False):
            if picture.pixels is not None:
                place[:] = picture.pixels
        return [dataclasses.replace(picture, pixels=None) for picture in pictures], pixels

    def expected(self, content):
        return decode(content, recipes("square:64")[0]).pixels

    def test_jpegs_come_beside_what_pillow_decoded(self, monkeypatch):
        png = io.BytesIO()
        photograph(7, 90, 70).save(png, "PNG")
        contents = [jpeg(1), png.getvalue(), jpeg(2, (300, 20)), jpeg(3, mode="CMYK"), jpeg(4)]
        pictures, pixels = self.batch_of(contents)
        for limit in (1 << 26, 7000, 1):  # all together, some, one by one
            monkeypatch.setattr(device_decoding, "GROUP_PIXELS", limit)
            done, batch = decode_on_device(pictures, pixels.copy(), self.RECIPE, CPU)
            assert [picture.status for picture in done] == [Status.OK] * 5
            assert all(picture.jpeg is None for picture in done)
            for content, ours in zip(contents, batch, strict=False):
                assert np.abs(ours.numpy().astype(int) - self.expected(content)).max() <= 2
            np.testing.assert_array_equal(batch[1], self.expected(contents[1]))
            np.testing.assert_array_equal(batch[3], self.expected(contents[3]))
            assert not batch[5].any()

    def test_a_file_that_torchvision_refuses_costs_its_own_record(self):
        bad = without_its_table(jpeg(2))
        assert is_plain(bad)
        pictures, pixels = self.batch_of([jpeg(1), bad, jpeg(3)])
        done, batch = decode_on_device(pictures, pixels, self.RECIPE, CPU)
        assert [picture.status.value for picture in done] == ["ok", "undecodable", "ok"]
        assert done[1].reason.startswith("torchvision: ")
        assert "Quantization table 0x03 was not defined" in done[1].reason
        assert not batch[1].any()
        assert np.abs(batch[2].numpy().astype(int) - self.expected(jpeg(3))).max() <= 2

    def test_another_size_than_planned_or_than_the_header_says(self):
        pictures, pixels = self.batch_of([jpeg(1), jpeg(2)])
        lying = dataclasses.replace(pictures[1], width=65)
        done, batch = decode_on_device([pictures[0], lying], pixels, self.RECIPE, CPU)
        assert (done[1].status, done[1].reason) == (
            "undecodable",
            "its header says 65x48, its image is 64x48",
        )
        assert not batch[1].any()
        done, batch = decode_on_device(pictures, pixels[:, :32].copy(), self.RECIPE, CPU)
        assert done[0].status == "failed"
        assert "64x48 pixels are not what the manifest says" in done[0].reason
        assert not batch[:2].any()


class TestRecipe:
    def test_the_decoder_is_part_of_it(self, tmp_path):
        by_pillow, on_device = recipes("square:64")
        assert by_pillow != on_device
        assert list(on_device.to_json())[-1] == "decoder"
        assert Recipe.from_json(on_device.to_json()) == on_device
        with refuses("E-RECIPE-VALUE", "pillow, torchvision", kind=StoreError):
            Recipe.from_json({**on_device.to_json(), "decoder": "device"})
        own = tmp_path / "own.toml"
        own.write_text(
            'name = "own"\ndecoder = "torchvision"\n'
            'steps = [{ step = "stretch", height = 64, width = 64 }]'
        )
        assert make_recipe(str(own), CLIP, CELL).decoder == "torchvision"
        with refuses("E-RECIPE-CONFLICT", "drop --decode", kind=ExtractUsageError):
            make_recipe(str(own), CLIP, CELL, decoder="torchvision")

    def test_views_are_refused(self):
        with refuses("E-RECIPE-VIEWS", "drop --decode", kind=ExtractUsageError):
            make_recipe("views", CLIP, CELL, decoder="torchvision")
        views = make_recipe("views", CLIP, CELL).to_json()
        with refuses("E-RECIPE-VIEWS", kind=StoreError):
            Recipe.from_json({**views, "decoder": "torchvision"})


ARGUMENTS = ("--model", "RN50", "--pretrained", "none", "--recipe", "square:64", "--device", "cpu",
             "--batch-size", "4", "--shard-size", "8", "--decoders", "1")  # fmt: skip


def extract(images, out, *options):
    command = ["extract", "--images", str(images), "--out", str(out), *ARGUMENTS, *options]
    return CliRunner().invoke(clipfeat, command)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = write_photographs(tmp_path_factory.mktemp("images"), 10)
    write_bad_files(folder)
    (folder / "table.jpg").write_bytes(without_its_table(jpeg()))
    (folder / "cmyk.jpg").write_bytes(jpeg(mode="CMYK"))
    photograph(20).save(folder / "other.png")
    return folder


@pytest.fixture(scope="module")
def store(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "s"
    done = extract(images, out, "--decode", "device", "--json")
    assert done.exit_code == 0, done.output
    return FeatureStore.open(out)


class TestStore:
    def test_bad_files_are_counted_and_the_rest_is_there(self, images, store):
        refused = {row.image_id: row.status for row in store.index if row.status != Status.OK}
        assert refused == {
            "broken": "undecodable", "text": "undecodable", "empty": "undecodable",
            "table": "undecodable", "pixel": "unsupported", "huge": "too_large",
        }  # fmt: skip
        assert store.identity.recipe["decoder"] == "torchvision"
        assert verify(store.path) == []

    def test_it_is_another_store_than_pillows_with_features_close_by(self, images, store, tmp_path):
        assert extract(images, tmp_path / "s").exit_code == 0
        by_pillow = FeatureStore.open(tmp_path / "s")
        assert by_pillow.identity != store.identity
        assert by_pillow.digest != store.digest
        errors = []
        for image_id in (f"p{number:03}" for number in range(10)):
            expected, ours = (s[image_id].astype(float) for s in (by_pillow, store))
            errors.append(np.linalg.norm(ours - expected) / np.linalg.norm(expected))
        assert 0 < max(errors) < 1e-3  # 1.7e-4 was measured
        for image_id in ("cmyk", "other"):  # which Pillow decoded in both
            np.testing.assert_array_equal(by_pillow[image_id], store[image_id])

    def test_pillow_never_continues_it(self, images, store):
        done = extract(images, store.path)
        assert isinstance(done.exception, StoreError)
        assert "decoder" in str(done.exception)

    def test_recomputing_follows_the_recipe(self, images, store):
        found = recompute(store, str(images), 12, seed=1, device="cpu")
        assert found.verdict == "same bits"
        assert len(found.deviations) == 12
