"""A pre-training step at the sizes of BERT: texts, tokens and operations a second, and memory.

make bench-train                                                  # on a CPU, small batches
make bench-train BENCH="--device cuda --precision bfloat16 --texts 256 --sizes mini medium base"

Random texts of 20 pieces and 100 cells of 2,048 channels, one image for every 4 texts; forward,
backward and optimizer. What a device can do at best is measured in the same process, with square
matrix products of the same precision. Each size runs in a process of its own, for its memory.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from clipfeat.train.devices import accelerator_on
from clipfeat.train.models.settings import SingleStreamSettings
from clipfeat.train.optimizer import make_optimizer
from clipfeat.train.records import ChannelStatistics, FeatureNorm
from clipfeat.train.task import on_device
from clipfeat.train.tasks.pretraining.examples import PretrainBatch
from clipfeat.train.tasks.pretraining.model import Pretrainer, objectives_loss
from clipfeat.train.tasks.settings import ObjectiveSettings, PretrainSettings

SIZES = {  # hidden, layers, heads: Turc et al. 2019 (arXiv 1908.08962), table 1
    "tiny": (128, 2, 2),
    "mini": (256, 4, 4),
    "small": (512, 4, 8),
    "medium": (512, 8, 8),
    "base": (768, 12, 12),
}
DIM, CELLS, TOKENS, PIECES, ANSWERS, TEXTS_OF_IMAGE = 2048, 100, 20, 30_522, 9_500, 4
SQUARE = {"cpu": 2048, "cuda": 8192}  # rows of the products that measure the peak
AIM = 45  # percent of the peak, for base on a GPU


def make_batch(texts: int) -> PretrainBatch:
    """Return a batch of random numbers, the same ones every time."""
    random = torch.Generator().manual_seed(0)
    images = -(-texts // TEXTS_OF_IMAGE)
    masked = torch.arange(0, texts * TOKENS, 7)  # about 15 %
    cell = torch.arange(CELLS)
    return PretrainBatch(
        features=torch.randn(images, CELLS, DIM, generator=random).clamp(min=0).half(),
        mask=torch.ones(images, CELLS, dtype=torch.bool),
        places=torch.stack((cell // 20, cell % 20), dim=1).expand(images, -1, -1).contiguous(),
        hidden=torch.zeros(images, CELLS, dtype=torch.bool),
        image_of_text=torch.arange(texts) // TEXTS_OF_IMAGE,
        tokens=torch.randint(5, PIECES, (texts, TOKENS), generator=random),
        masked=masked,
        pieces=torch.randint(5, PIECES, masked.shape, generator=random),
        matched=(torch.arange(texts) % 2).float(),
        answers=torch.randint(0, ANSWERS, (texts,), generator=random),
    )


def seconds_of(run: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Return the median seconds of a call, after one that is not counted."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[1:]))


def peak(device: torch.device, precision: str) -> float:
    """Return the operations a second of a large matrix product."""
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    side = SQUARE[device.type]
    one = torch.randn(side, side, device=device, dtype=dtype)
    return 2 * side**3 / seconds_of(lambda: one @ one, 10, device)


def measure(size: str, precision: str, device: str | None, texts: int, steps: int) -> None:
    """Print the row of one size."""
    hidden, layers, heads = SIZES[size]
    settings = PretrainSettings(
        precision=precision,
        model=SingleStreamSettings(hidden=hidden, layers=layers, heads=heads),
        objectives=ObjectiveSettings(answers=1.0),
    )
    torch.manual_seed(0)
    norm = FeatureNorm(ChannelStatistics(torch.zeros(DIM), torch.ones(DIM)), blind=False)
    plain = Pretrainer(settings, norm, tokens=PIECES, answers=ANSWERS)
    parameters = sum(parameter.numel() for parameter in plain.parameters()) / 1e6
    accelerator = accelerator_on(device, settings)
    best = peak(accelerator.device, precision)
    model, optimizer = accelerator.prepare(plain, make_optimizer(plain, settings))
    model.train()
    batch = on_device(make_batch(texts), accelerator.device)

    def step() -> None:
        accelerator.backward(objectives_loss(model, batch, settings))
        optimizer.step()
        optimizer.zero_grad()

    with FlopCounterMode(display=False) as counter:
        step()
    second = seconds_of(step, steps, accelerator.device)
    if accelerator.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated() / 1e9
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    rate = counter.get_total_flops() / second
    print(
        f"| {size} | {parameters:.0f} M | {1e3 * second:,.0f} | {texts / second:,.0f} | "
        f"{texts * (TOKENS + CELLS) / second:,.0f} | {rate / 1e12:.3g} of {best / 1e12:.3g} | "
        f"{100 * rate / best:.0f} % | {memory:.1f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["tiny", "mini", "small"])
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"])
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    options = vars(arguments)
    sizes = options.pop("sizes")
    if len(sizes) == 1:
        return measure(sizes[0], **options)
    print(f"{arguments.texts} texts a step, {arguments.precision}; on a GPU base's aim is {AIM} %")
    print("| size | parameters | ms a step | texts/s | tokens/s | TFLOP/s | of the peak | GB |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for size in sizes:
        words = [f"--{name}={value}" for name, value in options.items() if value is not None]
        command = [sys.executable, "-m", "benchmarks.train", "--sizes", size, *words]
        subprocess.run(command, check=True)
    return None


if __name__ == "__main__":
    main()
