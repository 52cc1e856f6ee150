"""The visual entailment task: from the pairs of a split to a trained model and its scores."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...base.errors import ClipfeatError, UsageError
from ...base.files import require_file
from ...base.text import counted
from ...featstore import FeatureStore
from ..checkpoint import TrainedRun
from ..data.ids import find_images
from ..data.snli_ve import (
    LABELS,
    NO_ANSWER,
    VeSplit,
    read_labels,
    read_pairs,
    score_pairs,
    write_labels,
)
from ..data.vocabulary import TextVocabulary, Vocabulary, require_known
from ..devices import accelerator_of_trained, accelerator_on
from ..models.start import choose_words, find_start
from ..records import RecordReader
from ..task import Report, require_apart
from .answering import (
    AnswerBatch,
    AnsweringTask,
    Examples,
    SoftAnswers,
    load_answering_run,
    make_examples,
    predict_with,
    require_store,
)
from .settings import VeSettings

PREDICTIONS = "predictions.jsonl"
TrainedVe = TrainedRun[VeSettings, Vocabulary, nn.Module]


def encode(
    split: VeSplit,
    words: TextVocabulary,
    store: Container[str],
    *,
    max_tokens: int,
    skip_missing: int,
) -> Examples:
    """Return the split's pairs as numbers; the premise is the image, its caption is not read.

    Pairs whose images have no features are left out, at most `skip_missing` of them. Raises
    ClipfeatError where more lack them, or all, and as `require_known` does.
    """
    ids = find_images(
        [pair.candidates for pair in split.pairs],
        store,
        texts=f"hypotheses of split {split.name!r} are",
        skip_missing=skip_missing,
    )
    kept = [(pair, stored) for pair, stored in zip(split.pairs, ids, strict=True) if stored]
    if not kept:
        raise ClipfeatError(
            f"split {split.name!r}: none of its images has features in the store",
            code="E-IMAGES-NONE",
        )
    texts = [pair.hypothesis for pair, _ in kept]
    examples = make_examples(
        [pair.pair_id for pair, _ in kept],
        [stored for _, stored in kept],
        texts,
        SoftAnswers.of([{LABELS.index(pair.label): 1.0} for pair, _ in kept]),
        words=words,
        max_tokens=max_tokens,
    )
    known = words.known(examples.tokens)
    require_known(known, texts, of=f"split {split.name!r}", noun="hypotheses")
    return examples


@dataclass(frozen=True)
class EvalSplit:
    """A split to answer: its pairs, and the examples of those whose images have features."""

    split: VeSplit
    examples: Examples

    def score_table(self, predictions: Path) -> dict[str, Any]:
        """Return 100 or 0 for each pair, right or wrong, with its image."""
        predicted = read_labels(predictions, self.split)
        image_of = {pair.pair_id: pair.candidates[0] for pair in self.split.pairs}
        for pair_id, image in zip(self.examples.ids, self.examples.image_of_text, strict=True):
            image_of[str(pair_id)] = self.examples.image_ids[image]
        return {
            "split": self.split.name,
            "ids": list(self.split.ids),
            "images": [image_of[pair_id] for pair_id in self.split.ids],
            "scores": [100 * (predicted[pair.pair_id] == pair.label) for pair in self.split.pairs],
        }


class EntailmentTask(AnsweringTask[VeSettings]):
    """Train on the pairs of one split, and score the model on another."""

    name = "ve"

    def __init__(self, settings: VeSettings, *, store: Path, data: Path, device: str | None = None):
        """Read both splits, and make the model that training begins with.

        Raises UsageError before any work, StoreError for a store that cannot be read, and
        ClipfeatError for data that do not fit it.
        """
        features = FeatureStore.open(store)
        settings, pretrained = find_start(settings, features)
        accelerator = accelerator_on(device, settings)
        training = read_pairs(settings.dataset, data, settings.train_split)
        held_out = None
        if settings.eval_split:
            held_out = read_pairs(settings.dataset, data, settings.eval_split)
            require_apart(settings, training.ids, held_out.ids, of="pairs")
        texts = (pair.hypothesis for pair in training.pairs)
        vocabulary = Vocabulary(choose_words(settings.model, pretrained, texts), LABELS)
        limits = {"max_tokens": settings.max_tokens, "skip_missing": settings.skip_missing}
        examples = encode(training, vocabulary.words, features, **limits)
        self.eval_split = (
            EvalSplit(held_out, encode(held_out, vocabulary.words, features, **limits))
            if held_out
            else None
        )
        super().__init__(
            settings,
            store=features,
            data=data,
            files=(training.file, *((held_out.file,) if held_out else ())),
            vocabulary=vocabulary,
            pretrained=pretrained,
            examples=examples,
            held_out=self.eval_split.examples if self.eval_split else None,
            accelerator=accelerator,
        )

    def loss(self, model: nn.Module, batch: AnswerBatch) -> Tensor:
        """Return the mean cross-entropy of the labels, shape ()."""
        return label_loss(model, batch)

    def score(self, answers: Mapping[Any, str]) -> Mapping[str, float]:
        """Return the accuracy, over all and by label; a pair without an answer counts as wrong."""
        assert self.eval_split is not None
        split = self.eval_split.split
        complete = {pair_id: answers.get(pair_id, NO_ANSWER) for pair_id in split.ids}
        scores = score_pairs(complete, split.pairs)
        return {"score": scores["accuracy"], **scores["by_class"]}

    def score_file(self, answers: Mapping[Any, str], run: Path, epoch: int) -> Report:
        """Write the labels of the held-out pairs into the run, and score that file."""
        assert self.eval_split is not None
        path = run / PREDICTIONS
        result = score_labels(self.eval_split, answers, path, self.settings, epoch)
        return Report(result, self.eval_split.score_table(path))


def label_loss(model: nn.Module, batch: AnswerBatch) -> Tensor:
    """Return the mean cross-entropy of the labels, summed over a model's heads; shape ()."""
    outputs = model(*batch.inputs)
    heads = (outputs.logits, *outputs.auxiliary_logits)
    return torch.stack([cross_entropy(logits, batch.targets) for logits in heads]).sum()


def score_labels(
    eval_split: EvalSplit, labels: Mapping[Any, str], path: Path, settings: VeSettings, epoch: int
) -> dict[str, Any]:
    """Write the labels of a split's pairs to `path`; return the scores of that file."""
    split = eval_split.split
    write_labels(path, labels, split)
    return {
        "split": split.name,
        "epoch": epoch,
        "blind": settings.blind,
        **score_pairs(read_labels(path, split), split.pairs),
        "skipped": len(split.pairs) - len(eval_split.examples),
        "dropped": split.dropped,
        "predictions": str(path),
    }


def load_run(run: Path) -> TrainedVe:
    """Return the best model of a run folder; raises UsageError as `load_trained` does."""
    return load_answering_run(run, "ve", VeSettings)


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
    """Label a split with a run's best model, write the labels into the run, return the scores.

    `store`, `data` and `skip_missing` are by default those of the run. With `blind`, a run with
    `blind=true`, its scores on the same pairs stand under "hypothesis_only". Raises UsageError
    for a store with other features than a run's.
    """
    trained = load_run(run)
    twin = None if blind is None else _load_blind(blind)
    features = FeatureStore.open(store or Path(trained.manifest.store))
    pairs = read_pairs(trained.settings.dataset, data or Path(trained.manifest.data), split)
    skipped = trained.settings.skip_missing if skip_missing is None else skip_missing

    def result_of(trained: TrainedVe) -> dict[str, Any]:
        require_file(path := trained.folder / f"predictions_{split}.jsonl", "predictions")
        settings, words = trained.settings, trained.vocabulary.words
        require_store(trained, features)
        examples = encode(
            pairs, words, features, max_tokens=settings.max_tokens, skip_missing=skipped
        )
        accelerator = accelerator_of_trained(device, settings)
        reader = RecordReader(features, accelerator.device)
        labels = predict_with(trained, reader, examples, accelerator)
        return score_labels(EvalSplit(pairs, examples), labels, path, settings, trained.epoch)

    result = result_of(trained)
    return result if twin is None else result | {"hypothesis_only": result_of(twin)}


def _load_blind(run: Path) -> TrainedVe:
    twin = load_run(run)
    if not twin.settings.blind:
        raise UsageError(
            f"--blind {run} was trained with blind=false; pass a run with blind=true",
            code="E-RUN-BLIND",
        )
    return twin


def format_result(result: Mapping[str, Any]) -> str:
    """Return a result as lines for people."""
    if not result["split"]:
        return f"trained to epoch {result['epoch']}; no eval_split, so that nothing is scored"
    lines = [
        f"split {result['split']}: {counted(result['n'], 'pair')}, epoch {result['epoch']}",
        f"{result['accuracy']:6.2f}  accuracy",
        *(f"{percent:6.2f}  {label}" for label, percent in result["by_class"].items()),
    ]
    if "hypothesis_only" in result:
        lines.append(f"{result['hypothesis_only']['accuracy']:6.2f}  hypothesis only (blind twin)")
    lines += _confusion_lines(result["confusion"])
    if result["dropped"]:
        lines.append(f"{counted(result['dropped'], 'pair')} dropped, without a gold label")
    if result["skipped"]:
        lines.append(f"counted as wrong: {counted(result['skipped'], 'pair')} without features")
    return "\n".join([*lines, result["predictions"]])


def _confusion_lines(confusion: Mapping[str, Mapping[str, int]]) -> list[str]:
    width = max(map(len, confusion))
    head = f"{'gold / predicted':>{width + 3}}" + "".join(f"{label:>15}" for label in confusion)
    rows = [
        f"{gold:>{width + 3}}" + "".join(f"{count:>15}" for count in row.values())
        for gold, row in confusion.items()
    ]
    return [head, *rows]
