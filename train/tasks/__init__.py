"""The tasks: VQA, visual entailment, captioning and pre-training."""

from pathlib import Path
from typing import Any

from ...base.errors import UsageError
from ..checkpoint import TrainedRun
from ..run import SETTINGS, read_manifest


def load_run(run: str | Path) -> TrainedRun[Any, Any, Any]:
    """Return the best model of a run folder, on the CPU, with its settings and vocabulary.

    Of a captioning run that is the last stage that has a model. Raises UsageError where the folder
    is no run of these tasks, or has no checkpoint yet; `evaluate` loads the model of other tasks.
    """
    run = Path(run)
    if not (run / SETTINGS).is_file():
        from .captioning.model import find_stage

        run = find_stage(run)
    match task := read_manifest(run).task:  # each task imports packages that the others do not need
        case "vqa":
            from .vqa_predict import load_run
        case "ve":
            from .entailment import load_run
        case "caption":
            from .captioning.model import load_stage as load_run
        case "pretrain":
            from .pretraining.task import load_run
        case _:
            raise UsageError(
                f"{run} is a run of task {task!r}, which is not one of clipfeat's; make that task "
                "and call evaluate(task, run), which loads its best model",
                code="E-RUN-TASK",
            )
    return load_run(run)
