"""Real image files for tests, good ones and bad ones."""

from pathlib import Path

import numpy as np
from PIL import Image


def photograph(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    """Return an RGB image with edges, gradients and noise, as a photograph has."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (5, 7, 3)).astype(np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((pixels + rng.integers(-9, 9, pixels.shape)).clip(0, 255).astype("u1"))


def write_photographs(folder: Path, count: int) -> Path:
    """Write `count` JPEG files, p000.jpg and on, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        photograph(seed, 64 + seed % 3 * 10).save(folder / f"p{seed:03}.jpg", quality=90)
    return folder


def write_bad_files(folder: Path) -> dict[str, str]:
    """Write one of each kind of bad image and return {id: status it must get}."""
    folder.mkdir(parents=True, exist_ok=True)
    photograph(0, 160, 120).save(folder / "whole.jpg")
    content = (folder / "whole.jpg").read_bytes()
    (folder / "whole.jpg").unlink()
    (folder / "broken.jpg").write_bytes(content[: len(content) // 2])
    (folder / "text.jpg").write_text("this is no image")
    (folder / "empty.jpg").write_bytes(b"")
    Image.new("RGB", (1, 1)).save(folder / "pixel.jpg")
    Image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    return {
        "broken": "undecodable",
        "text": "undecodable",
        "empty": "undecodable",
        "pixel": "unsupported",
        "huge": "too_large",
    }
