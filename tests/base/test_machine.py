"""Cores and GPUs that a process may use."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from clipfeat.base import machine
from clipfeat.base.errors import UsageError


def cores_with(monkeypatch: pytest.MonkeyPatch, mask: set[int] | None, cgroup: int) -> int:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    if mask is None:
        monkeypatch.delattr(os, "sched_getaffinity")
    else:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: mask)
    monkeypatch.setattr(machine, "cgroup_cores", lambda: cgroup)
    return machine.usable_cores()


def test_the_smallest_of_machine_mask_and_cgroup_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cores_with(monkeypatch, set(range(16)), 64) == 16
    assert cores_with(monkeypatch, set(range(16)), 3) == 3
    assert cores_with(monkeypatch, None, 64) == 64  # macOS and Windows have no mask


def test_a_real_affinity_mask_is_seen() -> None:
    code = "from clipfeat.base.machine import usable_cores; print(usable_cores())"
    core = min(os.sched_getaffinity(0))
    done = subprocess.run(
        ["taskset", "-c", str(core), sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1\n"


@pytest.mark.parametrize(
    ("listed", "files", "cores"),
    [
        ("0::/job", {"cpu.max": "250000 100000"}, 3),  # 2.5 cores
        ("0::/job", {"job/cpu.max": "400000 100000", "cpu.max": "max 100000"}, 4),
        ("0::/job/task", {"job/cpu.max": "200000 100000", "job/task/cpu.max": "max 100000"}, 2),
        ("0::/not/here", {"cpu.max": "100000 100000"}, 1),  # a container: the path is the host's
        ("0::/job", {"job/cpu.max": "max 100000"}, 64),
        (
            "4:cpu,cpuacct:/job",
            {"cpu/job/cpu.cfs_quota_us": "600000", "cpu/job/cpu.cfs_period_us": "100000"},
            6,
        ),
        (
            "4:cpu,cpuacct:/job",
            {"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"},
            64,
        ),
        ("4:memory:/job", {"cpu.max": "100000 100000"}, 64),
    ],
)
def test_cgroup_limits(
    listed: str, files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    real = Path.read_text
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(
        Path, "read_text", lambda p: listed if p == Path("/proc/self/cgroup") else real(p)
    )
    assert machine.usable_cores() == cores


def two_nodes(sysfs: Path, nodes: dict[str, str], cpulists: tuple[str, ...]) -> None:
    """Make the part of /sys that tells the NUMA node of each GPU, and the cores of each node."""
    for gpu, node in nodes.items():
        (sysfs / "bus/pci/devices" / gpu).mkdir(parents=True)
        (sysfs / "bus/pci/devices" / gpu / "numa_node").write_text(f"{node}\n")
    for number, cpulist in enumerate(cpulists):
        folder = sysfs / f"devices/system/node/node{number}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(f"{cpulist}\n")


@pytest.mark.parametrize(
    ("nodes", "allowed", "wanted", "cores"),
    [
        ("0011", range(16), 4, {2: {4, 5, 6, 7, 12, 13, 14, 15}, 0: {0, 1, 2, 3, 8, 9, 10, 11}}),
        ("0011", range(16), 5, {0: set(), 2: set()}),  # 10 cores of 8
        ("0001", range(16), 4, {0: set(), 3: {4, 5, 6, 7, 12, 13, 14, 15}}),
        ("0011", range(8), 2, {0: set(), 2: set()}),  # taskset has taken half of each node
        ("0011", range(4), 1, {2: set()}),  # no core of the node
        (("-1",) * 4, range(16), 4, {0: set()}),  # the firmware does not say
        (("7",) * 4, range(16), 4, {0: set()}),  # no such node
        (("?",) * 4, range(16), 4, {0: set()}),
    ],
)
def test_cores_near_a_gpu(
    nodes: Sequence[str],
    allowed: range,
    wanted: int,
    cores: dict[int, set[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpus = [f"0000:{bus:02x}:00.0" for bus in (0x1B, 0x3D, 0x9A, 0xDB)]
    two_nodes(tmp_path, dict(zip(gpus, nodes, strict=True)), ("0-3,8-11", "4-7,12-15"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(allowed))
    for gpu, near in cores.items():
        assert machine.cores_near(gpus[gpu], gpus, wanted, tmp_path) == near
    assert machine.cores_near("0000:ff:00.0", gpus, wanted, tmp_path) == frozenset()


@pytest.mark.parametrize(
    ("text", "listed", "seen"),
    [
        ("2", None, "0,1"),
        ("2", "4,5,6,7", "4,5"),
        ("0,3", "4,5,6,7", "4,7"),
        ("3,", "4,5,6,7", "7"),
        ("1,", None, "1"),
        ("2,0", "GPU-a, GPU-b, GPU-c", "GPU-c,GPU-a"),
    ],
)
def test_gpus_are_entries_of_the_list_that_is_set(
    text: str, listed: str | None, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if listed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert machine.visible_devices(machine.require_gpus(text, 4)) == seen


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "E-GPUS-SYNTAX"),
        ("a", "E-GPUS-SYNTAX"),
        ("-1", "E-GPUS-SYNTAX"),
        ("1,,2", "E-GPUS-SYNTAX"),
        ("²", "E-GPUS-SYNTAX"),
        ("0", "E-GPUS-COUNT"),
        ("9" * 99, "E-GPUS-COUNT"),
        ("1,1", "E-GPUS-TWICE"),
        ("5", "E-GPUS-ABSENT"),
        ("4,", "E-GPUS-ABSENT"),
    ],
)
def test_gpus_that_cannot_be(text: str, code: str) -> None:
    with pytest.raises(UsageError) as refused:
        machine.require_gpus(text, 4)
    assert refused.value.code == code


def test_a_benchmark_names_the_instruction_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for name in ("ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    cpuinfo = "model name\t: A Processor\nflags\t\t: fpu avx avx2 fma\n\nmodel name\t: Another\n"
    assert machine.format_processor(cpuinfo, 16 << 30) == (
        "4 cores of A Processor (avx2 fma); 16 GiB; ONEDNN_MAX_CPU_ISA=AVX2"
    )
