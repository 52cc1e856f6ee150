"""How a process behaves that another one has started to work for it."""

import contextlib
import multiprocessing as mp
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Protocol

import torch

from ...base.errors import ClipfeatError, ExtractError
from ..backbones.backbone import Backbone, choose_batch_size
from ..backbones.weights import load_backbone
from ..planning.plan import BackboneSpec, Job, ShardTask
from ..planning.recipe import Recipe
from .batches import Spent, Step, named_images
from .pipeline import run_tasks


def become_a_child() -> None:
    """Leave Ctrl-C to the parent, which ends its children, and end when it is gone.

    A parent that is killed cannot end anybody; a child that went on would write beside a new run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


MAX_DEATHS = 3  # of processes over one shard, before it is taken for the cause


class Executor(Protocol):
    """What computes the shards of a run."""

    def batch_size(self, recipe: Recipe, size: tuple[int, int]) -> int:
        """Return how many images of (height, width) pixels to compute at once."""
        ...

    def run(self, tasks: tuple[ShardTask, ...], job: Job) -> Generator[Step, None, None]:
        """Run every task; yields as batches go down."""
        ...


class Here:
    """This process, on the backbone's own device."""

    def __init__(self, backbone: Backbone):
        self._backbone = backbone

    def batch_size(self, recipe: Recipe, size: tuple[int, int]) -> int:
        return choose_batch_size(self._backbone, recipe, size)

    def run(self, tasks: tuple[ShardTask, ...], job: Job) -> Generator[Step, None, None]:
        return run_tasks(tasks, job, self._backbone)


class Probe(NamedTuple):
    """The question how many images of `size`, (height, width) pixels, fit a device."""

    recipe: Recipe
    size: tuple[int, int]


class Team:
    """One spawned process a device; this process itself touches none of the devices.

    They start at once, since that takes seconds. `load` comes when the weights are known to be
    there and right, then perhaps `batch_size`, then `run`. A context manager that ends them.
    """

    def __init__(self, devices: tuple[str, ...], threads: int):
        self._threads = threads  # that compute in each, if its device is the CPU
        self._told: list[BackboneSpec | Job] = []  # what a new process must hear as well
        self._workers: list[Worker] = []
        for device in devices:
            self._workers.append(Worker(device, threads))

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        for worker in self._workers:
            worker.end()

    def load(self, spec: BackboneSpec) -> None:
        """Have every process load its backbone."""
        self._tell(spec)

    def _tell(self, message: BackboneSpec | Job) -> None:
        self._told.append(message)
        for worker in self._workers:
            worker.send(message)

    def batch_size(self, recipe: Recipe, size: tuple[int, int]) -> int:
        """Ask the first process; raises ExtractError if it dies over it."""
        first = self._workers[0]
        first.send(Probe(recipe, size))
        try:
            answer = first.connection.recv()
        except (EOFError, OSError):
            raise ExtractError(first.obituary()) from None
        if isinstance(answer, str):
            raise ExtractError(answer)
        return answer

    def run(self, tasks: tuple[ShardTask, ...], job: Job) -> Generator[Step, None, None]:
        """Run tasks, each process taking the next one when it is free.

        Steps come in any order; the store they make is the same. What a process had in hand when
        it died is done by another. Raises ExtractError if MAX_DEATHS of them die over one shard:
        what is down stays down, and the same command goes on from there.
        """
        self._tell(job)
        todo = deque(tasks)
        deaths: dict[int, int] = {}  # by shard number
        workers = self._workers
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
                            workers.append(self._successor(worker))
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
            self._end()  # before the caller clears up after them

    def _successor(self, dead: "Worker") -> "Worker":
        worker = Worker(dead.device, self._threads)
        for message in self._told:
            worker.send(message)
        return worker


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

    def __init__(self, device: str, threads: int):
        context = mp.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.device = device
        self.in_hand: list[ShardTask] = []  # in the order taken
        self.is_done = False  # it has been told to end
        self._begun: list[Step] = []  # of the shard that it is at
        self._process = context.Process(target=_work, args=(device, threads, theirs), daemon=True)
        with _no_ctrl_c():
            self._process.start()
        theirs.close()  # so that its death is the end of the file here

    def send(self, message: Any) -> None:
        with contextlib.suppress(OSError):  # it has died; its end of the pipe says so next
            self.connection.send(message)

    def give(self, task: ShardTask | None) -> None:
        self.send(task)
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


@contextlib.contextmanager
def _no_ctrl_c() -> Iterator[None]:
    """Start a process in this block: it does not see Ctrl-C, not even before it can ignore it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(device: str, threads: int, connection: Connection) -> None:
    """Run tasks on one device until there are no more, or the parent is gone."""
    become_a_child()
    torch.set_num_threads(threads)
    try:
        backbone, _ = load_backbone(connection.recv(), device)
        while isinstance(message := connection.recv(), Probe):
            connection.send(choose_batch_size(backbone, message.recipe, message.size))
        while task := _ask(connection):
            for step in run_tasks(_stream(task, connection), message, backbone):
                connection.send(step)
    except (ClipfeatError, OSError) as error:
        connection.send(str(error))
    except EOFError:
        pass  # the parent has gone


def _ask(connection: Connection) -> ShardTask | None:
    connection.send(None)
    return connection.recv()


def _stream(task: ShardTask | None, connection: Connection) -> Iterator[ShardTask]:
    """Yield a task and those that come after it, until what is in hand is to be finished."""
    while task is not None:
        yield task
        task = _ask(connection)
