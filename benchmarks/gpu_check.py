"""Whether a GPU computes the right features, and how fast: one run of at most eight minutes.

python -m benchmarks.gpu_check [--only PHASE ...] [--patience 1] > gpu.jsonl

The long form of `clipfeat doctor` (docs/doctor.md). Each phase prints one line of JSON when it ends,
the most valuable first, and has a deadline of its own; what it measured before the deadline, or before
an error, is in its line. A machine without a GPU runs the phases that need none. Exits with 1 if a
phase failed.

On a machine without a package index, from the root of the source tree, with the wheels that `make
gpu-wheels` has collected:
    pip install --no-index --no-deps gpu-wheels/*.whl
    mkdir -p .typing && ln -sfn "$PWD" .typing/clipfeat
    PYTHONPATH=.typing:. python -m benchmarks.gpu_check
"""

import argparse
import contextlib
import faulthandler
import json
import logging
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .gpu_phases import features, machine, speed, training
from .gpu_phases.setting import Setting

SECONDS = 480.0  # of all phases together
GRACE = 20.0  # until the process is ended from outside Python, should a phase not react


class Phase(NamedTuple):
    """A part of the check: what it measures goes into the dictionary that it is given."""

    name: str
    seconds: float
    run: Callable[[Setting, dict[str, Any]], None]
    needs_gpu: bool = False


PHASES = (
    Phase("machine", 15, machine.measure_machine),
    Phase("pinning", 20, machine.refuse_pinning, needs_gpu=True),
    Phase("right", 60, features.compare_with_cpu),
    Phase("digest", 40, features.extract_again),
    Phase("corruption", 25, features.delay_copies, needs_gpu=True),
    Phase("waits", 25, features.count_host_waits, needs_gpu=True),
    Phase("forward", 70, speed.measure_forward),
    Phase("jpeg", 10, speed.decode_on_gpu, needs_gpu=True),
    Phase("resize", 20, speed.resize_exactly),
    Phase("end_to_end", 105, speed.extract_photographs),
    Phase("training", 60, training.measure_steps),
    Phase("processes", 30, training.join_processes),
)


class Late(Exception):
    """A phase has used up its time."""


def run_phase(phase: Phase, setting: Setting, seconds: float) -> dict[str, Any]:
    """Run a phase for at most `seconds`; return its line: outcome, seconds, and what it measured."""
    measured: dict[str, Any] = {}
    outcome, started = "ok", time.perf_counter()
    if phase.needs_gpu and setting.device == "cpu":
        outcome = "skipped: no CUDA"
    elif seconds < 1:
        outcome = "skipped: no time left"
    else:
        try:
            with deadline(seconds):
                phase.run(setting, measured)
        except Late:
            outcome = f"late: more than {seconds:.0f} s"
        except Exception as error:  # the other phases are worth having
            outcome = f"failed: {type(error).__name__}: {' '.join(str(error).split()):.300}"
    elapsed = round(time.perf_counter() - started, 1)
    return {"phase": phase.name, "outcome": outcome, "seconds": elapsed, **measured}


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise Late in the block once `seconds` have passed."""

    def late(*_: object) -> None:
        raise Late

    handler = signal.signal(signal.SIGALRM, late)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [phase.name for phase in PHASES]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PHASE")
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--patience", type=float, default=1.0, help="multiplies all deadlines, on a busy machine"
    )
    arguments = parser.parse_args()
    patience = arguments.patience
    end = time.monotonic() + patience * SECONDS
    faulthandler.dump_traceback_later(patience * SECONDS + GRACE, exit=True)
    logging.getLogger("clipfeat").setLevel(logging.WARNING)
    good = True
    with tempfile.TemporaryDirectory(dir=".", prefix=".gpu-check-") as folder:
        setting = Setting(arguments.device, Path(folder).resolve())
        for phase in PHASES:
            if phase.name in arguments.only:
                line = run_phase(
                    phase, setting, min(patience * phase.seconds, end - time.monotonic())
                )
                good &= not line["outcome"].startswith("failed")
                print(json.dumps(line), flush=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
