"""Shard tasks on an existing dask cluster: this process plans and finishes, its workers compute.

Only tasks and receipts travel. Workers read the images and write the shards' files themselves,
so all of them must see the folder that the store lies in, and this process too.
"""

import contextlib
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

from distributed import CancelledError, Future, KilledWorker, as_completed

from ...featstore.writing.journal import Journal
from ..backbones.batch_size import cpu_images
from ..errors import ExtractError
from ..planning.job import BackboneSpec, Job
from ..planning.plan import ShardTask
from ..recipes.recipe import Recipe
from . import cluster_worker
from .batches import Step, named_images
from .cluster_survey import Cluster, connected, survey
from .cluster_worker import Setup, Work, run_shards

AHEAD = 2  # pieces of work submitted for each worker: the next is there when one is done
# What a piece takes: its shards run through a pipeline that costs seconds to start and drain, and
# all of it is done again if its worker dies.
PIECE_SECONDS = 30.0


class OnCluster:
    """The workers of the dask cluster whose scheduler has an address."""

    def __init__(self, address: str, spec: BackboneSpec):
        self._address = address
        self._spec = _portable_spec(spec)

    def batch_size(self, recipe: Recipe, size: tuple[int, int]) -> int:
        """Return how many images of (height, width) pixels to compute at once, on any worker."""
        with connected(self._address) as client:
            cluster = survey(client)
            if cluster.device == "cpu":
                return cpu_images(cluster.cores)
            future = client.submit(
                cluster_worker.batch_size,
                self._spec,
                cluster.device,
                recipe,
                size,
                resources=cluster.resources,
                pure=False,
            )
            return future.result()

    def run(self, tasks: tuple[ShardTask, ...], job: Job) -> Generator[Step, None, None]:
        """Run every task; yields a step a shard."""
        return run_on_cluster(tasks, job, self._address)


def run_on_cluster(
    tasks: tuple[ShardTask, ...], job: Job, address: str
) -> Generator[Step, None, None]:
    """Run tasks on the workers of a cluster; yields a step a shard, in any order.

    A worker is given a few shards at a time; their steps come when the last of them is down.
    What a worker had been given when it died, dask gives to another, until more have died over it
    than its scheduler allows (distributed.scheduler.allowed-failures, 3 by default: the fourth).
    Raises ExtractError then, if a worker fails, or if one does not see store or images.
    """
    with connected(address) as client:
        cluster = survey(client)
        work = _work(job, cluster)
        image = cluster_worker.first_readable(tasks, work.job)
        problems = client.run(cluster_worker.check, work, image, workers=list(cluster.workers))
        for worker, problem in problems.items():
            if problem:
                raise ExtractError(f"--scheduler: worker {worker} {problem}")

        todo = deque(tasks)
        in_hand: dict[Future, tuple[ShardTask, ...]] = {}
        completed = as_completed(loop=client.loop)

        def submit(seconds: float) -> None:
            workers = max(1, len(client.nthreads()))  # they come and go
            while todo and len(in_hand) < AHEAD * workers:
                size = piece_size(len(todo), workers, seconds)
                piece = tuple(todo.popleft() for _ in range(size))
                future = client.submit(
                    run_shards, piece, work, resources=cluster.resources, pure=False
                )
                in_hand[future] = piece
                completed.add(future)

        submit(PIECE_SECONDS)
        for future in completed:
            piece = in_hand.pop(future)
            with _one_line(address, piece):
                steps: list[Step] = future.result()
                submit(sum(step.spent.wall for step in steps) / len(steps))
            yield from steps


def piece_size(todo: int, workers: int, seconds: float) -> int:
    """Return how many of `todo` shards, which take `seconds` each, to give a worker at once.

    Fewer towards the end, so that all workers end together.

    >>> piece_size(80_000, 16, 0.1), piece_size(400, 16, 0.1), piece_size(9, 16, 0.1)
    (300, 12, 1)
    """
    return max(1, min(int(PIECE_SECONDS / max(seconds, 1e-3)), todo // (AHEAD * workers)))


def _work(job: Job, cluster: Cluster) -> Work:
    """Return what every worker is told: paths must mean the same in any working folder."""
    spec = _portable_spec(job.backbone)
    job = replace(job, store=job.store.absolute(), backbone=spec)
    weights = str(job.identity.backbone["weights_sha256"])
    setup = Setup(spec, weights, cluster.device, cluster.cores, cluster.versions)
    return Work(job, setup, Journal(job.store).holder())


def _portable_spec(spec: BackboneSpec) -> BackboneSpec:
    if spec.pretrained and Path(spec.pretrained).is_file():
        return replace(spec, pretrained=str(Path(spec.pretrained).absolute()))
    return spec


@contextlib.contextmanager
def _one_line(address: str, piece: tuple[ShardTask, ...]) -> Iterator[None]:
    """Say in a line what dask says in many."""
    try:
        yield
    except KilledWorker as error:
        first, last = piece[0].shard.number, piece[-1].shard.number
        shards = f"shard {first}" if first == last else f"shards {first} to {last}"
        images = [image for task in piece for image in task.images]
        raise ExtractError(
            f"workers that had been given {shards}, {named_images(images)}, died "
            f"{error.allowed_failures + 1} times, {error.last_worker.address} the last (out of "
            f"memory?), so the run stops; see its log, then run the same command again to go on, "
            f"with a smaller --batch-size perhaps"
        ) from None
    except CancelledError:
        raise ExtractError(
            f"--scheduler {address}: the scheduler is gone; start it again, with workers, then "
            f"run the same command again to go on"
        ) from None
