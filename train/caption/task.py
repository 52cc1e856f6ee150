"""The captioning task: two stages on the grids of a store, each a run of the shared loop.

RUN/xe     learns the captions that people wrote, by cross-entropy
RUN/scst   goes on from its best model, by the CIDEr-D of the model's own captions
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from ...base.errors import UsageError
from ...featstore import FeatureStore
from ..grids.records import RecordReader
from ..grounded.train import write_results
from ..loop.devices import accelerator_on
from ..loop.profile import LoopTimes
from ..loop.run import open_run
from ..loop.train import say_once, train
from ..runs.folder import BEST, RESULT, require_no_link, require_same_run
from .evaluation import caption_split, describe
from .inputs import Inputs, read_inputs
from .settings import SCST, STAGES, XE, CaptionSettings
from .stages import Stage, cross_entropy_card, cross_entropy_stage, self_critical_stage
from .trained import load_stage
from .write import write_captions

PREDICTIONS = "predictions.json"


class StageTimes(dict[str, LoopTimes]):
    """Where the time of each stage went."""

    def table(self) -> str:
        """Return the figures as lines for people."""
        return "\n".join(f"stage {stage}\n{times.table()}" for stage, times in self.items())


def train_caption(
    settings: CaptionSettings,
    *,
    stages: Sequence[str],
    store: Path,
    data: Path,
    out: Path,
    device: str | None,
) -> tuple[dict[str, Any], StageTimes]:
    """Train the named stages; return {stage: the best checkpoint's scores}, and the times.

    A run that was killed goes on from its last checkpoint, in whichever stage that is. `out` then
    holds a folder for each stage, with what `clipfeat.train.runs.folder` lists. Raises UsageError
    before any work, StoreError for a store that cannot be read, ClipfeatError for data that do
    not fit it.
    """
    _require_folder(out, stages)
    inputs = read_inputs(settings, FeatureStore.open(store), data)
    if XE not in stages:
        require_same_run(out / XE, cross_entropy_card(settings, inputs))
    results: dict[str, Any] = {}
    times = StageTimes()
    for name in stages:
        accelerator = accelerator_on(device, settings)
        if accelerator.is_main_process:
            out.mkdir(parents=True, exist_ok=True)
        reader = RecordReader(inputs.features, accelerator.device, settings.cache)
        reader.require_room(inputs.image_ids, processes=accelerator.num_processes)
        if name == XE:
            stage = cross_entropy_stage(settings, inputs, reader)
        else:
            first = load_stage(out / XE)
            if not (out / XE / RESULT).is_file():
                say_once(
                    accelerator, f"{out / XE} is not done; going on from its epoch {first.epoch}"
                )
            stage = self_critical_stage(settings, inputs, reader, accelerator, first)
        results[name], times[name] = _train(stage, inputs, reader, accelerator, out / name)
    return results, times


def describe_stages(results: Mapping[str, Any]) -> str:
    """Return the results of stages as lines for people."""
    return "\n\n".join(describe(result) for result in results.values())


def _train(
    stage: Stage, inputs: Inputs, reader: RecordReader, accelerator: Accelerator, run: Path
) -> tuple[dict[str, Any], LoopTimes]:
    """Train a stage, or go on, until `run` holds its best checkpoint and what that comes to."""
    asked, settings = inputs.asked, stage.settings

    def evaluate(model: nn.Module) -> Mapping[str, float]:
        assert asked is not None
        captions = write_captions(
            model, reader, asked.examples, stage.vocabulary, settings, accelerator
        )
        return {"score": asked.score(captions)}

    with open_run(run, stage.card, stage.vocabulary, accelerator):
        times = train(
            stage.model,
            settings,
            run=run,
            accelerator=accelerator,
            order=stage.order,
            read_batch=stage.read_batch,
            loss_of=stage.loss_of,
            evaluate=evaluate if asked else None,
        )
    best = load_stage(run)
    result = {"split": "", "stage": run.name, "epoch": best.epoch, "blind": settings.blind}
    table = None
    if asked is not None:
        result, captions = caption_split(best, asked, reader, accelerator, run / PREDICTIONS)
        table = asked.score_table(captions)
    if accelerator.is_main_process:
        write_results(run, result, table)
    return result, times


def _require_folder(out: Path, stages: Sequence[str]) -> None:
    """Raise UsageError unless the stages can be trained into a run's folder."""
    for stage in STAGES:
        require_no_link(out / stage)
    strange = out.is_dir() and any(out.iterdir()) and not any((out / s).is_dir() for s in STAGES)
    if strange or (out.exists() and not out.is_dir()):
        raise UsageError(
            f"{out} exists and is no run folder of captioning, which has a folder for each "
            "stage; pass another --out"
        )
    if SCST in stages and XE not in stages and not (out / XE / BEST).is_file():
        raise UsageError(
            f"stage {SCST} goes on from the best model of stage {XE}, and {out / XE} has none; "
            f"train it first, or pass --stage {XE},{SCST}"
        )
