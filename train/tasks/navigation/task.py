"""The navigation task: its examples, its walks on the held-out splits and their scores."""

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Int
from torch import nn

from ....base.text import counted
from ...batches import Numbers, Order, cut
from ...engine import eval_batch_size, log_once
from ...metrics.navigation import collapse
from ...navigation.environment import Environment
from ...navigation.episodes import Episode
from ...navigation.evaluation import evaluate_walks, format_result, mean_scores, score_walks
from ...navigation.results import Walked, write_results
from ...normalize import with_chosen_norm
from ...task import Report, Task, TensorBatch, format_unscored, unscored
from .data import NavigationData, Split
from .settings import NavigationSettings

logger = logging.getLogger(__name__)

TASK = "nav"
V = TypeVar("V")
# Of a model, a split and rows of it: the walks, as `NavigationTask.walk` returns them.
Walk = Callable[[Any, Split, Int[np.ndarray, " _"]], list[list[int]]]


class StageTask(Task[NavigationSettings, nn.Module]):
    """A stage of navigation; an example is an instruction of the training split."""

    def __init__(
        self,
        settings: NavigationSettings,
        data: NavigationData,
        accelerator: Accelerator,
        model: nn.Module,
    ):
        """Train `model`; its `norm` is that of the data."""
        self.settings = with_chosen_norm(settings, model)
        self.accelerator, self.world, self.model = accelerator, data, model
        self.store, self.data, self.data_files = data.store, data.files.folder, data.files.read
        self.order = Order(np.arange(len(data.training)))
        if remark := describe_selection(settings):
            log_once(accelerator, remark)

    def fetch(self, image_ids: Sequence[str]) -> None:
        """Fetch nothing: the features of all viewpoints are in memory."""

    def batch(self, numbers: Numbers, epoch: int) -> TensorBatch:
        """Return the instructions at `numbers`."""
        return self.world.training.batch(numbers)

    def vocabulary_record(self) -> Mapping[str, Any]:
        """Return the words."""
        return self.world.words.record()

    def result(
        self, run: Path, epoch: int, metric: str, splits: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the result of the best checkpoint, of `epoch`, which `metric` chose."""
        return {
            "split": self.settings.eval_split,
            "stage": run.name,
            "epoch": epoch,
            "blind": self.settings.blind,
            "selected_on": self.settings.select_split,
            "metric": metric,
            "splits": splits,
        }


class NavigationTask(StageTask):
    """A stage whose model walks; it is scored by its walks on the held-out splits."""

    name = TASK

    @abstractmethod
    def walk(self, model: Any, split: Split, rows: Int[np.ndarray, " _"]) -> list[list[int]]:
        """Return the walks of a model, in evaluation mode, on some instructions of a split.

        A walk is viewpoints by their numbers in the environment, from the start on.
        """
        ...

    def evaluate(self, model: nn.Module) -> Mapping[str, Any]:
        """Return the means of each held-out split; the score is that of `select_split`."""
        scans = self.world.environment.scans
        means = {
            split.name: mean_scores(self.walks(model, split), scans)
            for split in self.world.held_out
        }
        if not means:
            return {}
        return {"score": means[self.settings.select_split][self.settings.metric], **means}

    def report(self, model: nn.Module, run: Path, epoch: int) -> Report:
        """Write the walks of each held-out split into the run, and score them.

        The scores by instruction, for comparisons, are the successes on the last split.
        """
        if not self.world.held_out:
            return unscored(self.settings, epoch)
        walks = {split.name: self.walks(model, split) for split in self.world.held_out}
        if not self.accelerator.is_main_process:
            return Report({})
        splits = {
            split.name: report_split(run, split, walks[split.name], self.world.environment)
            for split in self.world.held_out
        }
        last = self.world.held_out[-1]
        result = self.result(run, epoch, self.settings.metric, splits)
        return Report(result, score_table(last.name, walks[last.name], self.world.environment))

    def walks(self, model: nn.Module, split: Split) -> list[Walked]:
        """Return the walks on all instructions of a split, in its order; of all processes."""
        walker = self.accelerator.unwrap_model(model)
        environment = self.world.environment
        return walk_split(walker, self.walk, split, environment, self.settings, self.accelerator)


def walk_split(
    model: Any,
    walk: Walk,
    split: Split,
    environment: Environment,
    settings: NavigationSettings,
    accelerator: Accelerator,
) -> list[Walked]:
    """Return the walks of a model on all instructions of a split, in its order; of all processes."""
    model.eval()
    rows = np.arange(len(split))
    found = gathered(rows, lambda part: walk(model, split, part), settings, accelerator)
    return [
        _as_walked(episode, found[row], environment) for row, episode in enumerate(split.episodes)
    ]


def gathered(
    rows: Numbers,
    infer: Callable[[Numbers], Sequence[V]],
    settings: NavigationSettings,
    accelerator: Accelerator,
) -> dict[int, V]:
    """Return {row: what `infer` makes of it}, which takes a batch of rows at a time.

    With several processes each does its part of the batches, and has all rows in the end.
    """
    mine: list[tuple[int, V]] = []
    batches = cut(rows, eval_batch_size(settings))
    for part in batches[accelerator.process_index :: accelerator.num_processes]:
        with torch.inference_mode(), accelerator.autocast():
            mine += zip(part.tolist(), infer(part), strict=True)
    return dict(gather_object(mine))


def _as_walked(episode: Episode, walk: Sequence[int], environment: Environment) -> Walked:
    """Return a walk and its reference, with viewpoints by their numbers in the scan."""
    scan = environment.scans[episode.scan]
    first = environment.numbers[scan.name, scan.viewpoints[0]]
    reference = tuple(scan.index[viewpoint] for viewpoint in episode.path)
    return Walked(episode, tuple(collapse([number - first for number in walk])), reference)


def describe_selection(settings: NavigationSettings) -> str:
    """Return why a reported score is optimistic, "" where none is."""
    if not settings.eval_split:
        return ""
    chosen = settings.select_split
    if settings.eval_splits == (chosen,):
        return (
            f"{chosen} chooses the checkpoint and is the only split that is scored, so that its score "
            "is optimistic; add another to eval_split"
        )
    if "unseen" in chosen:
        return (
            f"{chosen} chooses the checkpoint, as in published work, so that its score is optimistic; "
            "select_split=val_seen avoids this"
        )
    return ""


def report_split(
    run: Path, split: Split, walks: Sequence[Walked], environment: Environment
) -> dict[str, Any]:
    """Write the walks of a split into a run; return their scores, none where goals are hidden."""
    path = predictions_path(run, split)
    write_results(path, walks, split.read, environment.scans)
    scores = evaluate_walks(walks, environment.scans) if split.read.has_goals else {}
    return {
        "n": len(walks),
        **scores,
        "left_out": split.read.left_out.counts,
        "predictions": str(path),
    }


def predictions_path(run: Path, split: Split) -> Path:
    """Return the file that has the walks on a split in a run's folder."""
    suffix = "jsonl" if split.read.dataset == "rxr" else "json"
    return run / f"predictions_{split.name}.{suffix}"


def score_table(split: str, walks: Sequence[Walked], environment: Environment) -> dict[str, Any]:
    """Return what RUN/scores.json holds: 100 for each success, else 0.

    Intervals draw paths with all of their instructions, as those of other tasks draw images.
    """
    scores = score_walks(walks, environment.scans)
    return {
        "split": split,
        "ids": [each.episode.instruction_id for each in walks],
        "images": [f"{each.episode.scan} {each.episode.path_id}" for each in walks],
        "scores": [100 * each.sr for each in scores],
    }


def format_scores(result: Mapping[str, Any]) -> str:
    """Return the result of a stage whose model walks as lines for people."""
    if text := format_unscored(result):
        return text
    lines = [format_stage(result, result["metric"])]
    for name, scores in result["splits"].items():
        lines += ["", format_split(name, scores)]
    return "\n".join(lines)


def format_stage(result: Mapping[str, Any], metric: str) -> str:
    """Return which checkpoint of a stage was scored, as a line for people."""
    blind = ", blind" if result["blind"] else ""
    return (
        f"stage {result['stage']}, epoch {result['epoch']}{blind}; the checkpoint has the best "
        f"{metric} on {result['selected_on']}"
    )


def format_split(name: str, scores: Mapping[str, Any]) -> str:
    """Return the scores of `report_split` as lines for people."""
    left_out = sum(scores["left_out"].values())
    lines = [f"{name}: {counted(scores['n'], 'instruction')}"]
    if left_out:
        lines[0] += f", {left_out} left out"
    if "sr" in scores:
        lines.append(format_result(scores))
    else:
        lines[0] += "; the goals are hidden, so that nothing is scored"
    return "\n".join([*lines, f"written: {scores['predictions']}"])
