"""Small trainers on cached grids: one loop, and a task for each of the field's data sets.

`fit` trains any `Task`, also one of your own (docs/own-task.md), `evaluate` scores the best
checkpoint of a run, and `load_run` gives the best model of clipfeat's own tasks.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batches import Order
    from .checkpoint import TrainedRun
    from .devices import accelerator_on
    from .engine import evaluate, fit
    from .normalize import FeatureNorm, feature_statistics
    from .records import RecordReader
    from .settings import LoopSettings, load_settings
    from .task import Report, Task, on_device
    from .tasks import load_run

# Where each name is; imported at its first use, since torch takes seconds.
_HOMES = {
    "FeatureNorm": "normalize",
    "LoopSettings": "settings",
    "Order": "batches",
    "RecordReader": "records",
    "Report": "task",
    "Task": "task",
    "TrainedRun": "checkpoint",
    "accelerator_on": "devices",
    "evaluate": "engine",
    "feature_statistics": "normalize",
    "fit": "engine",
    "load_run": "tasks",
    "load_settings": "settings",
    "on_device": "task",
}
__all__ = [
    "FeatureNorm",
    "LoopSettings",
    "Order",
    "RecordReader",
    "Report",
    "Task",
    "TrainedRun",
    "accelerator_on",
    "evaluate",
    "feature_statistics",
    "fit",
    "load_run",
    "load_settings",
    "on_device",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
