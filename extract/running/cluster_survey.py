"""What a dask cluster offers, and whether its workers are alike enough for one store."""

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from distributed import Client
from distributed.comm.addressing import resolve_address

from ..errors import ExtractUsageError
from . import cluster_worker
from .cluster_worker import Facts

CONNECT_SECONDS = 10
# That make the numbers; the first two read the tasks, which the scheduler does too.
PACKAGES = ("clipfeat", "dask", "torch", "open_clip_torch", "pillow")


@dataclass(frozen=True)
class Cluster:
    """The workers of a cluster that an extraction uses, which are alike."""

    workers: tuple[str, ...]  # addresses
    device: str  # of each: "cuda" or "cpu"
    cores: int  # of each: its share of the cores of its host, the least of all
    resources: Mapping[str, float]  # that a task asks for
    versions: tuple[tuple[str, str | None], ...]  # of PACKAGES


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connect a Client to a scheduler; raises ExtractUsageError if there is none.

    When the block ends, the scheduler forgets the tasks that are not done. Workers finish the
    batch that they are at, and drop the shard.
    """
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # errors are lines here
    try:
        resolve_address(address)  # a client that fails over it ends badly
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:  # a timeout is an OSError
        reason = " ".join(str(error).split()) or "no answer"
        raise ExtractUsageError(
            f"--scheduler {address}: no dask scheduler can be reached there ({reason:.160}); "
            f"start one with: dask scheduler, and pass the address that it prints"
        ) from None
    with client:
        yield client


def survey(client: Any) -> Cluster:
    """Return what the workers are; raises ExtractUsageError if their numbers would differ."""
    infos = client.scheduler_info(n_workers=-1)["workers"]
    if not infos:
        raise ExtractUsageError(
            f"--scheduler: the cluster has no workers; start some with: "
            f"dask worker {client.scheduler.address} --nthreads 1"
        )
    with_gpu = [a for a, info in infos.items() if info["resources"].get("GPU", 0) >= 1]
    workers = tuple(sorted(with_gpu or infos))
    versions = client.get_versions(packages=PACKAGES)
    own = _packages(versions["client"])
    check_versions(
        dict(islice(own.items(), 2)), {"the scheduler": _packages(versions["scheduler"])}
    )
    check_versions(own, {f"worker {a}": _packages(versions["workers"].get(a)) for a in workers})
    facts: dict[str, Facts] = client.run(cluster_worker.describe, workers=list(workers))
    device = check_devices(facts)
    cores = cores_of_each({a: (infos[a]["host"], facts[a]) for a in workers})
    resources = {"GPU": 1} if with_gpu else {}
    return Cluster(workers, device, cores, resources, tuple(own.items()))


def cores_of_each(workers: Mapping[str, tuple[str, Facts]]) -> int:
    """Return how many cores each of the workers may use: {address: (host, facts)}.

    Workers of one host share the cores that all of them may run on; jobs of a queue, each with
    cores of its own, do not.
    """
    sharing = Counter((host, facts.affinity) for host, facts in workers.values())
    each = (facts.cores // sharing[host, facts.affinity] for host, facts in workers.values())
    return max(1, min(each))


def _packages(found: Any) -> dict[str, str | None]:
    packages = found["packages"] if found else {}
    return {name: packages.get(name) for name in PACKAGES}


def check_versions(
    own: Mapping[str, str | None], others: Mapping[str, Mapping[str, str | None]]
) -> None:
    """Raise ExtractUsageError unless all have the versions that this process has.

    >>> check_versions({"torch": "2.6"}, {"worker a": {"torch": "2.7"}})
    Traceback (most recent call last):
    clipfeat.extract.errors.ExtractUsageError: --scheduler: worker a has torch 2.7, this process 2.6; install the same versions everywhere, or the numbers differ
    """
    for who, versions in others.items():
        for name, version in own.items():
            if versions[name] != version:
                found = f"{name} {versions[name]}" if versions[name] else f"no {name}"
                raise ExtractUsageError(
                    f"--scheduler: {who} has {found}, this process {version}; install the same "
                    f"versions everywhere, or the numbers differ"
                )


def check_devices(facts: Mapping[str, Facts]) -> str:
    """Return the kind of device that all workers have, "cuda" or "cpu".

    Raises ExtractUsageError if there are both, or if two workers have one GPU.
    """
    kinds = {fact.device: address for address, fact in facts.items()}
    if len(kinds) > 1:
        raise ExtractUsageError(
            f"--scheduler: worker {kinds['cuda']} has a GPU and worker {kinds['cpu']} has none: "
            f"their numbers would differ; start those with a GPU with --resources GPU=1, and "
            f"only they are used"
        )
    owners: dict[str, str] = {}
    for address, fact in facts.items():
        other = owners.setdefault(fact.gpu, address) if fact.gpu else address
        if other != address:
            raise ExtractUsageError(
                f"--scheduler: workers {other} and {address} compute on the same GPU; start one "
                f"worker a GPU, each with its own CUDA_VISIBLE_DEVICES"
            )
    return next(iter(kinds))
