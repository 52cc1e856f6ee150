"""The tasks: VQA, visual entailment, captioning and pre-training."""

from pathlib import Path
from typing import Any

from ...base.errors import UsageError
from ..checkpoint import TrainedRun
from ..run import SETTINGS, read_manifest
from .captioning.model import find_stage, load_stage
from .entailment import load_run as load_entailment
from .pretraining.task import load_run as load_pretraining
from .vqa_predict import load_run as load_vqa


def load_run(run: Path) -> TrainedRun[Any, Any, Any]:
    """Return the best model of a run folder, on the CPU, with its settings and vocabulary.

    Of a captioning run that is the last stage that has a model. Raises UsageError where the folder
    is no run of these tasks, or has no checkpoint yet; `evaluate` loads the model of other tasks.
    """
    if not (run / SETTINGS).is_file():
        return load_stage(find_stage(run))
    loaders = {
        "vqa": load_vqa,
        "ve": load_entailment,
        "caption": load_stage,
        "pretrain": load_pretraining,
    }
    task = read_manifest(run).task
    if task not in loaders:
        raise UsageError(
            f"{run} is a run of task {task!r}, not of {', '.join(loaders)}; make that task and "
            "call evaluate(task, run), which loads its best model",
            code="E-RUN-TASK",
        )
    return loaders[task](run)
