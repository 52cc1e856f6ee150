"""From the pairs of a split to examples: its hypotheses as tokens, its images in a store."""

import functools
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...base.errors import ClipfeatError, UsageError
from ...featstore import FeatureStore
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
from ..devices import accelerator_of_trained, accelerator_on, inference_errors
from ..log import LoopTimes
from ..models.start import choose_words, find_start
from ..records import RecordReader
from .answering import (
    Examples,
    GroundedBatch,
    Inputs,
    Predictions,
    Targets,
    Trained,
    load_trained,
    make_examples,
    predict,
    require_apart,
    train_grounded,
    write_results,
)
from .settings import VeSettings


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
        raise ClipfeatError(f"split {split.name!r}: none of its images has features in the store")
    texts = [pair.hypothesis for pair, _ in kept]
    examples = make_examples(
        [pair.pair_id for pair, _ in kept],
        [stored for _, stored in kept],
        texts,
        Targets.of([{LABELS.index(pair.label): 1.0} for pair, _ in kept]),
        words=words,
        max_tokens=max_tokens,
    )
    known = words.known(examples.tokens)
    require_known(known, texts, of=f"split {split.name!r}", what="hypotheses")
    return examples


@dataclass(frozen=True)
class Asked:
    """A split to answer: its pairs, and those of them whose images have features."""

    split: VeSplit
    examples: Examples

    def score_table(self, predictions: Path) -> dict[str, Any]:
        """Return 100 or 0 for each pair, right or wrong, with its image."""
        said = read_labels(predictions, self.split)
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
    pairs = read_pairs(trained.settings.dataset, data or Path(trained.card.data), split)
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
    write_labels(path, predictions, split)
    return {
        "split": split.name,
        "epoch": run.epoch,
        "blind": run.settings.blind,
        **score_pairs(read_labels(path, split), split.pairs),
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


PREDICTIONS = "predictions.jsonl"


def train_ve(
    settings: VeSettings, *, store: Path, data: Path, out: Path, device: str | None
) -> tuple[dict[str, Any], LoopTimes]:
    """Train on one split, score on another; return the best checkpoint's scores, and the times.

    A run that was killed goes on from its last checkpoint. `out` then holds what
    `clipfeat.train.run` lists. Raises UsageError before any work, StoreError for a store
    that cannot be read, ClipfeatError for data that do not fit it.
    """
    features = FeatureStore.open(store)
    settings, pretrained = find_start(settings, features)
    accelerator = accelerator_on(device, settings)
    train_split = read_pairs(settings.dataset, data, settings.train_split)
    held_out = _read_held_out(settings, data, train_split)
    texts = (pair.hypothesis for pair in train_split.pairs)
    vocabulary = Vocabulary(choose_words(settings.model, pretrained, texts), LABELS)
    encode_split = functools.partial(
        encode,
        words=vocabulary.words,
        store=features,
        max_tokens=settings.max_tokens,
        skip_missing=settings.skip_missing,
    )
    examples = encode_split(train_split)
    asked = None if held_out is None else Asked(held_out, encode_split(held_out))
    inputs = Inputs(
        task="ve",
        features=features,
        data=data,
        files=(train_split.file, *((held_out.file,) if held_out else ())),
        vocabulary=vocabulary,
        pretrained=pretrained,
        examples=examples,
        scored=asked.examples if asked else None,
    )
    reader, times = train_grounded(
        inputs,
        settings,
        run=out,
        accelerator=accelerator,
        loss_of=loss_of,
        score=functools.partial(_score, asked.split) if asked else None,
    )
    best = load_run(out)
    result: dict[str, Any] = {"split": "", "epoch": best.epoch, "blind": settings.blind}
    if asked is not None:
        result = answer_split(best, asked, reader, accelerator, PREDICTIONS)
    if accelerator.is_main_process:
        write_results(out, result, asked.score_table(out / PREDICTIONS) if asked else None)
    return result, times


def loss_of(model: nn.Module, batch: GroundedBatch) -> Tensor:
    """Return the mean cross-entropy of the labels, summed over a model's heads."""
    found = model(*batch.inputs)
    heads = (found.logits, *found.auxiliary_logits)
    return torch.stack([cross_entropy(logits, batch.targets) for logits in heads]).sum()


def _score(split: VeSplit, predictions: Predictions) -> dict[str, float]:
    complete = {pair_id: predictions.get(pair_id, NO_ANSWER) for pair_id in split.ids}
    scores = score_pairs(complete, split.pairs)
    return {"score": scores["accuracy"], **scores["by_class"]}


def _read_held_out(settings: VeSettings, data: Path, train_split: VeSplit) -> VeSplit | None:
    """Return the split that scores the model, None where the settings name none."""
    if not settings.eval_split:
        return None
    split = read_pairs(settings.dataset, data, settings.eval_split)
    require_apart(settings, train_split.ids, split.ids, of="pairs")
    return split
