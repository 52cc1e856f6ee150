"""The tasks: VQA, visual entailment, captioning, pre-training and navigation."""

from pathlib import Path
from typing import Any

from ...base.errors import UsageError
from ..checkpoint import TrainedRun
from ..run import read_manifest
from ..stages import last_stage
from .navigation import settings as nav
from .settings import STAGES


def load_run(run: str | Path) -> TrainedRun[Any, Any, Any]:
    """Return the best model of a run folder, on the CPU, with its settings and vocabulary.

    Of a run in stages that is the last one that has a model; of navigation, one that walks. Raises
    UsageError where the folder is no run of these tasks, or has no checkpoint yet; `evaluate` loads
    the model of other tasks.
    """
    run = Path(run)
    if any((run / stage).is_dir() for stage in nav.STAGES):
        run = last_stage(run, nav.WALKERS, of="navigation")
    else:
        run = last_stage(run, STAGES, of="captioning")
    match task := read_manifest(run).task:  # each task imports packages that the others do not need
        case "vqa":
            from .vqa_predict import load_run
        case "ve":
            from .entailment import load_run
        case "caption":
            from .captioning.model import load_stage as load_run
        case "nav":
            from .navigation.agents import load_run
        case "pretrain":
            from .pretraining.task import load_run
        case _:
            raise UsageError(
                f"{run} is a run of task {task!r}, which is not one of clipfeat's; make that task "
                "and call evaluate(task, run), which loads its best model",
                code="E-RUN-TASK",
            )
    return load_run(run)
