"""Where shard tasks run: in this process, or in one process for each device."""

import contextlib
import multiprocessing as mp
import os
import queue
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from ..base.errors import ClipfeatError
from .backbone import Backbone
from .errors import ExtractError
from .job import Job
from .plan import ShardTask
from .runner import Step, run_tasks
from .weights import load_backbone

POLL = 1.0  # seconds between looks at whether the other side is still alive


def execute(
    tasks: tuple[ShardTask, ...], job: Job, devices: tuple[str, ...], backbone: Backbone
) -> Generator[Step, None, None]:
    """Run every task: on `backbone`'s own device if there is one, else a process a device."""
    if len(devices) == 1:
        return run_tasks(tasks, job, backbone)
    return run_on_each(tasks, job, devices)


def run_on_each(
    tasks: tuple[ShardTask, ...], job: Job, devices: tuple[str, ...]
) -> Generator[Step, None, None]:
    """Run tasks in one spawned process a device, each taking the next task when it is free.

    Steps come in any order; the store they make is the same. Raises ExtractError if a process
    dies: what is down stays down, and the same command goes on from there.
    """
    context = mp.get_context("spawn")
    waiting: Any = context.Queue()
    steps: Any = context.Queue()
    for task in (*tasks, *[None] * len(devices)):
        waiting.put(task)
    cores = max(1, torch.get_num_threads() // len(devices))
    workers = [
        context.Process(target=_work, args=(job, device, cores, waiting, steps), daemon=True)
        for device in devices
    ]
    for worker in workers:
        worker.start()
    try:
        yield from _collect(steps, workers)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
        waiting.cancel_join_thread()


def _collect(steps: Any, workers: Sequence[BaseProcess]) -> Iterator[Step]:
    """Yield steps until every worker has said that it is done."""
    running = len(workers)
    while running:
        try:
            message = steps.get(timeout=POLL)
        except queue.Empty:
            dead = [worker for worker in workers if worker.exitcode not in (None, 0)]
            if dead:
                raise ExtractError(
                    f"a worker process died (exit code {dead[0].exitcode}; out of memory?); "
                    f"run the same command again to go on, with a smaller --batch-size perhaps"
                ) from None
            continue
        if isinstance(message, str):
            raise ExtractError(message)
        if message is None:
            running -= 1
        else:
            yield message


def _work(job: Job, device: str, cores: int, waiting: Any, steps: Any) -> None:
    """Run tasks on one device until there are no more, or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(cores)
    try:
        backbone, _ = load_backbone(job.backbone, device)
        for step in run_tasks(_take(waiting), job, backbone):
            steps.put(step)
        steps.put(None)
    except (ClipfeatError, OSError) as error:
        steps.put(str(error))


def _end_with_parent() -> None:
    """End this process when its parent is gone, which held the lock: a new run writes now."""
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _take(waiting: Any) -> Iterator[ShardTask]:
    """Yield tasks from the queue until it says that there are no more."""
    while True:
        with contextlib.suppress(queue.Empty):
            task = waiting.get(timeout=POLL)
            if task is None:
                return
            yield task
