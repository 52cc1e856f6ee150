"""JPEG files with the entropy of photographs, for benchmarks that must not read noise or flats."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

# Natural images have amplitude spectra near 1/f (Field 1987); at this slope and contrast a
# 640x480 JPEG of quality 90 has about 100 kB, COCO's are about 160 kB at their higher quality.
SLOPE = 1.15


def write_photographs(folder: Path, count: int, width: int = 640, height: int = 480) -> Path:
    """Write `count` JPEG files of 1/f noise into `folder`."""
    folder.mkdir(parents=True)
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda seed: _write(folder, seed, width, height), range(count)))
    return folder


def _write(folder: Path, seed: int, width: int, height: int) -> None:
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1.0
    shared = rng.standard_normal((height, width, 1))  # the channels of a photograph go together
    noise = shared + 0.3 * rng.standard_normal((height, width, 3))
    spectrum = np.fft.rfft2(noise, axes=(0, 1)) / frequency[..., None] ** SLOPE
    pixels = np.fft.irfft2(spectrum, s=(height, width), axes=(0, 1))
    pixels = 128 + 50 * pixels / pixels.std()
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    image.save(folder / f"{seed:06}.jpg", quality=90)


def linked(pool: list[Path], count: int, folder: Path) -> Path:
    """Return a folder of `count` names for the files of `pool`, each used as often as needed."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:07}.jpg").hardlink_to(pool[number % len(pool)])
    return folder
