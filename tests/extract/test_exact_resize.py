"""The resize and the other steps on tensors give the pixels that Pillow gives, bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pictures import photograph
from PIL import Image

from clipfeat.extract.pixels import resize as resize_module
from clipfeat.extract.pixels.images import resized
from clipfeat.extract.pixels.resize import pillow_weights, resize, take_steps
from clipfeat.extract.planning.recipe import Preprocess, make_recipe
from clipfeat.featstore.geometry import BICUBIC, BILINEAR, RGB, Crop, Pad, Stretch

SIDES = st.one_of(st.integers(1, 64), st.integers(1, 700))
FILTERS = st.sampled_from(["bicubic", "bilinear"])
MODES = {"L": 1, "RGB": 3, "RGBa": 4, "CMYK": 4}  # RGBa: alpha is multiplied into the colours
CLIP = Preprocess(224, "shortest", "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def noise(seed, channels, size, levels):
    """Return (height, width, channels) of random pixels with so many different values."""
    random = np.random.default_rng(seed)
    values = np.linspace(0, 255, levels).astype(np.uint8)
    return random.choice(values, (size[1], size[0], channels))


def by_pillow(pixels, mode, size, interpolation):
    height, width, channels = pixels.shape
    image = Image.frombytes(mode, (width, height), pixels.tobytes())
    for axis in ((size[0], height), size):
        image = image.resize(axis, Image.Resampling[interpolation.upper()])
    return np.frombuffer(image.tobytes(), np.uint8).reshape(size[1], size[0], channels)


def on_tensor(pixels, size, interpolation):
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    return resize(tensor, size, interpolation).permute(1, 2, 0).numpy()


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), FILTERS, st.sampled_from(sorted(MODES)),
    st.sampled_from([2, 256]), st.integers(0, 1000),
)  # fmt: skip
@example((700, 1), (1, 1), "bicubic", "RGB", 2, 0)
@example((1, 1), (700, 700), "bicubic", "RGB", 256, 0)
@example((97, 301), (97, 64), "bilinear", "RGB", 256, 0)  # one axis stays as it is
@example((97, 301), (64, 301), "bicubic", "L", 2, 0)
@example((640, 480), (448, 448), "bicubic", "RGB", 256, 0)
def test_it_is_pillows(size, to, interpolation, mode, levels, seed):
    pixels = noise(seed, MODES[mode], size, levels)
    expected = by_pillow(pixels, mode, to, interpolation)
    np.testing.assert_array_equal(on_tensor(pixels, to, interpolation), expected)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_many_inputs_for_each_output(interpolation):
    """Sums that float32 would round are computed in float64."""
    pixels = noise(1, 1, (30_000, 2), 2)
    for width in (1, 3, 40):
        expected = by_pillow(pixels, "L", (width, 2), interpolation)
        np.testing.assert_array_equal(on_tensor(pixels, (width, 2), interpolation), expected)


def test_a_batch_is_its_images():
    batch = torch.from_numpy(np.stack([noise(seed, 3, (50, 40), 256) for seed in range(4)]))
    batch = batch.permute(0, 3, 1, 2)
    together = resize(batch, (33, 61), "bicubic")
    assert together.shape == (4, 3, 61, 33)
    for image, alone in zip(together, batch, strict=True):
        assert torch.equal(image, resize(alone, (33, 61), "bicubic"))


def test_weights_sum_to_one_and_lie_on_the_axis():
    for before, after in ((640, 448), (3, 700), (700, 3), (5, 5)):
        first, weights = pillow_weights(before, after, "bicubic")
        sums = weights.sum(axis=1)
        assert np.abs(sums - (1 << 22)).max() <= weights.shape[1] / 2
        positions = first[:, None] + np.arange(weights.shape[1])
        assert not weights[positions >= before].any()
        assert first.min() >= 0


def test_float32_holds_every_sum_of_the_usual_sizes():
    for before in (60, 480, 640, 1280, 2000):
        for after in (224, 448, 1000):
            band = resize_module._band(before, after, "bicubic", torch.device("cpu"))
            assert band.weights.dtype == torch.float32
            # TF32 and float16, whose numbers have 11 bits, hold them as they are.
            assert torch.equal(band.weights.half().float(), band.weights)


STEPS = [
    (Crop(40, 30), RGB()),
    (Stretch(50, 70, **BILINEAR), Crop(39, 30), RGB()),
    (RGB(), Stretch(31, 64, **BICUBIC), Pad(64, 96, turn=True, odd="first", cell=(32, 32))),
    (Pad(40, 52, turn=False, odd="last", cell=(8, 8)), RGB()),  # cuts off two sides
]
NAMES = ["caption448", "vqa600", "pretrain384", "aspect:100,150", "model"]


@pytest.mark.parametrize("steps", [*STEPS, *(make_recipe(n, CLIP, (32, 32)).steps for n in NAMES)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(57, 43), (301, 197)])
def test_steps_are_those_on_images(steps, mode, size):
    image = photograph(3, *size).convert(mode)
    expected = resized(image, steps)
    tensor = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    ours = take_steps(tensor, steps).permute(1, 2, 0)
    np.testing.assert_array_equal(ours.numpy(), expected)
