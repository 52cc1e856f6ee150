"""The machine that a benchmark runs on, in one line for docs/log.md.

    python -m benchmarks.machine

Numbers of one processor do not hold on another: what decides is its instruction sets, so that
they stand beside every number.
"""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from clipfeat.base.machine import usable_cores

# What makes matrix products of float32 and bfloat16 fast: x86 first, then Arm.
INSTRUCTION_SETS = (
    "avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve", "bf16",
)  # fmt: skip
# Set by hand, they hide instruction sets from the libraries.
LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS")


def describe_machine(cpuinfo: str, memory_bytes: int) -> str:
    """Return processor, instruction sets, cores, memory and the limits set in the environment.

    `cpuinfo` is the text of Linux's /proc/cpuinfo, empty where there is none.
    """
    facts: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip().lower(), value.strip())
    model = facts.get("model name") or platform.processor() or platform.machine()
    flags = set((facts.get("flags") or facts.get("features") or "").split())
    sets = " ".join(name for name in INSTRUCTION_SETS if name in flags) or "unknown"
    limits = [f"{name}={os.environ[name]}" for name in LIMITS if name in os.environ]
    memory = f"{memory_bytes / 2**30:.0f} GiB"
    return "; ".join([f"{usable_cores()} cores of {model} ({sets})", memory, *limits])


def main() -> None:
    """Print the date, the machine and the Python."""
    path = Path("/proc/cpuinfo")
    cpuinfo = path.read_text() if path.is_file() else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    today = datetime.now(UTC).date()
    print(f"{today}: {describe_machine(cpuinfo, memory)}; Python {platform.python_version()}")


if __name__ == "__main__":
    main()
