"""Train a task and score its best checkpoint; it reads from top to bottom."""

import contextlib
import dataclasses
import functools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from jaxtyping import Int
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from ..base.errors import ClipfeatError
from ..base.jsonio import field, write_json
from ..base.text import is_url
from .batches import Numbers, cut, prefetch, split_microbatches
from .checkpoint import (
    load_model,
    load_training,
    model_tensors,
    read_checkpoint,
    write_checkpoint,
    write_training,
)
from .devices import (
    inference_errors,
    memory_errors,
    precision_errors,
    precision_of,
    require_precision,
    restored_random_state,
)
from .figures import draw_curves
from .log import LoopTimes, ProgressLines, log_nothing, open_log
from .optimizer import Learner, make_optimizer, require_layers, set_rate
from .run import (
    BAD_BATCH,
    BEST,
    CURVES,
    RESULT,
    SCORES,
    VOCABULARY,
    RunManifest,
    as_in_run,
    find_best,
    locked,
    require_same_run,
    write_manifest,
)
from .schedule import (
    is_evaluated,
    learning_rate,
    next_pause,
    total_updates,
    updates_an_epoch,
)
from .settings import AUTO, CHOSEN, LoopSettings
from .task import (
    Report,
    Task,
    TensorBatch,
    on_device,
    require_batch,
    require_loss,
    require_scores,
    require_task,
)
from .windows import (
    choose_window,
    describe_reading,
    fetch_ahead,
    fetched,
    require_window,
)

logger = logging.getLogger(__name__)

FETCHED_BATCHES = 32  # whose records are fetched together for evaluation

B = TypeVar("B", bound=TensorBatch)


def fit(task: Task[Any, Any], run: str | Path) -> tuple[dict[str, Any], LoopTimes]:
    """Train a task's model until `run` holds its best checkpoint, and score that.

    A run that was killed resumes from its last checkpoint, and one that was shorter is extended if
    the rates of its updates stay as they were. `run` then holds what `clipfeat.train.run` lists.
    Returns the result of `evaluate`, and where the time went. Raises UsageError if `run` holds
    another run or another process trains it, and if the task is wrong (E-TASK-...), ClipfeatError
    if a loss is not finite or memory does not suffice.
    """
    run = Path(run)
    require_task(task)
    require_layers(task.model, task.settings)
    accelerator = task.accelerator
    _decide(task, run)
    manifest = RunManifest.of(
        task.name,
        task.settings_record(),
        store=task.store,
        data=task.data,
        files=task.data_files,
    )
    with restored_random_state(accelerator.device), contextlib.ExitStack() as held:
        with accelerator.main_process_first():
            require_same_run(run, manifest, examples=len(task.order.image_of_example))
            if accelerator.is_main_process:
                held.enter_context(locked(run))
                write_manifest(run, manifest)
                write_json(run / VOCABULARY, task.vocabulary_record())
        times = train(task, run)
    return evaluate(task, run), times


def evaluate(task: Task[Any, Any], run: str | Path) -> dict[str, Any]:
    """Score the best checkpoint of `run`, and write its result, scores and curves there.

    `task.model` then has the weights of that checkpoint. Returns what RUN/result.json holds; of
    a group of processes, only the first one's counts.
    """
    run = Path(run)
    path = find_best(run)
    tensors, state = read_checkpoint(path)
    load_model(task.model, tensors, path)
    with inference_errors(task.settings.precision):
        report: Report = task.report(task.model, run, field(state, "epoch", int, path))
    if task.accelerator.is_main_process:
        write_json(run / RESULT, report.result)
        if report.scores is not None:
            write_json(run / SCORES, report.scores)
        draw_curves(run, run / CURVES)
    return report.result


def _decide(task: Task[Any, Any], run: Path) -> None:
    """Set what the task's settings leave to the run, its window and its precision.

    They are those of the run in the folder, or the ones chosen for this store and this device. How a
    store behind a URL is read is logged.
    """
    settings, store, accelerator = as_in_run(task.settings, run), task.store, task.accelerator
    window, precision = settings.window_shards, settings.precision
    if window == CHOSEN:
        window = choose_window(store, task.order)
    if precision == AUTO:
        precision = precision_of(accelerator)
    # Caches and GPUs of several machines may differ.
    window, precision = broadcast_object_list([window, precision])
    require_precision(accelerator, precision, run)
    task.settings = dataclasses.replace(settings, window_shards=window, precision=precision)
    task.order = dataclasses.replace(task.order, window_shards=window)
    require_window(store, task.order)
    if is_url(store.location):
        log_once(accelerator, describe_reading(store, task.order))


def train(task: Task[Any, Any], run: Path) -> LoopTimes:
    """Train a task's model, or resume its training, until `run` holds its best checkpoint.

    With several processes each computes its part of every batch. Returns where the time went.
    """
    settings: LoopSettings = task.settings
    accelerator, order = task.accelerator, task.order
    model, optimizer = accelerator.prepare(task.model, make_optimizer(task.model, settings))
    learner = Learner.of(accelerator.unwrap_model(model), optimizer, settings)
    examples = len(order.image_of_example)
    epoch_steps = updates_an_epoch(settings, examples)
    steps = total_updates(settings, examples)
    step, best = _resume(run, learner, accelerator, steps)
    times = LoopTimes()
    bar = tqdm(
        total=settings.batch_size * steps,
        initial=settings.batch_size * step,
        unit=" examples",
        disable=None if accelerator.is_main_process else True,
    )
    writes = accelerator.is_main_process and step < steps
    lines = ProgressLines(steps, epoch_steps, wanted=writes and bar.disable)
    opened = open_log(run, step=step) if writes else contextlib.nullcontext(log_nothing)
    parts = settings.gradient_accumulation_steps
    remedy = (
        f"a batch of {settings.batch_size} is computed in {parts} parts; type --set "
        f"gradient_accumulation_steps={2 * parts}, which leaves the batch as it is, or lower "
        "batch_size"
    )
    with bar, opened as log, memory_errors(remedy), precision_errors(precision_of(accelerator)):
        while step < steps:
            epoch, position = divmod(step, epoch_steps)
            batches = order.batches(size=settings.batch_size, seed=settings.seed, epoch=epoch)
            pause = next_pause(step, steps, epoch_steps, settings)
            batches = batches[position : position + pause - step]
            read = functools.partial(_read_microbatches, task, epoch)
            model.train()
            started = times.start()
            unlogged: list[tuple[Numbers, Tensor]] = []
            with (
                contextlib.closing(fetched(task, batches, epoch)) as ready,
                contextlib.closing(prefetch(ready, read)) as stream,
            ):
                for numbers, microbatches in zip(batches, times.watched(stream), strict=True):
                    seed_update(settings.seed, step, accelerator.process_index)
                    rate = learning_rate(step, steps, settings)
                    loss = _update(task, model, optimizer, rate, microbatches)
                    step += 1
                    if learner.average is not None:
                        learner.average.update(step)
                    unlogged.append((numbers, loss))
                    bar.update(len(numbers))

                    saves = step % settings.checkpoint_every == 0
                    if step % settings.log_every == 0 or saves or step == pause:
                        mean = mean_loss(unlogged, step, epoch, task, run)
                        unlogged.clear()
                        wait = f"{times.waited_percent:.1f}%"
                        bar.set_postfix(
                            epoch=epoch + 1, loss=f"{mean:.3f}", score=f"{best:.2f}", data_wait=wait
                        )
                        log({"loss": mean, "lr": rate}, step=step, epoch=epoch)
                        if step < pause:
                            lines.add(step, epoch, best, f"loss {mean:.3f}, data wait {wait}")
                    if saves and step < pause:
                        _save(run, learner, accelerator, step, best)
            speed = sum(map(len, batches)) / (time.perf_counter() - started)

            if is_evaluated(step, steps, epoch_steps, settings):
                with times.evaluating():
                    scores, best = _evaluate_now(task, learner, run, step, epoch, best)
                rates = {"examples_per_s": round(speed, 1), "data_wait": times.waited_percent}
                log({**scores, **rates}, step=step, epoch=epoch)
            _save(run, learner, accelerator, step, best)
            lines.add(step, epoch, best, f"{speed:.1f} examples/s")
    accelerator.wait_for_everyone()
    return times


def _resume(run: Path, learner: Learner, accelerator: Accelerator, steps: int) -> tuple[int, float]:
    """Load the run's last checkpoint; return the updates done, and the best score so far."""
    state = load_training(run, learner)
    if state is None:
        return 0, -math.inf
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(field(state, "scaler", dict, run))
    step = field(state, "step", int, run)
    log_once(accelerator, f"resuming {run} after update {step} of {steps}")
    return step, field(state, "best", float, run)


def _save(run: Path, learner: Learner, accelerator: Accelerator, step: int, best: float) -> None:
    """Write all that resuming needs, once for all processes."""
    if accelerator.is_main_process:
        scaler = {} if accelerator.scaler is None else accelerator.scaler.state_dict()
        write_training(run, learner, {"step": step, "best": best, "scaler": scaler})


def _evaluate_now(
    task: Task[Any, Any], learner: Learner, run: Path, step: int, epoch: int, best: float
) -> tuple[Mapping[str, float], float]:
    """Score the model, and write it as the run's best checkpoint if no score before was as high.

    Returns the scores, and the best one so far.
    """
    with learner.evaluated():
        scores = require_scores(task.evaluate(learner.model))
        if scores.get("score", math.inf) <= best:
            return scores, best
        if task.accelerator.is_main_process:
            state = {"step": step, "epoch": epoch + 1, **scores}
            write_checkpoint(run / BEST, model_tensors(learner.model), state)
    return scores, scores.get("score", best)


def _read_microbatches(
    task: Task[Any, Any], epoch: int, numbers: Numbers
) -> list[tuple[float, TensorBatch]]:
    """Return this process's parts of a batch, each with its share of the whole batch."""
    parts = split_microbatches(
        numbers,
        processes=task.accelerator.num_processes,
        process=task.accelerator.process_index,
        microbatches=task.settings.gradient_accumulation_steps,
    )
    return [(share, require_batch(task.batch(part, epoch))) for share, part in parts]


def _update(
    task: Task[Any, Any],
    model: nn.Module,
    optimizer: Optimizer,
    rate: float,
    microbatches: Sequence[tuple[float, TensorBatch]],
) -> Tensor:
    """Take one step of the optimizer; return this process's part of the batch's loss, shape ()."""
    settings, accelerator = task.settings, task.accelerator
    total = torch.zeros((), device=accelerator.device)
    for number, (share, batch) in enumerate(microbatches, start=1):
        last = number == len(microbatches)  # processes exchange their gradients once
        with contextlib.nullcontext() if last else accelerator.no_sync(model):
            loss = require_loss(task.loss(model, on_device(batch, accelerator.device))) * share
            # Gradients are averaged over processes, and shares are of the batch.
            accelerator.backward(loss * accelerator.num_processes)
        total += loss.detach()
    if settings.clip_norm:
        accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm)
    if settings.clip_value:
        accelerator.clip_grad_value_(model.parameters(), settings.clip_value)
    set_rate(optimizer, rate)
    optimizer.step()
    optimizer.zero_grad()
    return total


def log_once(accelerator: Accelerator, text: str) -> None:
    """Log a message in the first process of a group only."""
    if accelerator.is_main_process:
        logger.info(text)


def seed_update(seed: int, step: int, process: int) -> None:
    """Make torch's random numbers, those of dropout, a function of seed, update and process."""
    state = np.random.SeedSequence((seed, step, process)).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]))


def mean_loss(
    unlogged: Sequence[tuple[Int[np.ndarray, " _"], Tensor]],
    step: int,
    epoch: int,
    task: Task[Any, Any],
    run: Path,
) -> float:
    """Return the mean loss of the updates that end with `step`: the one place that waits for it.

    Raises ClipfeatError if one is not finite; the batch of that update is written into the run.
    """
    losses = torch.stack([loss for _, loss in unlogged])
    # Each process has its part of the loss.
    values: list[float] = torch.as_tensor(task.accelerator.reduce(losses, "sum")).tolist()
    for number, value in enumerate(values, start=step - len(values) + 1):
        if not math.isfinite(value):
            numbers, _ = unlogged[number - step - 1]
            if task.accelerator.is_main_process:
                state = {"update": number, "loss": str(value), "examples": numbers.tolist()}
                write_checkpoint(run / BAD_BATCH, task.batch(numbers, epoch)._asdict(), state)
            raise ClipfeatError(
                f"the loss of update {number} is {value}; its batch is in {run / BAD_BATCH}; lower "
                "the rate (--set lr=...) or check the features with clipfeat store verify",
                code="E-RUN-LOSS",
            )
    return sum(values) / len(values)


def eval_batch_size(settings: LoopSettings) -> int:
    """Return how many examples a microbatch of training has: as many fit in evaluation."""
    return math.ceil(settings.batch_size / settings.gradient_accumulation_steps)


def each_batch(
    order: Numbers,
    read_batch: Callable[[Numbers], B],
    accelerator: Accelerator,
    *,
    size: int,
    doing: str,
    fetch: Callable[[Numbers], None],
) -> Iterator[tuple[Numbers, B]]:
    """Yield (example numbers, batch on the device) of this process's part of `order`.

    `fetch` brings what `read_batch` will read of many examples to this machine, if it is not here.
    """
    mine = cut(order, size)[accelerator.process_index :: accelerator.num_processes]
    bar = tqdm(
        total=sum(map(len, mine)),
        unit=" examples",
        desc=doing,
        leave=False,
        disable=None if accelerator.is_main_process else True,
    )
    groups = [mine[n : n + FETCHED_BATCHES] for n in range(0, len(mine), FETCHED_BATCHES)]
    ahead = fetch_ahead(groups, lambda group: [np.concatenate(group)], fetch)
    with (
        bar,
        contextlib.closing(ahead),
        contextlib.closing(prefetch(ahead, read_batch)) as stream,
    ):
        for numbers, batch in zip(mine, stream, strict=True):
            yield numbers, on_device(batch, accelerator.device)
            bar.update(len(numbers))
