"""One decoder process over many images: milliseconds an image at the start and at the end.

python -m benchmarks.decoders [--images 20000]

Small JPEG files, so that what a process gathers from image to image would show beside the decoding.
"""

import argparse
import functools
import statistics
import tempfile
from pathlib import Path
from typing import NamedTuple

from clipfeat.extract.pixels.decoding import Decoders, Limits
from clipfeat.extract.pixels.images import MAX_PIXELS, load_picture
from clipfeat.extract.planning.recipe import Recipe
from clipfeat.featstore.geometry import BICUBIC, RGB, Stretch

from .photographs import write_photographs

SIDE, FILES = 64, 20
BATCH = 100  # images
MEASURED = 10  # batches, whose median is taken: other processes come and go


class Pace(NamedTuple):
    """Milliseconds an image of one decoder: the median of the batches of some of its images."""

    first: int  # images before these batches
    last: int  # images when they are done
    milliseconds: float


def paces(images: int) -> tuple[Pace, Pace]:
    """Return the pace of one decoder when it is warm, and at its last images."""
    zero, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    recipe = Recipe("own", (Stretch(SIDE, SIDE, **BICUBIC), RGB()), zero, one)
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_photographs(Path(temporary) / "small", FILES, SIDE, SIDE)
        names = sorted(file.name for file in folder.iterdir()) * (BATCH // FILES)
        load = functools.partial(load_picture, root=str(folder), recipe=recipe)
        limits = Limits.of(MAX_PIXELS, 1)
        with Decoders(load, 1, 1, BATCH * SIDE * SIDE * 3, limits=limits) as decoders:
            for _ in range(0, images + (1 + MEASURED) * BATCH, BATCH):
                decoding = decoders.submit(names, BATCH, (SIDE, SIDE, 3))
                found.append(1000 * decoding.result().seconds / BATCH)
                decoding.release()
    first, last = found[1 : 1 + MEASURED], found[-MEASURED:]
    span = MEASURED * BATCH
    return (
        Pace(BATCH, BATCH + span, statistics.median(first)),
        Pace(images + BATCH, images + BATCH + span, statistics.median(last)),
    )


def line(images: int = 20_000) -> str:
    """Return both paces, for a person."""
    return ", ".join(
        f"{pace.milliseconds:.2f} ms an image from {pace.first:,} to {pace.last:,} images"
        for pace in paces(images)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    print(f"one decoder: {line(parser.parse_args().images)}")


if __name__ == "__main__":
    main()
