"""Images that a device resizes: the pixels are those of the decoders. Here the device is a CPU."""

from functools import partial

import numpy as np
import pytest
import torch
from pictures import photograph, write_bad_files, write_photographs

from clipfeat.extract import ExtractConfig, extract_images
from clipfeat.extract.executors import pipeline
from clipfeat.extract.pixels.decoding import Decoders, Limits
from clipfeat.extract.pixels.images import load_picture
from clipfeat.extract.pixels.resize import pixels_on_device
from clipfeat.extract.planning.recipe import Preprocess, make_recipe
from clipfeat.manifests import folder_manifest

CLIP = Preprocess(224, "shortest", "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
LIMITS = Limits(memory=1 << 29, seconds=30.0)
PADDED = """
name = "padded"
steps = [
    { step = "shortest-maskrcnn", side = 64, longest = 96, interpolation = "bilinear" },
    { step = "pad", height = 64, width = 96, turn = true },
]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of photographs, bad files, and images in modes that a device does not resize."""
    folder = write_photographs(tmp_path_factory.mktemp("images"), 9)
    write_bad_files(folder)
    photograph(20, 200, 90).convert("L").save(folder / "gray.png")
    photograph(21, 90, 200).convert("P").save(folder / "palette.png")
    photograph(22).convert("CMYK").save(folder / "cmyk.jpg")
    clear = photograph(23)
    clear.putalpha(photograph(24).convert("L"))
    clear.save(folder / "clear.png")
    photograph(25, 1200, 900).save(folder / "large.jpg")
    return folder


def on_device(folder, names, recipe, decoded_bytes, slot_bytes):
    """Return the pictures of a batch of one more row, and its pixels after all steps."""
    load = partial(load_picture, root=str(folder), recipe=recipe)
    shape = (*recipe.size(64, 48), 3)
    with Decoders(load, 1, 1, slot_bytes, limits=LIMITS) as decoders:
        decoders.memory[:] = 77
        batch = decoders.submit(names, len(names) + 1, shape, decoded_bytes)
        pictures = batch.result().pictures
        slot = torch.from_numpy(batch.memory.copy())
        return pictures, pixels_on_device(slot, batch, pictures, recipe.steps).numpy()


def check_pixels(folder, names, recipe, pictures, pixels):
    """Check that they are those of `load_picture`, which takes all steps, and black without any."""
    assert len(pixels) == len(names) + 1
    assert not pixels[-1].any()
    for name, picture, ours in zip(names, pictures, pixels, strict=False):
        expected = load_picture(name, str(folder), recipe)
        assert (picture.status, picture.reason) == (expected.status, expected.reason)
        black = np.zeros_like(ours)
        np.testing.assert_array_equal(ours, black if expected.pixels is None else expected.pixels)


class TestBatch:
    RECIPE = make_recipe("square:64", CLIP, (32, 32))
    NAMES = ("p000.jpg", "gray.png", "palette.png", "broken.jpg", "cmyk.jpg", "p003.jpg", "gone.jpg",
             "clear.png", "large.jpg", "p001.jpg")  # fmt: skip
    SIZES = ((64, 48), (200, 90), (90, 200), (160, 120), (64, 48), (64, 48), (9, 9), (64, 48),
             (1200, 900), (74, 48))  # fmt: skip

    @pytest.mark.parametrize("spare", [0, 3 * 200 * 90, 10**7])
    def test_all_pixels_are_those_that_decoders_give(self, folder, spare):
        """Images stay as they are decoded where the slot has room, and change where it has none."""
        slot_bytes = (len(self.NAMES) + 1) * 64 * 64 * 3 + spare
        needed = [3 * width * height for width, height in self.SIZES]
        pictures, pixels = on_device(folder, self.NAMES, self.RECIPE, needed, slot_bytes)
        check_pixels(folder, self.NAMES, self.RECIPE, pictures, pixels)
        small = {"p000.jpg", "p001.jpg", "p003.jpg"}
        more = {0: set(), 3 * 200 * 90: {"gray.png"}, 10**7: {"gray.png", "large.jpg"}}
        left = {n for n, p in zip(self.NAMES, pictures, strict=True) if p.is_as_decoded}
        assert left == small | more[spare]

    def test_sizes_that_a_manifest_has_wrong(self, folder):
        """A decoder resizes what does not fit, and refuses another grid than was planned."""
        recipe = make_recipe("aspect:64,128", CLIP, (32, 32))
        names, needed = ("large.jpg", "p000.jpg", "gray.png"), [0, 10**5, 10**5]
        pictures, pixels = on_device(folder, names, recipe, needed, 10**6)
        assert [picture.status.value for picture in pictures] == ["ok", "ok", "failed"]
        assert "are not what the manifest says" in pictures[2].reason
        assert not pixels[2].any()
        check_pixels(folder, names[:2], recipe, pictures[:2], pixels[[0, 1, 3]])


def test_a_store_has_the_same_digest(folder, tmp_path, monkeypatch):
    (tmp_path / "padded.toml").write_text(PADDED)
    config = ExtractConfig(
        model="RN50",
        pretrained="none",
        recipe=str(tmp_path / "padded.toml"),
        device="cpu",
        batch_size=4,
        shard_size=8,
    )
    manifest = folder_manifest(folder)
    digests = [extract_images(manifest, tmp_path / "decoders", config).store.digest]
    sizes = []

    def spied(slot, batch, pictures, steps):
        sizes.extend((p.width, p.height) for p in pictures if p.is_as_decoded)
        return pixels_on_device(slot, batch, pictures, steps)

    monkeypatch.setattr(pipeline, "pixels_on_device", spied)
    monkeypatch.setattr(pipeline, "resizes_on_device", lambda device: True)
    digests.append(extract_images(manifest, tmp_path / "device", config).store.digest)
    assert digests[0] == digests[1]
    assert len(sizes) == 11  # nine photographs, the gray and the large one
