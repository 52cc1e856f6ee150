"""Time of a training step of each VQA model, forward and backward and optimizer.

make bench-steps BENCH="--device cuda --precision bfloat16"

Random 14x14x2048 grids, three questions of 14 words an image, 3,129 answers, the models at the sizes
of their presets.
"""

import argparse
import math
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from clipfeat.train.devices import accelerator_on
from clipfeat.train.models.layers import AnswerBatch
from clipfeat.train.models.start import build_model
from clipfeat.train.optimizer import make_optimizer
from clipfeat.train.records import ChannelStatistics, FeatureNorm
from clipfeat.train.settings import load_settings
from clipfeat.train.task import on_device
from clipfeat.train.tasks.settings import PRESETS, VqaSettings
from clipfeat.train.tasks.vqa import soft_score_loss

DIM, ROWS, COLS, TOKENS, ANSWERS, WORDS = 2048, 14, 14, 14, 3129, 20_000


def make_batch(questions: int) -> AnswerBatch:
    """Return a batch of random numbers, the same ones every time."""
    random = torch.Generator().manual_seed(0)
    cells, images = ROWS * COLS, math.ceil(questions / 3)
    return AnswerBatch(
        features=torch.randn(images, cells, DIM, generator=random).clamp(min=0).half(),
        mask=torch.ones(images, cells, dtype=torch.bool),
        grid_shapes=torch.tensor([[ROWS, COLS]] * images),
        image_of_text=torch.arange(questions) % images,
        tokens=torch.randint(2, WORDS, (questions, TOKENS), generator=random),
        targets=torch.rand(questions, ANSWERS, generator=random),
    )


class Pace(NamedTuple):
    """The size of a model, and the median time of its steps."""

    parameters: int
    milliseconds: float


def measure(preset: Path, precision: str, device: str | None, questions: int, steps: int) -> Pace:
    """Return the pace of a preset's model; a first step, which is not counted, warms up."""
    settings = load_settings(VqaSettings, config=preset, assignments=[f"precision={precision}"])
    torch.manual_seed(0)
    norm = FeatureNorm(ChannelStatistics(torch.zeros(DIM), torch.ones(DIM)), blind=False)
    model = build_model(settings.model, norm, tokens=WORDS, answers=ANSWERS)
    accelerator = accelerator_on(device, settings)
    prepared, optimizer = accelerator.prepare(model, make_optimizer(model, settings))
    batch = on_device(make_batch(questions), accelerator.device)
    seconds = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        accelerator.backward(soft_score_loss(prepared, batch))
        optimizer.step()
        optimizer.zero_grad()
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    size = sum(parameter.numel() for parameter in model.parameters())
    return Pace(size, 1e3 * float(np.median(seconds[1:])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["default", "pythia", "mcan_small"])
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"])
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    print("| preset | parameters | ms a step | questions/s |")
    print("|---|---|---|---|")
    for name in arguments.presets:
        pace = measure(
            PRESETS / "vqa" / f"{name}.toml",
            arguments.precision,
            arguments.device,
            arguments.questions,
            arguments.steps,
        )
        rate = 1e3 * arguments.questions / pace.milliseconds
        print(
            f"| {name} | {pace.parameters / 1e6:.0f} M | {pace.milliseconds:,.0f} | {rate:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
