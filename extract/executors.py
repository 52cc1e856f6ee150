"""Where shard tasks run: in this process, or in one process for each device."""

import contextlib
import multiprocessing as mp
from collections import deque
from collections.abc import Generator, Iterator
from multiprocessing.connection import Connection, wait

import torch

from ..base.errors import ClipfeatError
from .backbone import Backbone
from .batches import Step
from .children import become_a_child
from .errors import ExtractError
from .job import Job
from .plan import ShardTask
from .profile import Spent
from .runner import run_tasks
from .weights import load_backbone

MAX_DEATHS = 3  # of processes over one shard, before it is taken for the cause


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

    Steps come in any order; the store they make is the same. What a process had in hand when it
    died is done by another. Raises ExtractError if MAX_DEATHS of them die over one shard: what
    is down stays down, and the same command goes on from there.
    """
    todo = deque(tasks)
    deaths: dict[int, int] = {}  # by shard number
    workers = [Worker(job, device, len(devices)) for device in devices]
    try:
        while workers:
            ready = wait([worker.connection for worker in workers])
            for worker in [worker for worker in workers if worker.connection in ready]:
                try:
                    message = worker.connection.recv()
                except (EOFError, OSError):
                    workers.remove(worker)
                    if worker.in_hand:
                        _count_death(deaths, worker)
                        yield worker.undone()
                        todo.extendleft(reversed(worker.in_hand))
                        workers.append(Worker(job, worker.device, len(devices)))
                    elif not worker.is_done:
                        raise ExtractError(worker.obituary()) from None
                    continue
                if isinstance(message, str):
                    raise ExtractError(message)
                if message is None:
                    worker.give(todo.popleft() if todo else None)
                else:
                    worker.note(message)
                    yield message
    finally:
        for worker in workers:
            worker.end()


def _count_death(deaths: dict[int, int], worker: "Worker") -> None:
    """Count a death over the shard that a worker was at; raise ExtractError at the third."""
    task = worker.in_hand[0]
    number = task.shard.number
    deaths[number] = deaths.get(number, 0) + 1
    if deaths[number] == MAX_DEATHS:
        ids = [image.image_id for image in task.images]
        names = ", ".join(map(repr, ids[:3])) + (f" ... {ids[-1]!r}" if len(ids) > 3 else "")
        raise ExtractError(
            f"{worker.obituary()}; {MAX_DEATHS} have died over the same {len(ids)} images "
            f"({names}), so the run stops"
        )


class Worker:
    """A process with one device, and what it has in hand."""

    def __init__(self, job: Job, device: str, devices: int):
        context = mp.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.device = device
        self.in_hand: list[ShardTask] = []  # in the order taken
        self.is_done = False  # it has been told that there are no more tasks
        self._begun: list[Step] = []  # of the shard that it is at
        cores = max(1, torch.get_num_threads() // devices)
        # Not a daemon: those may have no children, and it has decoders.
        self._process = context.Process(target=_work, args=(job, device, cores, theirs))
        self._process.start()
        theirs.close()  # so that its death is the end of the file here

    def give(self, task: ShardTask | None) -> None:
        with contextlib.suppress(OSError):  # it has died; its end of the pipe says so next
            self.connection.send(task)
        if task is None:
            self.is_done = True
        else:
            self.in_hand.append(task)

    def note(self, step: Step) -> None:
        """Strike out the task that a step has finished."""
        self._begun.append(step)
        if step.receipt is not None:
            done = step.receipt.shard
            self.in_hand = [task for task in self.in_hand if task.shard.number != done]
            self._begun = []

    def undone(self) -> Step:
        """Return a step that takes back what was said of a shard that is not down."""
        images, refused, stored = (-sum(step[k] for step in self._begun) for k in range(3))
        return Step(images, refused, stored, Spent(), None)

    def obituary(self) -> str:
        self._process.join()
        return (
            f"a worker process on {self.device} died (exit code {self._process.exitcode}; out of "
            f"memory?); run the same command again to go on, with a smaller --batch-size perhaps"
        )

    def end(self) -> None:
        self._process.terminate()
        self._process.join()


def _work(job: Job, device: str, cores: int, connection: Connection) -> None:
    """Run tasks on one device until there are no more, or the parent is gone."""
    become_a_child()
    torch.set_num_threads(cores)
    try:
        backbone, _ = load_backbone(job.backbone, device)
        for step in run_tasks(_take(connection), job, backbone):
            connection.send(step)
    except (ClipfeatError, OSError) as error:
        connection.send(str(error))


def _take(connection: Connection) -> Iterator[ShardTask]:
    """Ask for tasks until there are no more."""
    while True:
        connection.send(None)
        task = connection.recv()
        if task is None:
            return
        yield task
