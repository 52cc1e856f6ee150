"""One process for each device of this machine, which take shards as they become free."""

import contextlib
import multiprocessing as mp
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import torch

from ...base.errors import ClipfeatError, ExtractError
from ...base.machine import cores_near
from ..backbones.backbone import choose_batch_size
from ..backbones.weights import load_backbone
from ..planning.plan import BackboneSpec, Job, ShardTask
from ..planning.recipe import Recipe
from .pipeline import run_tasks
from .results import BatchResult, list_images

# Images of many shapes leave holes in a GPU's memory; segments that can grow have fewer. What a user
# has set stays. (PyTorch, CUDA semantics, "Optimizing memory usage")
ALLOCATOR = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
MAX_DEATHS = 3  # of processes over one shard, before it is taken for the cause


class Probe(NamedTuple):
    """The question how many images of `size`, (height, width) pixels, fit a device."""

    recipe: Recipe
    size: tuple[int, int]


class ProcessExecutor:
    """One spawned process for each device; this process itself touches none of the devices.

    They start at once, since that takes seconds. `load` comes when the weights are known to be
    right, then perhaps `batch_size`, then `run`. A context manager that ends the processes.
    """

    def __init__(self, devices: tuple[str, ...], threads: int):
        self._threads = threads  # that compute in each, if its device is the CPU
        self._messages: list[BackboneSpec | Job] = []  # which a new process must get as well
        self._workers: list[Worker] = []
        for device in devices:
            self._workers.append(Worker(device, threads))

    def __enter__(self) -> "ProcessExecutor":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        for worker in self._workers:
            worker.end()

    def load(self, spec: BackboneSpec) -> None:
        """Have every process load its backbone."""
        self._send(spec)

    def _send(self, message: BackboneSpec | Job) -> None:
        self._messages.append(message)
        for worker in self._workers:
            worker.send(message)

    def batch_size(self, recipe: Recipe, size: tuple[int, int]) -> int:
        """Ask the first process; raises ExtractError if it dies over it."""
        first = self._workers[0]
        first.send(Probe(recipe, size))
        try:
            answer = first.connection.recv()
        except (EOFError, OSError):
            raise _death(first) from None
        if isinstance(answer, ExtractError):
            raise answer
        return answer

    def run(self, tasks: tuple[ShardTask, ...], job: Job) -> Generator[BatchResult, None, None]:
        """Run tasks, each process taking the next one when it is free.

        Results come in any order; the store they make is the same. The unfinished shards of a
        process that dies are reprocessed by another. Raises ExtractError if MAX_DEATHS of them die
        over one shard: what is written stays, and the same command resumes from there.
        """
        self._send(job)
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
                        if worker.unfinished:
                            yield worker.rollback()
                            _count_death(deaths, worker)
                            todo.extendleft(reversed(worker.unfinished))
                            workers.append(self._successor(worker))
                        elif not worker.is_done:
                            raise _death(worker) from None
                        continue
                    if isinstance(message, ExtractError):
                        raise message
                    if message is None:
                        worker.give(_next_task(todo, deaths, worker))
                    else:
                        worker.add(message)
                        yield message
        finally:
            self._end()  # before the caller clears up after them

    def _successor(self, dead: "Worker") -> "Worker":
        worker = Worker(dead.device, self._threads)
        for message in self._messages:
            worker.send(message)
        return worker


def _next_task(
    todo: deque[ShardTask], deaths: dict[int, int], worker: "Worker"
) -> ShardTask | None:
    """Return what a worker does next; None: first finish the tasks that it has.

    A shard that a worker has died over is done alone, so that the next death has one cause.
    """
    if not todo:
        return None
    suspects = [task for task in (todo[0], *worker.unfinished) if task.shard.number in deaths]
    return None if worker.unfinished and suspects else todo.popleft()


def _count_death(deaths: dict[int, int], worker: "Worker") -> None:
    """Count a death over the shards that a worker had; raise ExtractError at the third of one."""
    for task in worker.unfinished:
        number = task.shard.number
        deaths[number] = deaths.get(number, 0) + 1
        if deaths[number] == MAX_DEATHS:
            images = list_images(task.images)
            raise _death(
                worker, f"; {MAX_DEATHS} have died over the same {images}, so the run stops"
            )


def _death(worker: "Worker", more: str = "") -> ExtractError:
    return ExtractError(
        f"{worker.death_message()}; run the same command again to resume, with a smaller "
        f"--batch-size perhaps{more}",
        code="E-WORKER-DIED",
    )


class Worker:
    """A process with one device, and the tasks that it has not finished."""

    def __init__(self, device: str, threads: int):
        context = mp.get_context("spawn")
        self.connection, child_end = context.Pipe()
        self.device = device
        self.unfinished: list[ShardTask] = []  # in the order taken
        self.is_done = False  # it has been told to end
        self._results: list[BatchResult] = []  # of the shard that is not complete yet
        self._process = context.Process(
            target=_work, args=(device, threads, child_end), daemon=True
        )
        with _no_ctrl_c(), _environment(ALLOCATOR):
            self._process.start()
        child_end.close()  # so that its death is the end of the file here

    def send(self, message: Any) -> None:
        """Send a message, unless the process has died; its end of the pipe says so next."""
        with contextlib.suppress(OSError):
            self.connection.send(message)

    def give(self, task: ShardTask | None) -> None:
        """Answer the question for the next task."""
        self.send(task)
        if task is not None:
            self.unfinished.append(task)
        elif not self.unfinished:
            self.is_done = True

    def add(self, result: BatchResult) -> None:
        """Take note of a result, and of the task that it completes."""
        self._results.append(result)
        if result.receipt is not None:
            number = result.receipt.shard
            self.unfinished = [task for task in self.unfinished if task.shard.number != number]
            self._results = []

    def rollback(self) -> BatchResult:
        """Return what takes back the results of a shard that was not completed, and says why."""
        return BatchResult(
            images=-sum(result.images for result in self._results),
            refused=-sum(result.refused for result in self._results),
            bytes=-sum(result.bytes for result in self._results),
            warning=f"{self.death_message()}; its unfinished shards are reprocessed",
        )

    def death_message(self) -> str:
        """Return how the process died, for an error or a warning."""
        self._process.join()
        code = self._process.exitcode
        return f"a worker process on {self.device} died (exit code {code}; out of memory?)"

    def end(self) -> None:
        """End the process."""
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


@contextlib.contextmanager
def _environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """Start a process in this block: it has these environment variables, if they are not set."""
    new = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]


def _work(device: str, threads: int, connection: Connection) -> None:
    """Run tasks on one device until there are no more, or the parent is gone."""
    configure_worker(threads)
    try:
        backbone, _ = load_backbone(connection.recv(), device)
        while isinstance(message := connection.recv(), Probe):
            connection.send(choose_batch_size(backbone, message.recipe, message.size))
        stay_near(device, message.decoders)
        while task := _ask(connection):
            for result in run_tasks(_stream(task, connection), message, backbone):
                connection.send(result)
    except ClipfeatError as error:
        connection.send(ExtractError(str(error), code=error.code))
    except EOFError:
        pass  # the parent has gone
    except OSError as error:
        connection.send(ExtractError(str(error), code="E-WORKER-SYSTEM"))


def configure_worker(threads: int) -> None:
    """Leave Ctrl-C to the parent, which ends its children, and end when it is gone.

    A parent that is killed cannot end anybody; a child that went on would write beside a new run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)


def stay_near(device: str, cores: int) -> None:
    """Keep this thread, and what it starts, on `cores` or more that are near a GPU, if possible.

    Pixels of decoders then lie in the memory that the GPU reads fastest.
    """
    if not device.startswith("cuda"):
        return
    gpus = [_pci_address(index) for index in range(torch.cuda.device_count())]
    if near := cores_near(gpus[torch.device(device).index], gpus, cores):
        os.sched_setaffinity(0, near)


def _pci_address(gpu: int) -> str:
    """Return the address of a GPU as the system writes it; device function 0 is the GPU itself."""
    card = torch.cuda.get_device_properties(gpu)
    return f"{card.pci_domain_id:04x}:{card.pci_bus_id:02x}:{card.pci_device_id:02x}.0"


def _end_with_parent() -> None:
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _ask(connection: Connection) -> ShardTask | None:
    connection.send(None)
    return connection.recv()


def _stream(task: ShardTask | None, connection: Connection) -> Iterator[ShardTask]:
    """Yield a task and those that come after it, until those taken are to be finished first."""
    while task is not None:
        yield task
        task = _ask(connection)
