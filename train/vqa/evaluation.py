"""Score a trained VQA model on a split, from the file of its answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ...featstore import FeatureStore
from ..grids.records import RecordReader
from ..grounded.examples import Examples
from ..grounded.predict import predict
from ..loop.devices import accelerator_of_trained, inference_errors
from .data import encode
from .datasets.read import read_split
from .datasets.split import QuestionId, Split
from .metric import SCORES
from .predict import TrainedVqa, load_run
from .predictions import describe_scores, read_predictions, write_predictions


@dataclass(frozen=True)
class Asked:
    """A split to answer: its questions, and those of them whose images have features."""

    split: Split
    examples: Examples

    def complete(self, predictions: Mapping[QuestionId, str]) -> dict[QuestionId, str]:
        """Return an answer to every question: the empty one where its image has no features."""
        return {question_id: predictions.get(question_id, "") for question_id in self.split.ids}

    def score_table(self, predictions: Path) -> dict[str, Any]:
        """Return the score of each question in percent, with the image that it asks about."""
        scores = self.split.score_each(read_predictions(predictions, self.split))
        image_of = {q.question_id: q.candidates[0] for q in self.split.questions}
        for question_id, image in zip(self.examples.ids, self.examples.image_of_text, strict=True):
            image_of[question_id] = self.examples.image_ids[image]
        return {
            "split": self.split.name,
            "ids": list(scores),
            "images": [image_of[question_id] for question_id in scores],
            "scores": [round(100 * score, 2) for score in scores.values()],
        }


def eval_vqa(
    run: Path,
    *,
    split: str,
    store: Path | None,
    data: Path | None,
    device: str | None,
    skip_missing: int | None = None,
) -> dict[str, Any]:
    """Answer a split with a run's best model, write the answers into the run, return the scores.

    `store`, `data` and `skip_missing` are by default those of the run. The scores are None on a
    split without annotations. Raises UsageError for a store with other features than the run's.
    """
    trained = load_run(run)
    accelerator = accelerator_of_trained(device, trained.settings)
    features = FeatureStore.open(store or Path(trained.card.store))
    trained.require_store(features)
    settings = trained.settings
    folder = data or Path(trained.card.data)
    questions = read_split(settings.dataset, folder, split, annotated=False)
    examples = encode(
        questions,
        trained.vocabulary,
        features,
        max_tokens=settings.max_tokens,
        skip_missing=settings.skip_missing if skip_missing is None else skip_missing,
    )
    name = f"predictions_{split}.json"
    reader = RecordReader(features, accelerator.device)
    return answer_split(trained, Asked(questions, examples), reader, accelerator, name)


def answer_split(
    run: TrainedVqa, asked: Asked, reader: RecordReader, accelerator: Accelerator, name: str
) -> dict[str, Any]:
    """Answer every question of a split, write the answers into the run as `name`, score them.

    All processes answer; the first writes and scores, and the result of the others is empty.
    """
    model = accelerator.prepare_model(run.model, evaluation_mode=True)
    answers = run.vocabulary.answers
    with inference_errors(run.settings.precision):
        predictions = predict(model, reader, asked.examples, answers, run.settings, accelerator)
    if not accelerator.is_main_process:
        return {}
    split, path = asked.split, run.folder / name
    write_predictions(path, asked.complete(predictions), split)
    scores: dict[str, Any] = {"n": len(split.questions)} | dict.fromkeys(SCORES)
    if split.annotations is not None:
        scores = split.score(read_predictions(path, split))
    return {
        "split": split.name,
        "epoch": run.epoch,
        "blind": run.settings.blind,
        **scores,
        "skipped": len(split.questions) - len(asked.examples),
        "predictions": str(path),
    }


def describe(result: Mapping[str, Any]) -> str:
    """Return a result as lines for people."""
    if not result["split"]:
        return f"trained to epoch {result['epoch']}; no eval_split, so that nothing is scored"
    lines = [f"split {result['split']}: {result['n']} questions, epoch {result['epoch']}"]
    if result["overall"] is None:
        lines.append("no annotations here: predictions only, nothing scored")
    else:
        lines += describe_scores(result)
    if result["skipped"]:
        lines.append(f"{result['skipped']} questions skipped: their images have no features")
    return "\n".join([*lines, result["predictions"]])
