"""Extraction end to end against the bare forward pass, and against a plain loop.

python -m benchmarks.extract [--cases RN50:caption448 ...] [--device cpu] [--json numbers.json]

The same JPEG files (640x480, the entropy of photographs) in one run. End to end is from the
folder of files to the finished store. Bare forward is open_clip's own tower at the same precision
and batch size, channels last, on a batch that is ready on the device. The plain loop is what most
scripts do: one image at a time, float32, contiguous layout, numpy.savez_compressed. Before the models,
the host side alone, on a simulated device (benchmarks/extract_host.py).

On a machine without a package index, from the root of the source tree:
    mkdir -p .typing && ln -sfn "$PWD" .typing/clipfeat
    PYTHONPATH=.typing:. python -m benchmarks.extract --device cuda
"""

import argparse
import json
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import psutil
import torch

from clipfeat.base.machine import slower_than_float32, usable_cores
from clipfeat.extract import ExtractConfig, ExtractReport, extract_images
from clipfeat.extract.backbones.backbone import DTYPES, choose_batch_size, normalised
from clipfeat.extract.backbones.weights import load_backbone
from clipfeat.extract.pixels.images import load_picture
from clipfeat.extract.planning.config import Device, Precision
from clipfeat.extract.planning.plan import BackboneSpec, Batching
from clipfeat.extract.planning.recipe import Recipe, make_recipe
from clipfeat.featstore.writing.writer import SHARD_RECORDS
from clipfeat.manifests import folder_manifest

from .decoders import line as decoder_line
from .extract_host import measure as measure_host
from .photographs import linked, write_photographs

CASES = (
    *(
        f"{model}:caption448"
        for model in ("RN50", "RN101", "RN50x4", "ViT-B-32", "ViT-B-16", "ViT-L-14")
    ),
    "RN50:vqa600",
)
WIDTH, HEIGHT = 640, 480
SECONDS = 8.0  # that each rate is measured for, at least
HOST_IMAGES = 2000  # through the simulated device
BYTES = 4e9  # of features that a case writes, before compression


@dataclass(frozen=True)
class Result:
    """Rates are images a second."""

    case: str
    precision: str
    batch: int
    images: int
    bare: float
    end_to_end: float
    plain: float
    waited: float  # share of time in which the device had nothing to do
    stage_ms: dict[str, float]  # an image; summed over processes and threads
    peak_mb: float  # of the host: the largest resident set of the process with the device
    device_peak_mb: float | None
    stored_kb: float  # an image
    npz_kb: float


class Tower:
    """open_clip's own image tower, at the size of a recipe's pixels."""

    def __init__(self, model: str, size: tuple[int, int], dtype: torch.dtype, device: str):
        torch.manual_seed(0)
        is_vit = model.startswith("ViT")
        # A ViT has a table of positions of its size; convolutions take any.
        full: Any = open_clip.create_model(
            model, pretrained_text=False, force_image_size=size if is_vit else None
        )
        visual = full.visual
        self._visual = visual.eval().to(device, dtype)
        self._last = {"indices": 1} if is_vit else {"indices": [4]}

    def channels_last(self) -> "Tower":
        self._visual.to(memory_format=torch.channels_last)
        return self

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        output = self._visual.forward_intermediates(images, intermediates_only=True, **self._last)
        return output["image_intermediates"][-1]


def bare_forward(tower: Tower, images: torch.Tensor) -> float:
    """Return images/s of the tower alone."""
    done, start = -len(images), time.perf_counter()
    while done <= 0 or time.perf_counter() - start < SECONDS:
        tower(images)
        if images.is_cuda:
            torch.cuda.synchronize()
        done += len(images)
        if not done:
            start = time.perf_counter()  # the first pass warms up
    return done / (time.perf_counter() - start)


def plain_loop(tower: Tower, files: list[Path], recipe: Recipe, out: Path, device: str) -> float:
    """Return images/s of one image at a time into compressed npz files."""
    out.mkdir()
    start, done = time.perf_counter(), 0
    for file in files:
        images = normalised(batch_of([file], recipe), recipe).contiguous().to(device)
        grid = tower(images)[0].permute(1, 2, 0).cpu().numpy()
        np.savez_compressed(out / f"{file.stem}.npz", feat=grid)
        done += 1
        if time.perf_counter() - start > SECONDS:
            break
    return done / (time.perf_counter() - start)


def batch_of(files: list[Path], recipe: Recipe) -> torch.Tensor:
    """Return the pixels of files, (image, height, width, 3)."""
    pictures = [load_picture(file.name, str(file.parent), recipe).pixels for file in files]
    return torch.from_numpy(np.stack([pixels for pixels in pictures if pixels is not None]))


class PeakMemory:
    """The largest resident set of this process while the block runs, in MB."""

    def __enter__(self) -> "PeakMemory":
        process = psutil.Process()
        self.peak = process.memory_info().rss / 1e6
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


def measure(
    case: str, precision: Precision, device: Device, folder: Path, images: int | None
) -> Result:
    """Measure one model and recipe."""
    model, name = case.split(":", 1)
    backbone, _ = load_backbone(BackboneSpec(model, "none", 0, precision), device)
    recipe = make_recipe(name, backbone.native, backbone.cell)
    size = recipe.size(WIDTH, HEIGHT)
    # No batch spans two shards; on a CPU any multiple of a chunk is as good.
    on_cpu = device == "cpu"
    images_at_once = choose_batch_size(backbone, recipe, size)
    batch = Batching.of(images_at_once, 1, SHARD_RECORDS, on_cpu=on_cpu).max_rows
    cell, dim = backbone.cell, backbone.dim
    del backbone
    pool = sorted(folder.glob("*.jpg"))

    tower = Tower(model, size, DTYPES[precision], device).channels_last()
    ready = normalised(batch_of(pool[:batch], recipe).to(device), recipe)
    ready = ready.to(DTYPES[precision], memory_format=torch.channels_last)
    before = bare_forward(tower, ready)

    rows, cols = size[0] // cell[0], size[1] // cell[1]
    most = int(BYTES / (2 * rows * cols * dim))  # float16
    count = images or max(2 * batch, min(int(4 * SECONDS * before), most) // batch * batch)
    config = ExtractConfig(model=model, pretrained="none", recipe=name, device=device,
                           precision=precision, batch_size=batch)  # fmt: skip
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory(dir=".") as temporary, PeakMemory() as memory:
        root = Path(temporary)
        files = linked(pool, count, root / "images")
        started = time.perf_counter()
        manifest = folder_manifest(files)
        headers = time.perf_counter() - started
        report = extract_images(manifest, root / "s.clipfeat", config)
        device_peak = torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else None
        after = bare_forward(tower, ready)
        del tower
        plain = Tower(model, size, torch.float32, device)
        plain_rate = plain_loop(plain, pool, recipe, root / "npz", device)
        npz = float(np.mean([file.stat().st_size for file in (root / "npz").iterdir()]))
    return Result(
        case=case,
        precision=precision,
        batch=batch,
        images=count,
        bare=(before + after) / 2,
        end_to_end=count / (report.seconds + headers),
        plain=plain_rate,
        waited=report.timings.waited,
        stage_ms=stage_ms(report),
        peak_mb=memory.peak,
        device_peak_mb=device_peak,
        stored_kb=report.bytes / count / 1e3,
        npz_kb=npz / 1e3,
    )


def fast_precision(device: str) -> tuple[Precision, str]:
    """Return the precision to measure in on a device, and why it is that one."""
    if device != "cpu":
        return "float16", "the default on a GPU"
    times = slower_than_float32("bfloat16")
    if times < 1:
        return "bfloat16", f"{1 / times:.1f} times as fast as float32 on this processor"
    return "float32", f"{times:.1f} times as fast as bfloat16 on this processor"


def stage_ms(report: ExtractReport) -> dict[str, float]:
    """Return the milliseconds an image of each stage."""
    stages = asdict(report.timings)
    return {name: 1000 * seconds / report.images for name, seconds in stages.items()}


def line(result: Result) -> str:
    stages = " ".join(f"{result.stage_ms[name]:7.2f}" for name in ("decode", "encode", "write"))
    memory = "" if result.device_peak_mb is None else f" + {result.device_peak_mb:.0f}"
    return (
        f"{result.case:<22} {result.batch:>5} {result.bare:>9.2f} {result.end_to_end:>9.2f} "
        f"{result.end_to_end / result.bare:>6.2f} {result.plain:>8.2f} "
        f"{result.end_to_end / result.plain:>6.2f} {100 * result.waited:>6.1f}% {stages} "
        f"{result.stored_kb:>7.0f} {result.npz_kb:>7.0f} {result.peak_mb:>7.0f}{memory}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="MODEL:RECIPE")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--precision",
        choices=DTYPES,
        help="default: float16 on a GPU; on a CPU bfloat16 if it is faster than float32 there",
    )
    parser.add_argument("--images", type=int, help="of each case; default: by the bare rate")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    precision, why = arguments.precision, "as asked for"
    if precision is None:
        precision, why = fast_precision(arguments.device)
    results = []
    with tempfile.TemporaryDirectory(dir=".") as temporary:
        pool = write_photographs(Path(temporary) / "pool", 512, WIDTH, HEIGHT)
        size = np.mean([file.stat().st_size for file in pool.iterdir()]) / 1e3
        print(measure_host(pool, HOST_IMAGES).text(), flush=True)
        print(f"{WIDTH}x{HEIGHT} JPEG files of {size:.0f} kB; {precision} ({why}) on "
              f"{arguments.device}, {torch.backends.cpu.get_cpu_capability()}, "
              f"{usable_cores()} cores, {torch.get_num_threads()} threads; rates in images/s, "
              f"stages in ms an image")  # fmt: skip
        print(f"{'case':<22} {'batch':>5} {'bare':>9} {'e2e':>9} {'ratio':>6} {'plain':>8} "
              f"{'times':>6} {'waited':>7} {'decode':>7} {'encode':>7} {'write':>7} "
              f"{'kB':>7} {'npz kB':>7} peak MB")  # fmt: skip
        for case in arguments.cases:
            result = measure(case, precision, arguments.device, pool, arguments.images)
            print(line(result), flush=True)
            results.append(result)
    print(f"one decoder: {decoder_line()}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1))


if __name__ == "__main__":
    main()
