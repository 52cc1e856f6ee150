"""Shards computed by the workers of an existing dask cluster, which must be alike."""

import contextlib
import logging
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from distributed import CancelledError, Client, Future, KilledWorker, as_completed
from distributed.comm.addressing import resolve_address

from ...base.errors import ExtractError, ExtractUsageError
from ...featstore.writing.journal import Journal
from ..backbones.backbone import cpu_images
from ..backbones.weights_sources import FOLDER
from ..planning.plan import BackboneSpec, Job, ShardTask
from ..planning.recipe import Recipe
from . import cluster_worker
from .cluster_worker import DeviceFacts, RunContext, WorkerSetup, run_shards
from .results import BatchResult, list_images

CONNECT_SECONDS = 10
# They decide the features, so that all workers need the same versions. The first two also read the
# tasks, as the scheduler does.
PACKAGES = ("clipfeat", "dask", "torch", "open_clip_torch", "timm", "pillow")
AHEAD = 2  # pieces of work submitted for each worker: the next is ready when one is done
# What a piece takes: its shards run through a pipeline that costs seconds to start and drain, and
# all of it is reprocessed if its worker dies.
PIECE_SECONDS = 30.0


class ClusterExecutor:
    """Computes on the workers of the dask cluster whose scheduler has an address.

    Paths in `spec`, as in each job, must be absolute: workers have working folders of their own.
    """

    def __init__(self, address: str, spec: BackboneSpec):
        self._address = address
        self._spec = spec

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

    def run(self, tasks: tuple[ShardTask, ...], job: Job) -> Generator[BatchResult, None, None]:
        """Run tasks on the workers of the cluster; yields a result for each shard, in any order.

        A worker gets a few shards at a time; their results come when the last of them is written.
        What a worker had when it died, dask gives to another, until more have died over it than
        its scheduler allows (distributed.scheduler.allowed-failures, 3 by default: the fourth).
        Raises ExtractError then, if a worker fails, or if one does not see store or images.
        """
        with connected(self._address) as client:
            cluster = survey(client)
            context = _run_context(job, cluster)
            image = cluster_worker.first_readable(tasks, context.job)
            problems = client.run(
                cluster_worker.check, context, image, workers=list(cluster.workers)
            )
            for worker, problem in problems.items():
                if problem:
                    raise ExtractError(
                        f"--scheduler: worker {worker} {problem}", code="E-CLUSTER-PATH"
                    )

            todo = deque(tasks)
            submitted: dict[Future, tuple[ShardTask, ...]] = {}
            completed = as_completed(loop=client.loop)

            def submit(seconds: float) -> None:
                workers = max(1, len(client.nthreads()))  # they come and go
                while todo and len(submitted) < AHEAD * workers:
                    size = piece_size(len(todo), workers, seconds)
                    piece = tuple(todo.popleft() for _ in range(size))
                    future = client.submit(
                        run_shards, piece, context, resources=cluster.resources, pure=False
                    )
                    submitted[future] = piece
                    completed.add(future)

            submit(PIECE_SECONDS)
            for future in completed:
                piece = submitted.pop(future)
                with _plain_errors(self._address, piece):
                    results: list[BatchResult] = future.result()
                    submit(sum(result.timings.wall for result in results) / len(results))
                yield from results


def piece_size(todo: int, workers: int, seconds: float) -> int:
    """Return how many of `todo` shards, which take `seconds` each, to give a worker at once.

    Fewer towards the end, so that all workers end together.

    >>> piece_size(80_000, 16, 0.1), piece_size(400, 16, 0.1), piece_size(9, 16, 0.1)
    (300, 12, 1)
    """
    return max(1, min(int(PIECE_SECONDS / max(seconds, 1e-3)), todo // (AHEAD * workers)))


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connect a Client to a scheduler; raises ExtractUsageError if none answers there.

    When the block ends, the scheduler forgets the tasks that are not done. Workers finish the
    batch that they compute, and drop the shard.
    """
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # errors are lines here
    try:
        resolve_address(address)  # a client that fails over it ends badly
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:  # a timeout is an OSError
        reason = " ".join(str(error).split()) or "no answer"
        raise ExtractUsageError(
            f"--scheduler {address}: no dask scheduler can be reached there ({reason:.160}); "
            f"start one with: dask scheduler, and pass the address that it prints",
            code="E-CLUSTER-ADDRESS",
        ) from None
    with client:
        yield client


@dataclass(frozen=True)
class Cluster:
    """The workers of a cluster that an extraction uses, which are alike."""

    workers: tuple[str, ...]  # addresses
    device: str  # of each: "cuda" or "cpu"
    cores: int  # of each: its share of the cores of its host, the least of all
    resources: Mapping[str, float]  # that a task asks for
    versions: tuple[tuple[str, str | None], ...]  # of PACKAGES


def survey(client: Any) -> Cluster:
    """Return what the workers are; raises ExtractUsageError if their numbers would differ."""
    infos = client.scheduler_info(n_workers=-1)["workers"]
    if not infos:
        raise ExtractUsageError(
            f"--scheduler: the cluster has no workers; start some with: "
            f"dask worker {client.scheduler.address} --nthreads 1",
            code="E-CLUSTER-EMPTY",
        )
    with_gpu = [a for a, info in infos.items() if info["resources"].get("GPU", 0) >= 1]
    workers = tuple(sorted(with_gpu or infos))
    versions = client.get_versions(packages=PACKAGES)
    expected = _packages(versions["client"])
    check_versions(
        dict(islice(expected.items(), 2)), {"the scheduler": _packages(versions["scheduler"])}
    )
    check_versions(
        expected, {f"worker {a}": _packages(versions["workers"].get(a)) for a in workers}
    )
    facts: dict[str, DeviceFacts] = client.run(cluster_worker.device_facts, workers=list(workers))
    device = check_devices(facts)
    cores = cores_of_each({a: (infos[a]["host"], facts[a]) for a in workers})
    resources = {"GPU": 1} if with_gpu else {}
    return Cluster(workers, device, cores, resources, tuple(expected.items()))


def _packages(versions: Any) -> dict[str, str | None]:
    packages = versions["packages"] if versions else {}
    return {name: packages.get(name) for name in PACKAGES}


def check_versions(
    expected: Mapping[str, str | None], others: Mapping[str, Mapping[str, str | None]]
) -> None:
    """Raise ExtractUsageError unless all have the versions that this process has.

    >>> check_versions({"torch": "2.6"}, {"worker a": {"torch": "2.7"}})
    Traceback (most recent call last):
    clipfeat.base.errors.ExtractUsageError: --scheduler: worker a has torch 2.7, this process 2.6; install the same versions everywhere, or the numbers differ
    """
    for owner, versions in others.items():
        for name, version in expected.items():
            if versions[name] != version:
                other = f"{name} {versions[name]}" if versions[name] else f"no {name}"
                raise ExtractUsageError(
                    f"--scheduler: {owner} has {other}, this process {version}; install "
                    f"the same versions everywhere, or the numbers differ",
                    code="E-CLUSTER-VERSION",
                )


def check_devices(facts: Mapping[str, DeviceFacts]) -> str:
    """Return the kind of device that all workers have, "cuda" or "cpu".

    Raises ExtractUsageError if there are both, or if two workers have one GPU.
    """
    kinds = {fact.device: address for address, fact in facts.items()}
    if len(kinds) > 1:
        raise ExtractUsageError(
            f"--scheduler: worker {kinds['cuda']} has a GPU and worker {kinds['cpu']} has none: "
            f"their numbers would differ; start those with a GPU with --resources GPU=1, and "
            f"only they are used",
            code="E-CLUSTER-DEVICE",
        )
    owners: dict[str, str] = {}
    for address, fact in facts.items():
        other = owners.setdefault(fact.gpu, address) if fact.gpu else address
        if other != address:
            raise ExtractUsageError(
                f"--scheduler: workers {other} and {address} compute on the same GPU; start one "
                f"worker a GPU, each with its own CUDA_VISIBLE_DEVICES",
                code="E-CLUSTER-DEVICE",
            )
    return next(iter(kinds))


def cores_of_each(workers: Mapping[str, tuple[str, DeviceFacts]]) -> int:
    """Return how many cores each of the workers may use: {address: (host, facts)}.

    Workers of one host share the cores that all of them may run on; jobs of a queue, each with
    cores of its own, do not.
    """
    sharing = Counter((host, facts.affinity) for host, facts in workers.values())
    each = (facts.cores // sharing[host, facts.affinity] for host, facts in workers.values())
    return max(1, min(each))


def _run_context(job: Job, cluster: Cluster) -> RunContext:
    """Return what every worker is told: paths must mean the same in any working folder."""
    job = replace(job, store=job.store.absolute())
    weights = str(job.identity.backbone["weights_sha256"])
    setup = WorkerSetup(job.backbone, weights, cluster.device, cluster.cores, cluster.versions)
    return RunContext(job, setup, Journal(job.store).holder())


def portable_spec(spec: BackboneSpec, *, is_place: bool) -> BackboneSpec:
    """Return the backbone with absolute paths in place of relative ones.

    With `is_place`, its weights are in a file or folder; else they are a tag, which a folder may
    have as its name too.
    """
    return replace(
        spec,
        model=spec.model if not (spec.model or "").startswith(FOLDER) else _absolute(spec.model),
        pretrained=_absolute(spec.pretrained) if is_place else spec.pretrained,
        model_config=_absolute(spec.model_config),
    )


def _absolute(place: str | None) -> str | None:
    """Return the absolute path of a file or folder, with the prefix it had; other texts stay."""
    if not place or not (path := Path(place.removeprefix(FOLDER))).exists():
        return place
    return f"{FOLDER if place.startswith(FOLDER) else ''}{path.absolute()}"


@contextlib.contextmanager
def _plain_errors(address: str, piece: tuple[ShardTask, ...]) -> Iterator[None]:
    """Turn dask's errors about lost workers and schedulers into one line each."""
    try:
        yield
    except KilledWorker as error:
        first, last = piece[0].shard.number, piece[-1].shard.number
        shards = f"shard {first}" if first == last else f"shards {first} to {last}"
        images = [image for task in piece for image in task.images]
        raise ExtractError(
            f"workers that had been given {shards}, {list_images(images)}, died "
            f"{error.allowed_failures + 1} times, {error.last_worker.address} the last (out of "
            f"memory?), so the run stops; see its log, then run the same command again to "
            f"resume, with a smaller --batch-size perhaps",
            code="E-WORKER-DIED",
        ) from None
    except CancelledError:
        raise ExtractError(
            f"--scheduler {address}: the scheduler is gone; start it again, with workers, then "
            f"run the same command again to resume",
            code="E-CLUSTER-GONE",
        ) from None
