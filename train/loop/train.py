"""The training loop that every task shares; it reads from top to bottom.

    optimizer -> [resume] -> for each epoch: updates, evaluation, checkpoint

A task brings a model, a way to read a batch, a loss and a score; the loop knows nothing else
of it. The order of examples depends on (seed, epoch) alone, the random numbers of an update on
(seed, update, process), and a checkpoint says which update it was written after: a run that was
killed at any instant goes on as if it never was.
"""

import contextlib
import functools
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Int
from torch import Tensor, nn
from tqdm import tqdm

from ...base.errors import ClipfeatError
from ..runs.folder import BAD_BATCH, BEST, EVENTS, append_metrics, rewind_metrics
from ..runs.jsonfile import field
from ..settings import LoopSettings
from .batches import Numbers, Order, prefetch
from .checkpoint import load_training, model_tensors, write_checkpoint, write_training
from .devices import memory_errors
from .optimizer import make_optimizer
from .profile import LoopTimes
from .schedule import learning_rate, total_updates, updates_an_epoch
from .tensorboard import EventWriter


@runtime_checkable
class Batch(Protocol):
    """A batch, as far as the loop knows it: a NamedTuple of tensors."""

    def to(self, device: torch.device) -> Any:
        """Return the batch with its tensors on `device`."""
        ...

    def _asdict(self) -> dict[str, Any]: ...


B = TypeVar("B", bound=Batch)


def train(
    model: nn.Module,
    settings: LoopSettings,
    *,
    run: Path,
    accelerator: Accelerator,
    order: Order,
    read_batch: Callable[[Numbers, int], B],
    loss_of: Callable[[nn.Module, B], Tensor],
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None,
) -> LoopTimes:
    """Train `model`, or go on with training it, until `run` holds its best checkpoint.

    `read_batch` takes example numbers and the epoch, on which what is random about a batch may
    depend, and runs in a thread; `loss_of` returns the mean loss of a batch; `evaluate` returns
    named numbers, of which "score" (higher is better) picks the best checkpoint; without it the
    last one counts as the best. With several processes each computes its part of every batch.
    Returns where the time went. Raises ClipfeatError where a loss is not finite or memory does
    not suffice.
    """
    model, optimizer = accelerator.prepare(model, make_optimizer(model, settings))
    plain = accelerator.unwrap_model(model)  # without the wrapper of several processes
    examples = len(order.image_of_example)
    epoch_steps = updates_an_epoch(settings, examples)
    steps = total_updates(settings, examples)

    step, epoch, best = 0, 0, -math.inf
    state = load_training(run, plain, optimizer)
    if state is not None:
        step, best = field(state, "step", int, run), field(state, "best", float, run)
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(field(state, "scaler", dict, run))
        say(accelerator, f"going on after update {step} of {steps} of {run}")
    if accelerator.is_main_process:
        rewind_metrics(run, step)

    def read_parts(numbers: Numbers, epoch: int) -> list[tuple[float, B]]:
        """Return this process's parts of a batch, each with its share of the whole batch."""
        parts = np.array_split(numbers, accelerator.num_processes * settings.accumulate)
        first = accelerator.process_index * settings.accumulate
        mine = parts[first : first + settings.accumulate]
        # A process without an example computes one that counts nothing: all must take part.
        full = [part for part in mine if len(part)] or [numbers[:1]]
        return [
            (len(p) / len(numbers) if len(mine[0]) else 0.0, read_batch(p, epoch)) for p in full
        ]

    def log(numbers: Mapping[str, Any]) -> None:
        """Write down numbers of this update, once however many processes there are."""
        if events is not None:
            record = {"step": step, "epoch": epoch + 1, **numbers}
            append_metrics(run, record)
            events.write(record)

    def save() -> None:
        if accelerator.is_main_process:
            scaler = {} if accelerator.scaler is None else accelerator.scaler.state_dict()
            state = {"step": step, "best": best, "scaler": scaler}
            write_training(run, plain, optimizer, state)

    times = LoopTimes()
    bar = tqdm(
        total=settings.batch_size * steps,
        initial=settings.batch_size * step,
        unit=" examples",
        disable=None if accelerator.is_main_process else True,
    )
    writes = accelerator.is_main_process and step < steps
    events = EventWriter(run / EVENTS, purge_step=step + 1) if writes else None
    closing = contextlib.closing(events) if events else contextlib.nullcontext()
    remedy = (
        f"a batch of {settings.batch_size} is computed in {settings.accumulate} parts; type --set "
        f"accumulate={2 * settings.accumulate}, which leaves the batch as it is, or lower batch_size"
    )
    with bar, closing, memory_errors(remedy):
        while step < steps:
            epoch, position = divmod(step, epoch_steps)
            batches = order.batches(size=settings.batch_size, seed=settings.seed, epoch=epoch)
            batches = batches[position : position + steps - step]
            read = functools.partial(read_parts, epoch=epoch)
            model.train()
            started = times.start_epoch()
            unlogged: list[tuple[Numbers, Tensor]] = []
            with contextlib.closing(prefetch(batches, read)) as stream:
                for numbers, parts in zip(batches, times.watched(stream), strict=True):
                    seed_update(settings.seed, step, accelerator.process_index)
                    rate = learning_rate(step, steps, settings)
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                    loss = torch.zeros((), device=accelerator.device)
                    for number, (share, batch) in enumerate(parts, start=1):
                        last = number == len(parts)  # gradients of processes meet once
                        with contextlib.nullcontext() if last else accelerator.no_sync(model):
                            part_loss = loss_of(model, batch.to(accelerator.device)) * share
                            # Gradients are averaged over processes, and shares are of the batch.
                            accelerator.backward(part_loss * accelerator.num_processes)
                        loss += part_loss.detach()
                    if settings.clip_norm:
                        accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm)
                    optimizer.step()
                    optimizer.zero_grad()
                    step += 1
                    unlogged.append((numbers, loss))
                    bar.update(len(numbers))

                    ends = step % epoch_steps == 0 or step == steps
                    saves = step % settings.checkpoint_every == 0
                    if step % settings.log_every == 0 or saves or ends:
                        mean = mean_loss(unlogged, step, epoch, accelerator, run, read_batch)
                        unlogged.clear()
                        wait = f"{times.waited_percent:.1f}%"
                        bar.set_postfix(
                            epoch=epoch + 1, loss=f"{mean:.3f}", score=f"{best:.2f}", data_wait=wait
                        )
                        log({"loss": mean, "lr": rate})
                    if saves and not ends:
                        save()
            speed = sum(map(len, batches)) / (time.perf_counter() - started)

            with times.evaluating():
                scores = {} if evaluate is None else evaluate(plain)
            rates = {"examples_per_s": round(speed, 1), "data_wait": times.waited_percent}
            log({**scores, **rates})
            if evaluate is None or scores["score"] > best:
                best = scores.get("score", best)
                if accelerator.is_main_process:
                    state = {"step": step, "epoch": epoch + 1, **scores}
                    write_checkpoint(run / BEST, model_tensors(plain), state)
            save()
    accelerator.wait_for_everyone()
    return times


def say(accelerator: Accelerator, text: str) -> None:
    """Tell the person, once however many processes there are."""
    if accelerator.is_main_process:
        print(text, file=sys.stderr)


def seed_update(seed: int, step: int, process: int) -> None:
    """Make torch's random numbers, those of dropout, a function of seed, update and process."""
    state = np.random.SeedSequence((seed, step, process)).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]))


def mean_loss(
    unlogged: Sequence[tuple[Int[np.ndarray, " _"], Tensor]],
    step: int,
    epoch: int,
    accelerator: Accelerator,
    run: Path,
    read_batch: Callable[[Numbers, int], Batch],
) -> float:
    """Return the mean loss of the updates that end with `step`: the one place that waits for it.

    Raises ClipfeatError where one is not finite; that update's batch is then in the run folder.
    """
    losses = torch.stack([loss for _, loss in unlogged])
    # each process has its part of the loss
    values: list[float] = torch.as_tensor(accelerator.reduce(losses, "sum")).tolist()
    for number, value in enumerate(values, start=step - len(values) + 1):
        if not math.isfinite(value):
            numbers, _ = unlogged[number - step - 1]
            if accelerator.is_main_process:
                state = {"update": number, "loss": str(value), "examples": numbers.tolist()}
                write_checkpoint(run / BAD_BATCH, read_batch(numbers, epoch)._asdict(), state)
            raise ClipfeatError(
                f"the loss of update {number} is {value}; its batch is in {run / BAD_BATCH}; lower "
                "the rate (--set lr=...) or check the features with clipfeat store verify"
            )
    return sum(values) / len(values)
