"""Runs in stages: captioning's and navigation's, with a folder in RUN for each stage."""

from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator

from ..base.errors import UsageError
from .engine import log_once
from .log import LoopTimes
from .run import BEST, RESULT, SETTINGS, require_no_link


class StageTimes(dict[str, LoopTimes]):
    """Where the time of each stage went."""

    def table(self) -> str:
        """Return the figures as lines for people."""
        return "\n".join(f"stage {stage}\n{times.table()}" for stage, times in self.items())


def require_folder_of_stages(out: Path, stages: Sequence[str], *, of: str) -> None:
    """Raise UsageError unless the stages of a task can be trained into a folder.

    `of` names the task. E-RUN-FOLDER: it is not empty, and no run of that task; E-RUN-LINK.
    """
    for stage in stages:
        require_no_link(out / stage)
    strange = out.is_dir() and any(out.iterdir()) and not any((out / s).is_dir() for s in stages)
    if strange or (out.exists() and not out.is_dir()):
        raise UsageError(
            f"{out} exists and is not a run folder of {of}, which has a folder for each stage; pass "
            "another --out",
            code="E-RUN-FOLDER",
        )


def require_earlier_stage(out: Path, stage: str, *, of: str, remedy: str) -> None:
    """Raise UsageError (E-RUN-BEST) unless `stage`, from which stage `of` starts, has a model."""
    if not (out / stage / BEST).is_file():
        raise UsageError(
            f"stage {of} starts from the best model of stage {stage}, and {out / stage} has none; "
            f"train that stage first, or pass --stage {remedy}",
            code="E-RUN-BEST",
        )


def log_unfinished(accelerator: Accelerator, folder: Path, epoch: int, *, of: str) -> None:
    """Log where stage `of` starts from a model, of `epoch`, of a stage that has not finished."""
    if not (folder / RESULT).is_file():
        text = f"{folder} has not finished; stage {of} starts from its epoch {epoch}"
        log_once(accelerator, text)


def last_stage(run: Path, stages: Sequence[str], *, of: str) -> Path:
    """Return the folder of the last stage of a run that has a model; a stage's folder is itself one.

    `of` names the task that has these stages. Raises UsageError (E-RUN-BEST) if no stage has a model.
    """
    if (run / SETTINGS).is_file():
        return run
    for stage in reversed(stages):
        require_no_link(run / stage)  # predictions will be written there
        if (run / stage / BEST).is_file():
            return run / stage
    raise UsageError(
        f"{run} has no {of} run with a model: "
        f"{' and '.join(str(run / stage / BEST) for stage in stages)} do not exist; train one first, "
        "or pass the folder that was its --out",
        code="E-RUN-BEST",
    )
