"""The processor cores and GPUs that this process may use, and what the cores are fast at."""

import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UsageError
from .text import counted

if TYPE_CHECKING:
    import torch


CGROUP = Path("/sys/fs/cgroup")
CLEARLY = 1.5  # times as slow as float32; less may be chance
REPEATS = 3  # measurements, of which the fastest counts
MAX_GPUS = 1024


def usable_cores() -> int:
    """Return how many cores this process may use, at least one.

    This is the smallest of three numbers: the machine's cores, those of the affinity mask (set by
    taskset or a batch system), and the processor time that the process's cgroup allows (a
    container, a systemd slice).
    """
    cores = os.cpu_count() or 1
    if allowed := affinity():
        cores = min(cores, len(allowed))
    return max(1, min(cores, _cgroup_cores()))


def affinity() -> tuple[int, ...]:
    """Return the numbers of the cores that this process may run on, () if they are unknown."""
    if not hasattr(os, "sched_getaffinity"):  # only Linux has it
        return ()
    return tuple(sorted(os.sched_getaffinity(0)))


def _cgroup_cores() -> int:
    """Return the processor time that the cgroups of this process allow, rounded up to cores.

    2.5 cores keep three threads busy. The limits of the process's group and of all groups above it
    apply (Linux, Documentation/admin-guide/cgroup-v2.rst, cpu.max;
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
        # In a container the path may be the host's; the container's own group is then the root.
        folder = root / group.lstrip("/")
        quotas += [_quota(f) for f in (folder, *folder.parents) if f.is_relative_to(root)]
    least = min(quotas)
    return os.cpu_count() or 1 if least == math.inf else max(1, math.ceil(least))


def _quota(folder: Path) -> float:
    """Return the cores that one cgroup allows, infinity if it sets no limit."""
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
    """Return the time that "bfloat16" or "float16" takes on this CPU, divided by float32's.

    It is more than `CLEARLY` if the type is only emulated. It is measured with torch, in 0.01 to
    0.5 s, because it depends on the processor, on the libraries and on their settings.
    """
    import torch

    return _seconds(getattr(torch, precision)) / _seconds(torch.float32)


def _seconds(dtype: "torch.dtype") -> float:
    """Return the shortest time of a convolution and a matrix product like those of image towers.

    One thread computes: on a busy machine, several would mostly wait for each other.
    """
    import torch

    images = torch.ones(2, 64, 14, 14, dtype=dtype).to(memory_format=torch.channels_last)
    filters = torch.ones(64, 64, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    matrix = torch.ones(192, 192, dtype=dtype)
    threads, measured = torch.get_num_threads(), list[float]()
    torch.set_num_threads(1)
    try:
        for _ in range(1 + REPEATS):
            started = time.perf_counter()
            torch.nn.functional.conv2d(images, filters, padding=1)
            torch.mm(matrix, matrix)
            measured.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return min(measured[1:])  # the first one compiles the kernels


def parse_gpus(text: str) -> tuple[int, ...]:
    """Return the GPU indices of a `--gpus` value: "8" is a count, "0,3" a list, "3," one GPU.

    An index is a position among the GPUs that the process sees: with CUDA_VISIBLE_DEVICES=4,5,6,7,
    index 0 is GPU 4. Raises UsageError for anything else.

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
                f"--gpus {text}: expected 1 to {MAX_GPUS}; for the CPU, pass --device cpu",
                code="E-GPUS-COUNT",
            )
        return tuple(range(numbers[0]))
    if len(set(numbers)) != len(numbers):
        raise UsageError(f"--gpus {text}: a GPU is named twice", code="E-GPUS-TWICE")
    return tuple(numbers)


def require_gpus(text: str, gpu_count: int) -> tuple[int, ...]:
    """Return the indices of a `--gpus` value, which must be among `gpu_count` GPUs.

    Raises UsageError for an index that is too large, and as `parse_gpus` does.
    """
    indices = parse_gpus(text)
    if max(indices) >= gpu_count:
        available = counted(gpu_count, "GPU") if gpu_count else "no GPU"
        instead = f"--gpus {gpu_count}" if gpu_count else "--device cpu"
        listed = os.environ.get("CUDA_VISIBLE_DEVICES")
        setting = f" (CUDA_VISIBLE_DEVICES={listed})" if listed is not None else ""
        raise UsageError(
            f"--gpus {text}: torch finds {available} on this machine{setting}; pass {instead}",
            code="E-GPUS-ABSENT",
        )
    return indices


def visible_devices(indices: tuple[int, ...]) -> str:
    """Return the CUDA_VISIBLE_DEVICES with which a process sees only the GPUs `indices`.

    Entries, numbers or UUIDs, come from the list of this process: CUDA_VISIBLE_DEVICES=4,5,6,7 and
    indices (0, 3) give "4,7".
    """
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not listed:
        return ",".join(map(str, indices))
    entries = [entry.strip() for entry in listed.split(",")]
    return ",".join(entries[index] for index in indices)
