"""Extraction end to end against the bare forward pass, and against a plain loop.

python -m benchmarks.extract [--images N] [--model RN50] [--recipe caption448] [--device cpu]

The same JPEG files (640x480, the entropy of photographs) in one run. End to end is from the
folder of files to the finished store; bare forward is the same tower on tensors made ready
before, at the same batch size and precision. The plain loop is what most scripts do: one image
at a time, float32, contiguous layout, numpy.savez_compressed.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import psutil
import torch
from PIL import Image

from clipfeat.extract.backbone import Backbone, normalised
from clipfeat.extract.extraction import CPU_BATCH, GPU_BATCH, Request, extract_images
from clipfeat.extract.images import load_picture
from clipfeat.extract.job import BackboneSpec
from clipfeat.extract.recipe import Recipe, make_recipe
from clipfeat.extract.weights import load_backbone
from clipfeat.manifests import folder_manifest

from .photographs import write_photographs

PLAIN_IMAGES = 24  # the plain loop is slow and steady; a few images tell its rate


def bare_forward(backbone: Backbone, recipe: Recipe, files: list[Path], seconds: float) -> float:
    """Return images/s of the tower alone, on a batch of the same images that is ready."""
    batch = len(files)
    pictures = [load_picture(file, recipe).pixels for file in files]
    pixels = torch.from_numpy(np.stack([p for p in pictures if p is not None]))
    images = normalised(pixels.to(backbone.device), recipe)
    images = images.to(backbone.dtype, memory_format=torch.channels_last)
    last = {"indices": 1} if backbone._is_vit else {"indices": [4]}
    backbone._set_positions(recipe.grid_shape(backbone.cell))
    done, start = -batch, time.perf_counter()
    with torch.inference_mode():
        while done <= 0 or time.perf_counter() - start < seconds:
            backbone._visual.forward_intermediates(images, intermediates_only=True, **last)
            if backbone.device.type == "cuda":
                torch.cuda.synchronize()
            done += batch
            if not done:
                start = time.perf_counter()  # the first pass warms up
    return done / (time.perf_counter() - start)


def plain_loop(model: str, folder: Path, out: Path, recipe: Recipe) -> float:
    """Return images/s of one image at a time into compressed npz files."""
    torch.manual_seed(0)
    visual: Any = open_clip.create_model(model).visual
    visual.eval()
    last = {"indices": 1} if hasattr(visual, "class_embedding") else {"indices": [4]}
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (recipe.mean, recipe.std))
    out.mkdir()
    start = time.perf_counter()
    files = sorted(folder.iterdir())[:PLAIN_IMAGES]
    for file in files:
        size = (recipe.width, recipe.height)
        image = Image.open(file).convert("RGB").resize(size, Image.Resampling.BICUBIC)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
        with torch.no_grad():
            output = visual.forward_intermediates(
                ((tensor - mean) / std)[None].contiguous(), intermediates_only=True, **last
            )
        grid = output["image_intermediates"][0][0].permute(1, 2, 0).numpy()
        np.savez_compressed(out / f"{file.stem}.npz", feat=grid)
    return len(files) / (time.perf_counter() - start)


class PeakMemory:
    """The largest resident set of this process while the block runs, in MB."""

    def __enter__(self) -> "PeakMemory":
        process = psutil.Process()
        self.before = self.peak = process.memory_info().rss / 1e6
        self._stop = threading.Event()

        def watch() -> None:
            while not self._stop.wait(0.02):
                self.peak = max(self.peak, process.memory_info().rss / 1e6)

        self._thread = threading.Thread(target=watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--model", default="RN50")
    parser.add_argument("--recipe", default="caption448")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shard-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int)
    arguments = parser.parse_args()
    batch = arguments.batch_size or (CPU_BATCH if arguments.device == "cpu" else GPU_BATCH)
    spec = BackboneSpec(arguments.model, "none", 0, arguments.precision)
    backbone, _ = load_backbone(spec, arguments.device)
    recipe = make_recipe(arguments.recipe, backbone.native)
    request = Request(
        model=arguments.model,
        pretrained="none",
        recipe=arguments.recipe,
        device=arguments.device,
        precision=arguments.precision,
        batch_size=batch,
        shard_size=arguments.shard_size,
    )
    with tempfile.TemporaryDirectory(dir=".") as folder:
        root = Path(folder)
        images = write_photographs(root / "images", arguments.images)
        size = sum(file.stat().st_size for file in images.iterdir()) / arguments.images
        first = sorted(images.iterdir())[:batch]
        before = bare_forward(backbone, recipe, first, seconds=10)
        start = time.perf_counter()
        manifest = folder_manifest(images)
        headers = time.perf_counter() - start
        with PeakMemory() as memory:
            report = extract_images(manifest, root / "s.clipfeat", request, say=print)
        end_to_end = arguments.images / (report.seconds + headers)
        after = bare_forward(backbone, recipe, first, seconds=10)
        bare = (before + after) / 2
        plain = plain_loop(arguments.model, images, root / "npz", recipe)
        stored = sum(f.bytes for f in report.store.shards) / arguments.images
        npz = np.mean([file.stat().st_size for file in (root / "npz").iterdir()])
    print(
        f"{arguments.model} {arguments.recipe} {arguments.precision} on {arguments.device}:",
        end=" ",
    )
    print(f"{arguments.images} JPEGs of {size / 1e3:.0f} kB, batch {batch}")
    print(f"bare forward   {bare:8.2f} images/s ({before:.2f} before, {after:.2f} after)")
    print(f"end to end     {end_to_end:8.2f} images/s   {end_to_end / bare:5.2f} of bare forward")
    print(f"plain loop     {plain:8.2f} images/s   ours is {end_to_end / plain:.2f}x as fast")
    print(f"bytes/image    {stored / 1e3:8.0f} kB         npz float32 {npz / 1e3:.0f} kB")
    print(f"peak memory    {memory.peak:8.0f} MB         {memory.before:.0f} MB before")


if __name__ == "__main__":
    main()
