"""The visual entailment task: train a model on the grids of a store."""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...featstore import FeatureStore
from ..grounded.examples import GroundedBatch
from ..grounded.start import choose_words, find_start
from ..grounded.train import Inputs, Predictions, require_apart, train_grounded, write_results
from ..loop.devices import accelerator_on
from ..loop.profile import LoopTimes
from ..texts.vocabulary import Vocabulary
from .data import LABELS, VeSplit, read_split
from .evaluation import Asked, answer_split, load_run
from .examples import encode
from .metric import NO_ANSWER, score
from .settings import VeSettings

PREDICTIONS = "predictions.jsonl"


def train_ve(
    settings: VeSettings, *, store: Path, data: Path, out: Path, device: str | None
) -> tuple[dict[str, Any], LoopTimes]:
    """Train on one split, score on another; return the best checkpoint's scores, and the times.

    A run that was killed goes on from its last checkpoint. `out` then holds what
    `clipfeat.train.runs.folder` lists. Raises UsageError before any work, StoreError for a store
    that cannot be read, ClipfeatError for data that do not fit it.
    """
    features = FeatureStore.open(store)
    settings, pretrained = find_start(settings, features)
    accelerator = accelerator_on(device, settings)
    train_split = read_split(settings.dataset, data, settings.train_split)
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
    heads = (found.logits, *found.branches)
    return torch.stack([cross_entropy(logits, batch.targets) for logits in heads]).sum()


def _score(split: VeSplit, predictions: Predictions) -> dict[str, float]:
    complete = {pair_id: predictions.get(pair_id, NO_ANSWER) for pair_id in split.ids}
    scores = score(complete, split.pairs)
    return {"score": scores["accuracy"], **scores["by_class"]}


def _read_held_out(settings: VeSettings, data: Path, train_split: VeSplit) -> VeSplit | None:
    """Return the split that scores the model, None where the settings name none."""
    if not settings.eval_split:
        return None
    split = read_split(settings.dataset, data, settings.eval_split)
    require_apart(settings, train_split.ids, split.ids, of="pairs")
    return split
