"""The VQA task: train a model on the grids of a store."""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ...base.files import local_path
from ...featstore import FeatureStore
from ..grounded.examples import GroundedBatch
from ..grounded.start import choose_words, find_start
from ..grounded.train import Inputs, Predictions, require_apart, train_grounded, write_results
from ..loop.devices import accelerator_on
from ..loop.profile import LoopTimes
from ..texts.vocabulary import Vocabulary
from .data import choose_answers, encode
from .datasets.read import read_split
from .datasets.split import Split
from .evaluation import Asked, answer_split
from .predict import load_run
from .settings import VqaSettings

PREDICTIONS = "predictions.json"


def train_vqa(
    settings: VqaSettings, *, store: Path, data: Path, out: Path, device: str | None
) -> tuple[dict[str, Any], LoopTimes]:
    """Train on one split, score on another; return the best checkpoint's scores, and the times.

    A run that was killed goes on from its last checkpoint. `out` then holds what
    `clipfeat.train.runs.folder` lists. Raises UsageError before any work, StoreError for a store
    that cannot be read, ClipfeatError for data that do not fit it.
    """
    features = FeatureStore.open(store)
    settings, pretrained = find_start(settings, features)
    accelerator = accelerator_on(device, settings)
    train_split = read_split(settings.dataset, data, settings.train_split, annotated=True)
    held_out = _read_held_out(settings, data, train_split)
    answers = choose_answers(
        train_split,
        min_answer_count=settings.min_answer_count,
        answer_list=settings.answer_list,
    )
    texts = (question.text for question in train_split.questions)
    vocabulary = Vocabulary(choose_words(settings.model, pretrained, texts), answers)
    encode_split = functools.partial(
        encode,
        vocabulary=vocabulary,
        store=features,
        max_tokens=settings.max_tokens,
        skip_missing=settings.skip_missing,
    )
    examples = encode_split(train_split)
    asked = None if held_out is None else Asked(held_out, encode_split(held_out))
    given = (local_path(settings.answer_list),) if settings.answer_list else ()
    inputs = Inputs(
        task="vqa",
        features=features,
        data=data,
        files=(*train_split.files, *(held_out.files if held_out else ()), *given),
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
        score=functools.partial(_score, asked) if asked else None,
    )
    best = load_run(out)
    result: dict[str, Any] = {"split": "", "epoch": best.epoch, "blind": settings.blind}
    if asked is not None:
        result = answer_split(best, asked, reader, accelerator, PREDICTIONS)
    if accelerator.is_main_process:
        write_results(out, result, asked.score_table(out / PREDICTIONS) if asked else None)
    return result, times


def loss_of(model: nn.Module, batch: GroundedBatch) -> Tensor:
    """Return the binary cross-entropy against the soft scores, summed over answers and heads.

    The sum over answers (mean times their number) is what Pythia and MCAN use; each further
    head of a model adds its own, as in MoVie+MCAN.
    """
    found = model(*batch.inputs)
    losses = [
        binary_cross_entropy_with_logits(logits, batch.targets) * logits.shape[1]
        for logits in (found.logits, *found.branches)
    ]
    return torch.stack(losses).sum()


def _score(asked: Asked, predictions: Predictions) -> dict[str, float]:
    scores = asked.split.score(asked.complete(predictions))
    return {"score": scores["overall"], **scores["by_answer_type"]}


def _read_held_out(settings: VqaSettings, data: Path, train_split: Split) -> Split | None:
    """Return the split that scores the model, None where the settings name none."""
    if not settings.eval_split:
        return None
    split = read_split(settings.dataset, data, settings.eval_split, annotated=True)
    require_apart(settings, train_split.ids, split.ids, of="questions")
    return split
