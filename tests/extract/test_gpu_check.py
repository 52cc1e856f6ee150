"""The runner of benchmarks.gpu_check: a phase costs at most its own time and its own result."""

import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_check import PHASES, SECONDS, Phase, run_phase
from benchmarks.gpu_phases.setting import Setting

CPU = Setting("cpu", Path())


def line_of(run: Any, seconds: float = 5.0, **options: Any) -> dict[str, Any]:
    return run_phase(Phase("x", seconds, run, **options), CPU, seconds)


def test_all_phases_together_fit_into_the_time():
    assert sum(phase.seconds for phase in PHASES) <= SECONDS


def test_a_line_has_what_was_measured_before_an_error():
    def broken(setting: Setting, measured: dict[str, Any]) -> None:
        measured["rate"] = 3
        raise RuntimeError("CUDA error:\nan illegal access")

    line = line_of(broken)
    assert (line["phase"], line["rate"]) == ("x", 3)
    assert line["outcome"] == "failed: RuntimeError: CUDA error: an illegal access"


def test_a_phase_that_hangs_is_ended():
    def hanging(setting: Setting, measured: dict[str, Any]) -> None:
        measured["begun"] = True
        time.sleep(60)

    line = line_of(hanging, seconds=1.0)
    assert line["outcome"] == "late: more than 1 s"
    assert line["begun"]


@pytest.mark.parametrize(
    ("seconds", "needs_gpu", "outcome"),
    [(5.0, True, "skipped: no CUDA"), (0.0, False, "skipped: no time left"), (5.0, False, "ok")],
)
def test_a_phase_that_cannot_run_says_why(seconds, needs_gpu, outcome):
    line = line_of(lambda *_: None, seconds, needs_gpu=needs_gpu)
    assert line == {"phase": "x", "outcome": outcome, "seconds": 0.0}
