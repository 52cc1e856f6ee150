"""Score a trained visual entailment model on a split, from the file of its answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ...base.errors import UsageError
from ...featstore import FeatureStore
from ..grids.records import RecordReader
from ..grounded.examples import Examples
from ..grounded.predict import predict
from ..grounded.train import Trained, load_trained
from ..loop.devices import accelerator_of_trained, inference_errors
from .data import VeSplit, read_split
from .examples import encode
from .metric import score
from .predictions import read_predictions, write_predictions
from .settings import VeSettings


@dataclass(frozen=True)
class Asked:
    """A split to answer: its pairs, and those of them whose images have features."""

    split: VeSplit
    examples: Examples

    def score_table(self, predictions: Path) -> dict[str, Any]:
        """Return 100 or 0 for each pair, right or wrong, with its image."""
        said = read_predictions(predictions, self.split)
        image_of = {pair.pair_id: pair.candidates[0] for pair in self.split.pairs}
        for pair_id, image in zip(self.examples.ids, self.examples.image_of_text, strict=True):
            image_of[str(pair_id)] = self.examples.image_ids[image]
        return {
            "split": self.split.name,
            "ids": list(self.split.ids),
            "images": [image_of[pair_id] for pair_id in self.split.ids],
            "scores": [100 * (said[pair.pair_id] == pair.label) for pair in self.split.pairs],
        }


def load_run(run: Path) -> Trained[VeSettings]:
    """Return the best model of a run folder; UsageError where it is no `ve` run or has none."""
    return load_trained(run, "ve", VeSettings)


def eval_ve(
    run: Path,
    *,
    split: str,
    store: Path | None,
    data: Path | None,
    device: str | None,
    skip_missing: int | None = None,
    blind: Path | None = None,
) -> dict[str, Any]:
    """Answer a split with a run's best model, write the answers into the run, return the scores.

    `store`, `data` and `skip_missing` are by default those of the run. With `blind`, a run with
    `blind=true`, its scores on the same pairs stand under "hypothesis_only". Raises UsageError
    for a store with other features than a run's.
    """
    trained = load_run(run)
    twin = None if blind is None else _load_blind(blind)
    features = FeatureStore.open(store or Path(trained.card.store))
    pairs = read_split(trained.settings.dataset, data or Path(trained.card.data), split)
    skips = trained.settings.skip_missing if skip_missing is None else skip_missing

    def answer(trained: Trained[VeSettings]) -> dict[str, Any]:
        trained.require_store(features)
        words, max_tokens = trained.vocabulary.words, trained.settings.max_tokens
        examples = encode(pairs, words, features, max_tokens=max_tokens, skip_missing=skips)
        accelerator = accelerator_of_trained(device, trained.settings)
        reader = RecordReader(features, accelerator.device)
        name = f"predictions_{split}.jsonl"
        return answer_split(trained, Asked(pairs, examples), reader, accelerator, name)

    result = answer(trained)
    return result if twin is None else result | {"hypothesis_only": answer(twin)}


def _load_blind(run: Path) -> Trained[VeSettings]:
    twin = load_run(run)
    if not twin.settings.blind:
        raise UsageError(f"--blind {run} was trained with blind=false; pass a run with blind=true")
    return twin


def answer_split(
    run: Trained[VeSettings],
    asked: Asked,
    reader: RecordReader,
    accelerator: Accelerator,
    name: str,
) -> dict[str, Any]:
    """Answer every pair of a split, write the answers into the run as `name`, score them.

    All processes answer; the first writes and scores, and the result of the others is empty.
    """
    model = accelerator.prepare_model(run.model, evaluation_mode=True)
    answers = run.vocabulary.answers
    with inference_errors(run.settings.precision):
        predictions = predict(model, reader, asked.examples, answers, run.settings, accelerator)
    if not accelerator.is_main_process:
        return {}
    split, path = asked.split, run.folder / name
    write_predictions(path, predictions, split)
    return {
        "split": split.name,
        "epoch": run.epoch,
        "blind": run.settings.blind,
        **score(read_predictions(path, split), split.pairs),
        "skipped": len(split.pairs) - len(asked.examples),
        "dropped": split.dropped,
        "predictions": str(path),
    }


def describe(result: Mapping[str, Any]) -> str:
    """Return a result as lines for people."""
    if not result["split"]:
        return f"trained to epoch {result['epoch']}; no eval_split, so that nothing is scored"
    lines = [
        f"split {result['split']}: {result['n']} pairs, epoch {result['epoch']}",
        f"{result['accuracy']:6.2f}  accuracy",
        *(f"{percent:6.2f}  {label}" for label, percent in result["by_class"].items()),
    ]
    if "hypothesis_only" in result:
        lines.append(f"{result['hypothesis_only']['accuracy']:6.2f}  hypothesis only (blind twin)")
    lines += _describe_confusion(result["confusion"])
    if result["dropped"]:
        lines.append(f"{result['dropped']} pairs dropped: they have no gold label")
    if result["skipped"]:
        lines.append(f"{result['skipped']} pairs without features count as wrong")
    return "\n".join([*lines, result["predictions"]])


def _describe_confusion(confusion: Mapping[str, Mapping[str, int]]) -> list[str]:
    width = max(map(len, confusion))
    head = f"{'gold / predicted':>{width + 3}}" + "".join(f"{label:>15}" for label in confusion)
    rows = [
        f"{gold:>{width + 3}}" + "".join(f"{count:>15}" for count in row.values())
        for gold, row in confusion.items()
    ]
    return [head, *rows]
