"""Train the stages of navigation, each into a folder of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ....base.errors import UsageError
from ...devices import accelerator_on
from ...engine import fit
from ...log import LoopTimes
from ...models.navigation_settings import EnvDropSettings
from ...run import as_in_run, require_no_link
from ...task import Task
from .data import NavigationData, read_training
from .follower import FollowerTask
from .settings import STAGES, NavigationSettings
from .task import format_scores


class StageTimes(dict[str, LoopTimes]):
    """Where the time of each stage went."""

    def table(self) -> str:
        """Return the figures as lines for people."""
        return "\n".join(f"stage {stage}\n{times.table()}" for stage, times in self.items())


def train_stages(
    settings: NavigationSettings,
    out: Path,
    *,
    stages: Sequence[str],
    store: str | Path,
    data: Path,
    device: str | None = None,
) -> tuple[dict[str, Any], StageTimes]:
    """Train the named stages; return {stage: the best checkpoint's scores}, and the times.

    A run that was killed resumes from its last checkpoint, in whichever stage that is. `out` then
    holds a folder for each stage, with what `clipfeat.train.run` lists. Raises UsageError before any
    work, StoreError for a store that cannot be read, ClipfeatError for data that do not fit it.
    """
    _require_folder(out)
    results: dict[str, Any] = {}
    times = StageTimes()
    read: NavigationData | None = None
    for stage in stages:
        of_stage = as_in_run(settings, out / stage)
        accelerator = accelerator_on(device, of_stage)
        if read is None:
            read = read_training(of_stage, store=store, data=data, device=accelerator.device)
        if accelerator.is_main_process:
            out.mkdir(parents=True, exist_ok=True)
        task = make_task(stage, of_stage, read, accelerator, out)
        results[stage], times[stage] = fit(task, out / stage)
    return results, times


def make_task(
    stage: str,
    settings: NavigationSettings,
    data: NavigationData,
    accelerator: Accelerator,
    out: Path,
) -> Task[Any, Any]:
    """Return the task of a stage; later ones start from the runs of others in `out`."""
    match stage, settings.model:
        case "follower", EnvDropSettings():
            return FollowerTask(settings, data, accelerator)
        case _:
            raise UsageError(f"stage {stage!r} cannot be trained yet", code="E-NAV-STAGE")


def format_stages(results: Mapping[str, Any]) -> str:
    """Return the results of stages as lines for people."""
    return "\n\n".join(format_scores(result) for result in results.values())


def _require_folder(out: Path) -> None:
    """Raise UsageError unless the stages can be trained into a run's folder."""
    for stage in STAGES:
        require_no_link(out / stage)
    strange = out.is_dir() and any(out.iterdir()) and not any((out / s).is_dir() for s in STAGES)
    if strange or (out.exists() and not out.is_dir()):
        raise UsageError(
            f"{out} exists and is not a run folder of navigation, which has a folder for each stage; "
            "pass another --out",
            code="E-RUN-FOLDER",
        )
