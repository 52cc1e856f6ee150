"""The training loop that every task shares; it reads from top to bottom.

    optimizer -> [resume] -> for each epoch: updates, evaluation, checkpoint

A task brings a model, a way to read a batch, a loss and a score; the loop knows nothing else
of it. The order of examples depends on (seed, epoch) alone, and a checkpoint holds weights,
optimizer and random numbers, so a run that was killed goes on as if it never was.
"""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from tqdm import tqdm

from ..base.errors import ClipfeatError, UsageError
from .batches import Numbers, cut, epoch_order, prefetch
from .checkpoint import load_training, model_tensors, training_tensors, write_checkpoint
from .runfolder import BEST, LAST, append_metrics, rewind_metrics
from .settings import LoopSettings


@runtime_checkable
class Movable(Protocol):
    """A batch, as far as the loop knows it."""

    def to(self, device: torch.device) -> Any:
        """Return the batch with its tensors on `device`."""
        ...


Batch = TypeVar("Batch", bound=Movable)

MIXED_PRECISION = {"float32": "no", "bfloat16": "bf16"}


def accelerator_on(device: str | None, settings: LoopSettings) -> Accelerator:
    """Return what places models on `device`: "cpu", "cuda", or None for a GPU if there is one."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no GPU here; type --device cpu")
    # Accelerate keeps one state a process and refuses a second run of another precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    cpu = device == "cpu" or not torch.cuda.is_available()
    return Accelerator(cpu=cpu, mixed_precision=MIXED_PRECISION[settings.precision])


def train(
    model: nn.Module,
    settings: LoopSettings,
    *,
    run: Path,
    accelerator: Accelerator,
    image_of_example: Numbers,
    read_batch: Callable[[Numbers], Batch],
    loss_of: Callable[[nn.Module, Batch], Tensor],
    evaluate: Callable[[nn.Module], Mapping[str, float]],
) -> None:
    """Train `model`, or go on with training it, until `run` holds its best checkpoint.

    `read_batch` takes example numbers and runs in a thread; `loss_of` returns the mean loss of
    a batch; `evaluate` returns named numbers, of which "score" (higher is better) picks the
    best checkpoint. Raises ClipfeatError where a loss is not finite.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    examples = len(image_of_example)
    epoch_steps = math.ceil(examples / settings.batch_size)
    steps = settings.epochs * epoch_steps

    step, best = 0, -math.inf
    if (run / LAST).is_file():
        step, best = load_training(run / LAST, model, optimizer)
        print(f"going on after epoch {step // epoch_steps} of {run}", file=sys.stderr)
    rewind_metrics(run, step)

    def read_parts(numbers: Numbers) -> list[tuple[float, Batch]]:
        """Return a batch in parts, each with its share of the batch."""
        parts = np.array_split(numbers, min(settings.accumulate, len(numbers)))
        return [(len(part) / len(numbers), read_batch(part)) for part in parts]

    bar = tqdm(
        total=settings.epochs * examples,
        initial=step // epoch_steps * examples,
        unit=" examples",
        disable=None,
    )
    with bar:
        for epoch in range(step // epoch_steps, settings.epochs):
            model.train()
            started = time.perf_counter()
            order = epoch_order(image_of_example, seed=settings.seed, epoch=epoch)
            batches = cut(order, settings.batch_size)
            losses: list[Tensor] = []
            with contextlib.closing(prefetch(batches, read_parts)) as stream:
                for numbers, parts in zip(batches, stream, strict=True):
                    rate = learning_rate(step, steps, settings)
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                    loss = torch.zeros((), device=accelerator.device)
                    for share, batch in parts:
                        part_loss = loss_of(model, batch.to(accelerator.device)) * share
                        accelerator.backward(part_loss)
                        loss += part_loss.detach()
                    accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm)
                    optimizer.step()
                    optimizer.zero_grad()
                    step += 1
                    losses.append(loss)
                    bar.update(len(numbers))
                    if step % settings.log_every == 0 or step % epoch_steps == 0:
                        mean = mean_loss(losses, step)  # the one place that waits for the GPU
                        losses.clear()
                        bar.set_postfix(epoch=epoch + 1, loss=f"{mean:.3f}", score=f"{best:.2f}")
                        append_metrics(
                            run, {"step": step, "epoch": epoch + 1, "loss": mean, "lr": rate}
                        )
            examples_per_s = round(examples / (time.perf_counter() - started), 1)

            scores = evaluate(model)
            append_metrics(
                run,
                {"step": step, "epoch": epoch + 1, **scores, "examples_per_s": examples_per_s},
            )
            if scores["score"] > best:
                best = scores["score"]
                state = {"step": step, "epoch": epoch + 1, "score": best}
                write_checkpoint(run / BEST, model_tensors(model), state)
            tensors = training_tensors(model, optimizer)
            write_checkpoint(run / LAST, tensors, {"step": step, "best": best})


def learning_rate(step: int, steps: int, settings: LoopSettings) -> float:
    """Return the rate of update `step` (from 0) of `steps`: linear warm-up, then half a cosine."""
    warmup = math.ceil(settings.warmup * steps)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def mean_loss(losses: Sequence[Tensor], step: int) -> float:
    """Return the mean of the losses that end with update `step`; ClipfeatError if one is NaN."""
    values = torch.stack(tuple(losses)).tolist()
    for number, value in enumerate(values, start=step - len(values) + 1):
        if not math.isfinite(value):
            raise ClipfeatError(
                f"the loss of update {number} is {value}; lower the rate (--set lr=...) or check "
                "the features with clipfeat store verify"
            )
    return sum(values) / len(values)
