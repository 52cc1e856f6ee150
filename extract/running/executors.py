"""Where shard tasks run: in this process, in one for each device, or on a cluster."""

import contextlib
import multiprocessing as mp
from collections import deque
from collections.abc import Generator, Iterator
from multiprocessing.connection import Connection, wait

import torch

from ...base.errors import ClipfeatError
from ..backbones.backbone import Backbone
from ..backbones.weights import load_backbone
from ..errors import ExtractError
from ..planning.job import Job
from ..planning.plan import ShardTask
from .batches import Step, named_images
from .children import become_a_child
from .profile import Spent
from .runner import run_tasks

MAX_DEATHS = 3  # of processes over one shard, before it is taken for the cause


def execute(
    tasks: tuple[ShardTask, ...],
    job: Job,
    devices: tuple[str, ...],
    backbone: Backbone,
    scheduler: str | None = None,
) -> Generator[Step, None, None]:
    """Run every task: on `backbone`'s own device if there is one, else a process a device.

    With the address of a dask scheduler, on that cluster's workers.
    """
    if scheduler is not None:
        from .cluster import run_on_cluster

        return run_on_cluster(tasks, job, scheduler)
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
                        yield worker.undone()
                        _count_death(deaths, worker)
                        todo.extendleft(reversed(worker.in_hand))
                        workers.append(Worker(job, worker.device, len(devices)))
                    elif not worker.is_done:
                        raise ExtractError(worker.obituary()) from None
                    continue
                if isinstance(message, str):
                    raise ExtractError(message)
                if message is None:
                    worker.give(_next_task(todo, deaths, worker))
                else:
                    worker.note(message)
                    yield message
    finally:
        for worker in workers:
            worker.end()


def _next_task(
    todo: deque[ShardTask], deaths: dict[int, int], worker: "Worker"
) -> ShardTask | None:
    """Return what a worker does next; None: first finish what it has in hand.

    A shard that a worker has died over is done alone, so that the next death has one cause.
    """
    if not todo:
        return None
    suspects = [task for task in (todo[0], *worker.in_hand) if task.shard.number in deaths]
    return None if worker.in_hand and suspects else todo.popleft()


def _count_death(deaths: dict[int, int], worker: "Worker") -> None:
    """Count a death over the shards that a worker had; raise ExtractError at the third of one."""
    for task in worker.in_hand:
        number = task.shard.number
        deaths[number] = deaths.get(number, 0) + 1
        if deaths[number] == MAX_DEATHS:
            raise ExtractError(
                f"{worker.obituary()}; {MAX_DEATHS} have died over the same "
                f"{named_images(task.images)}, so the run stops"
            )


class Worker:
    """A process with one device, and what it has in hand."""

    def __init__(self, job: Job, device: str, devices: int):
        context = mp.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.device = device
        self.in_hand: list[ShardTask] = []  # in the order taken
        self.is_done = False  # it has been told to end
        self._begun: list[Step] = []  # of the shard that it is at
        cores = max(1, torch.get_num_threads() // devices)
        self._process = context.Process(
            target=_work, args=(job, device, cores, theirs), daemon=True
        )
        self._process.start()
        theirs.close()  # so that its death is the end of the file here

    def give(self, task: ShardTask | None) -> None:
        with contextlib.suppress(OSError):  # it has died; its end of the pipe says so next
            self.connection.send(task)
        if task is not None:
            self.in_hand.append(task)
        elif not self.in_hand:
            self.is_done = True

    def note(self, step: Step) -> None:
        """Strike out the task that a step has finished."""
        self._begun.append(step)
        if step.receipt is not None:
            done = step.receipt.shard
            self.in_hand = [task for task in self.in_hand if task.shard.number != done]
            self._begun = []

    def undone(self) -> Step:
        """Return a step that takes back what was said of a shard that is not down, and says why."""
        images = sum(step.images for step in self._begun)
        refused = sum(step.refused for step in self._begun)
        stored = sum(step.bytes for step in self._begun)
        remark = f"{self._death()}; what it had in hand is done again"
        return Step(-images, -refused, -stored, Spent(), None, remark)

    def obituary(self) -> str:
        return (
            f"{self._death()}; run the same command again to go on, with a smaller --batch-size "
            f"perhaps"
        )

    def _death(self) -> str:
        self._process.join()
        code = self._process.exitcode
        return f"a worker process on {self.device} died (exit code {code}; out of memory?)"

    def end(self) -> None:
        self._process.terminate()
        self._process.join()


def _work(job: Job, device: str, cores: int, connection: Connection) -> None:
    """Run tasks on one device until there are no more, or the parent is gone."""
    become_a_child()
    torch.set_num_threads(cores)
    try:
        backbone, _ = load_backbone(job.backbone, device)
        while task := _ask(connection):
            for step in run_tasks(_stream(task, connection), job, backbone):
                connection.send(step)
    except (ClipfeatError, OSError) as error:
        connection.send(str(error))


def _ask(connection: Connection) -> ShardTask | None:
    connection.send(None)
    return connection.recv()


def _stream(task: ShardTask | None, connection: Connection) -> Iterator[ShardTask]:
    """Yield a task and those that come after it, until what is in hand is to be finished."""
    while task is not None:
        yield task
        task = _ask(connection)
