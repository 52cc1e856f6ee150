"""What this process may use of its machine: processor cores and GPUs."""

import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UsageError

if TYPE_CHECKING:
    import torch


CGROUP = Path("/sys/fs/cgroup")
CLEARLY = 1.5  # times as slow; less may be chance
REPEATS = 3  # of a measurement, of which the fastest counts
MAX_GPUS = 1024


def usable_cores() -> int:
    """Return how many cores this process may keep busy, at least one.

    That is the smallest of what the machine has, the affinity mask (taskset, a job of a queue)
    and the processor time that the process's cgroup allows (a container, a systemd slice).
    """
    cores = os.cpu_count() or 1
    if allowed := affinity():
        cores = min(cores, len(allowed))
    return max(1, min(cores, _cgroup_cores()))


def affinity() -> tuple[int, ...]:
    """Return the numbers of the cores that this process may run on; none where nothing tells."""
    if not hasattr(os, "sched_getaffinity"):  # Linux alone has it
        return ()
    return tuple(sorted(os.sched_getaffinity(0)))


def _cgroup_cores() -> int:
    """Return the processor time that the cgroups of this process allow, in whole cores.

    A share of a core counts as one: 2.5 cores keep three threads busy. The group of the process
    and all those above it count (Linux, Documentation/admin-guide/cgroup-v2.rst, cpu.max;
    Documentation/scheduler/sched-bwc.rst for version 1).
    """
    quotas = [math.inf]
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux, or no /proc
        return os.cpu_count() or 1
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            root = CGROUP
        elif "cpu" in controllers.split(","):
            root = CGROUP / "cpu"
        else:
            continue
        # In a container the path may be the host's; its own group is then the root.
        folder = root / group.lstrip("/")
        for place in (folder, *folder.parents):
            if place.is_relative_to(root):
                quotas.append(_quota(place))
    least = min(quotas)
    return os.cpu_count() or 1 if least == math.inf else max(1, math.ceil(least))


def _quota(folder: Path) -> float:
    """Return the cores that one cgroup allows, infinity where it sets no limit."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return math.inf if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
    except (OSError, ValueError):
        return math.inf


def slower_than_float32(precision: str) -> float:
    """Return how many times as long "bfloat16" or "float16" takes on this CPU as float32.

    Measured with torch, in 0.01 to 0.5 s: more than `CLEARLY` where the processor only emulates
    it. What a processor has is known to it, to the libraries and to their settings; only the time
    tells what comes of all three.
    """
    import torch

    return _seconds(getattr(torch, precision)) / _seconds(torch.float32)


def _seconds(dtype: "torch.dtype") -> float:
    """Return the least time of a convolution and a matrix product, as image towers have them.

    On one thread: several wait for each other, and on a busy machine that is all one would see.
    """
    import torch

    images = torch.ones(2, 64, 14, 14, dtype=dtype).to(memory_format=torch.channels_last)
    filters = torch.ones(64, 64, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    matrix = torch.ones(192, 192, dtype=dtype)
    measured, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(1 + REPEATS):
            started = time.perf_counter()
            torch.nn.functional.conv2d(images, filters, padding=1)
            torch.mm(matrix, matrix)
            measured.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return min(measured[1:])  # the first makes the kernels


def parse_gpus(text: str) -> tuple[int, ...]:
    """Return the indices that `--gpus` names: "8" is a count, "0,3" a list, "3," one GPU.

    Indices count the GPUs that the process sees: with CUDA_VISIBLE_DEVICES=4,5,6,7, index 0 is
    GPU 4. Raises UsageError for anything else.

    >>> parse_gpus("3"), parse_gpus("0,3"), parse_gpus("3,")
    ((0, 1, 2), (0, 3), (3,))
    """
    parts = [part.strip() for part in text.removesuffix(",").split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(
            f"--gpus {text!r}: expected a count (8), a list (0,3), or one GPU with a comma (3,)",
            code="E-GPUS-SYNTAX",
        )
    numbers = [int(part[:9]) for part in parts]
    if "," not in text:
        if not 1 <= numbers[0] <= MAX_GPUS:
            raise UsageError(
                f"--gpus {text}: expected at least 1; for none, --device cpu", code="E-GPUS-COUNT"
            )
        return tuple(range(numbers[0]))
    if len(set(numbers)) != len(numbers):
        raise UsageError(f"--gpus {text}: a GPU is named twice", code="E-GPUS-TWICE")
    return tuple(numbers)


def require_gpus(text: str, gpu_count: int) -> tuple[int, ...]:
    """Return the indices that `--gpus` names, checked against the GPUs that torch finds.

    Raises UsageError where one of them is not among those `gpu_count`.
    """
    indices = parse_gpus(text)
    if max(indices) >= gpu_count:
        has = f"{gpu_count} GPU{'s' * (gpu_count != 1)}" if gpu_count else "no GPU"
        instead = f"--gpus {gpu_count}" if gpu_count else "--device cpu"
        listed = os.environ.get("CUDA_VISIBLE_DEVICES")
        of = f" (CUDA_VISIBLE_DEVICES={listed})" if listed is not None else ""
        raise UsageError(
            f"--gpus {text}: torch finds {has} on this machine{of}; type {instead} instead",
            code="E-GPUS-ABSENT",
        )
    return indices


def visible_devices(indices: tuple[int, ...]) -> str:
    """Return the CUDA_VISIBLE_DEVICES of a process that is to see just the GPUs `indices`.

    Entries are taken from the list that is there already, whether numbers or UUIDs:
    CUDA_VISIBLE_DEVICES=4,5,6,7 and indices (0, 3) give "4,7".
    """
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not listed:
        return ",".join(map(str, indices))
    entries = [entry.strip() for entry in listed.split(",")]
    return ",".join(entries[index] for index in indices)
