"""Open a run's folder to train in it, once however many processes there are."""

import contextlib
import dataclasses
import functools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Int
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from ..base.errors import ClipfeatError, UsageError
from ..base.jsonio import field, write_json
from ..featstore import FeatureStore
from .batches import Numbers, Order, cut, prefetch, share_out
from .checkpoint import load_training, model_tensors, write_checkpoint, write_training
from .devices import memory_errors, precision_errors
from .log import LoopTimes, log_nothing, open_log
from .run import (
    BAD_BATCH,
    BEST,
    VOCABULARY,
    RunCard,
    data_digests,
    locked,
    require_same_run,
    write_card,
)
from .schedule import learning_rate, make_optimizer, total_updates, updates_an_epoch
from .settings import LoopSettings

logger = logging.getLogger(__name__)


@runtime_checkable
class Vocabulary(Protocol):
    """What a task read off its training data."""

    def record(self) -> dict[str, Any]:
        """Return the vocabulary as JSON holds it."""
        ...


def make_card(
    task: str, settings: LoopSettings, *, store: FeatureStore, data: Path, files: Sequence[Path]
) -> RunCard:
    """Return what makes a run the run it is; with other contents of `files` it would be another."""
    return RunCard(
        task=task,
        settings=dataclasses.asdict(settings),
        store_digest=store.digest,
        features=features_of(store),
        data_files=data_digests(tuple(dict.fromkeys(files))),
        store=str(store.path.resolve()),
        data=str(data.resolve()),
    )


def features_of(store: FeatureStore) -> dict[str, object]:
    """Return what made the grids of a store; vectors beside them do not count."""
    identity = store.identity.to_json()
    recipe = {key: value for key, value in identity["recipe"].items() if key != "vector"}
    return {"backbone": identity["backbone"], "recipe": recipe, "dim": identity["dim"]}


def require_features(store: FeatureStore, card: RunCard) -> None:
    """Raise UsageError unless the features of a store are made as those that a run learned from.

    The images may be others, as those of a test split are.
    """
    for part, ours in features_of(store).items():
        theirs = card.features.get(part)
        if theirs != ours:
            raise UsageError(
                f"the run was trained on features whose {part} is {theirs!r}, and that of "
                f"{store.path} is {ours!r}; extract these images as those of {card.store} were"
            )


@contextlib.contextmanager
def open_run(
    folder: Path, card: RunCard, vocabulary: Vocabulary, accelerator: Accelerator
) -> Iterator[None]:
    """Make the run's folder, or go on with the one there is; nobody else trains in it meanwhile.

    Raises UsageError where it holds another run, or another process is training it.
    """
    with contextlib.ExitStack() as held:
        with accelerator.main_process_first():
            require_same_run(folder, card)
            if accelerator.is_main_process:
                held.enter_context(locked(folder))
                write_card(folder, card)
                write_json(folder / VOCABULARY, vocabulary.record())
        yield


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
    step, best = _resume(run, plain, optimizer, accelerator, steps)
    times = LoopTimes()
    bar = tqdm(
        total=settings.batch_size * steps,
        initial=settings.batch_size * step,
        unit=" examples",
        disable=None if accelerator.is_main_process else True,
    )
    writes = accelerator.is_main_process and step < steps
    opened = open_log(run, step=step) if writes else contextlib.nullcontext(log_nothing)
    remedy = (
        f"a batch of {settings.batch_size} is computed in {settings.accumulate} parts; type --set "
        f"accumulate={2 * settings.accumulate}, which leaves the batch as it is, or lower batch_size"
    )
    with bar, opened as log, memory_errors(remedy), precision_errors(settings.precision):
        while step < steps:
            epoch, position = divmod(step, epoch_steps)
            batches = order.batches(size=settings.batch_size, seed=settings.seed, epoch=epoch)
            batches = batches[position : position + steps - step]
            read = functools.partial(_read_parts, read_batch, epoch, settings, accelerator)
            model.train()
            started = times.start_epoch()
            unlogged: list[tuple[Numbers, Tensor]] = []
            with contextlib.closing(prefetch(batches, read)) as stream:
                for numbers, parts in zip(batches, times.watched(stream), strict=True):
                    seed_update(settings.seed, step, accelerator.process_index)
                    rate = learning_rate(step, steps, settings)
                    loss = _update(model, optimizer, rate, parts, loss_of, settings, accelerator)
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
                        log({"loss": mean, "lr": rate}, step=step, epoch=epoch)
                    if saves and not ends:
                        _save(run, plain, optimizer, accelerator, step, best)
            speed = sum(map(len, batches)) / (time.perf_counter() - started)

            with times.evaluating():
                scores = {} if evaluate is None else evaluate(plain)
            rates = {"examples_per_s": round(speed, 1), "data_wait": times.waited_percent}
            log({**scores, **rates}, step=step, epoch=epoch)
            if evaluate is None or scores["score"] > best:
                best = scores.get("score", best)
                if accelerator.is_main_process:
                    state = {"step": step, "epoch": epoch + 1, **scores}
                    write_checkpoint(run / BEST, model_tensors(plain), state)
            _save(run, plain, optimizer, accelerator, step, best)
    accelerator.wait_for_everyone()
    return times


def _resume(
    run: Path, model: nn.Module, optimizer: Optimizer, accelerator: Accelerator, steps: int
) -> tuple[int, float]:
    """Go back to the run's last checkpoint; return the updates done, and the best score so far."""
    state = load_training(run, model, optimizer)
    if state is None:
        return 0, -math.inf
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(field(state, "scaler", dict, run))
    step = field(state, "step", int, run)
    say_once(accelerator, f"going on after update {step} of {steps} of {run}")
    return step, field(state, "best", float, run)


def _save(
    run: Path,
    model: nn.Module,
    optimizer: Optimizer,
    accelerator: Accelerator,
    step: int,
    best: float,
) -> None:
    """Write all that going on takes, once however many processes there are."""
    if accelerator.is_main_process:
        scaler = {} if accelerator.scaler is None else accelerator.scaler.state_dict()
        write_training(run, model, optimizer, {"step": step, "best": best, "scaler": scaler})


def _read_parts(
    read_batch: Callable[[Numbers, int], B],
    epoch: int,
    settings: LoopSettings,
    accelerator: Accelerator,
    numbers: Numbers,
) -> list[tuple[float, B]]:
    """Return this process's parts of a batch, each with its share of the whole batch."""
    parts = share_out(
        numbers,
        processes=accelerator.num_processes,
        process=accelerator.process_index,
        accumulate=settings.accumulate,
    )
    return [(share, read_batch(part, epoch)) for share, part in parts]


def _update(
    model: nn.Module,
    optimizer: Optimizer,
    rate: float,
    parts: Sequence[tuple[float, B]],
    loss_of: Callable[[nn.Module, B], Tensor],
    settings: LoopSettings,
    accelerator: Accelerator,
) -> Tensor:
    """Take one step of the optimizer; return this process's part of the batch's loss, shape ()."""
    total = torch.zeros((), device=accelerator.device)
    for number, (share, batch) in enumerate(parts, start=1):
        last = number == len(parts)  # gradients of processes meet once
        with contextlib.nullcontext() if last else accelerator.no_sync(model):
            loss = loss_of(model, batch.to(accelerator.device)) * share
            # Gradients are averaged over processes, and shares are of the batch.
            accelerator.backward(loss * accelerator.num_processes)
        total += loss.detach()
    if settings.clip_norm:
        accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    return total


def say_once(accelerator: Accelerator, text: str) -> None:
    """Tell the person, once however many processes there are."""
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


def part_size(settings: LoopSettings) -> int:
    """Return how many examples a part of a training batch has: what fits there fits here."""
    return math.ceil(settings.batch_size / settings.accumulate)


def each_batch(
    order: Numbers,
    read_batch: Callable[[Numbers], B],
    accelerator: Accelerator,
    *,
    size: int,
    doing: str,
) -> Iterator[tuple[Numbers, B]]:
    """Yield (example numbers, batch on the device) of this process's part of `order`."""
    mine = cut(order, size)[accelerator.process_index :: accelerator.num_processes]
    bar = tqdm(
        total=sum(map(len, mine)),
        unit=" examples",
        desc=doing,
        leave=False,
        disable=None if accelerator.is_main_process else True,
    )
    with bar, contextlib.closing(prefetch(mine, read_batch)) as stream:
        for numbers, batch in zip(mine, stream, strict=True):
            yield numbers, batch.to(accelerator.device)
            bar.update(len(numbers))
