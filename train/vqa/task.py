"""The VQA task: train a model on the grids of a store."""

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ...base.errors import UsageError
from ...featstore import FeatureStore
from ..devices import accelerator_on
from ..examples import GroundedBatch, read_batch
from ..glove import read_glove
from ..jsonfile import write_json
from ..loop import train
from ..models.build import build_model
from ..normalize import FeatureNorm, channel_statistics
from ..pictures.curves import draw_curves
from ..profile import LoopTimes
from ..records import RecordReader
from ..runfolder import CURVES, SCORES, RunCard, data_digests, start_run
from .data import Vocabulary, build_vocabulary, encode
from .datasets.read import read_split
from .datasets.split import Split
from .evaluation import Asked, answer_split
from .predict import VOCABULARY, load_run, predict
from .settings import VqaSettings

PREDICTIONS = "predictions.json"
RESULT = "result.json"


def train_vqa(
    settings: VqaSettings, *, store: Path, data: Path, out: Path, device: str | None
) -> tuple[dict[str, Any], LoopTimes]:
    """Train on one split, score on another; return the best checkpoint's scores, and the times.

    A run that was killed goes on from its last epoch. `out` then holds what
    `clipfeat.train.runfolder` lists. Raises UsageError before any work, StoreError for a store
    that cannot be read, ClipfeatError for data that do not fit it.
    """
    accelerator = accelerator_on(device, settings)
    features = FeatureStore.open(store)
    train_split = read_split(settings.dataset, data, settings.train_split, annotated=True)
    held_out = _read_held_out(settings, data, train_split)
    vocabulary = build_vocabulary(
        train_split,
        min_answer_count=settings.min_answer_count,
        answer_list=settings.answer_list,
    )
    encode_split = functools.partial(
        encode,
        vocabulary=vocabulary,
        store=features,
        max_tokens=settings.max_tokens,
        skip_missing=settings.skip_missing,
    )
    examples = encode_split(train_split)
    asked = None if held_out is None else Asked(held_out, encode_split(held_out))
    glove = _read_glove(settings, vocabulary)
    card = _card(settings, features, data, (train_split, *((held_out,) if held_out else ())))
    with accelerator.main_process_first():
        start_run(out, card, writes=accelerator.is_main_process)
    if accelerator.is_main_process:
        write_json(out / VOCABULARY, {"words": vocabulary.words, "answers": vocabulary.answers})

    statistics = channel_statistics(features, examples.image_ids, seed=settings.seed)
    torch.manual_seed(settings.seed)
    norm = FeatureNorm(statistics, blind=settings.blind)
    answers = len(vocabulary.answers)
    model = build_model(settings.model, norm, tokens=vocabulary.tokens, answers=answers)
    if glove is not None:
        model.words.fill(*glove)
    reader = RecordReader(features, accelerator.device, settings.cache)
    ids = {*examples.image_ids, *(asked.examples.image_ids if asked else ())}
    reader.require_room(ids, processes=accelerator.num_processes)

    def evaluate(model: nn.Module, asked: Asked) -> dict[str, float]:
        predictions = predict(
            model, reader, asked.examples, vocabulary.answers, settings, accelerator
        )
        scores = asked.split.score(asked.complete(predictions))
        return {"score": scores["overall"], **scores["by_answer_type"]}

    times = train(
        model,
        settings,
        run=out,
        accelerator=accelerator,
        image_of_example=examples.image_of_text,
        read_batch=functools.partial(read_batch, reader, examples, answers=answers),
        loss_of=loss_of,
        evaluate=functools.partial(evaluate, asked=asked) if asked else None,
    )
    best = load_run(out)
    result: dict[str, Any] = {"split": "", "epoch": best.epoch, "blind": settings.blind}
    if asked is not None:
        result = answer_split(best, asked, reader, accelerator, PREDICTIONS)
    if accelerator.is_main_process:
        write_json(out / RESULT, result)
        if asked is not None:
            write_json(out / SCORES, asked.score_table(out / PREDICTIONS))
        draw_curves(out, out / CURVES)
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


def _read_held_out(settings: VqaSettings, data: Path, train_split: Split) -> Split | None:
    """Return the split that scores the model, None where the settings name none.

    Raises UsageError where it shares questions with the training split: CLIP-ViL's MCAN was
    validated on questions that it was trained on.
    """
    if not settings.eval_split:
        return None
    split = read_split(settings.dataset, data, settings.eval_split, annotated=True)
    shared = set(train_split.ids).intersection(split.ids)
    if shared:
        raise UsageError(
            f"eval_split {settings.eval_split} shares {len(shared):,} questions with train_split "
            f"{settings.train_split}, so that its score would mean nothing; "
            'pass --set eval_split="" to train without one'
        )
    return split


def _given_files(settings: VqaSettings) -> tuple[Path, ...]:
    """Return the files that settings name: with other contents it would be another run."""
    return tuple(Path(name) for name in (settings.answer_list, settings.model.glove) if name)


def _read_glove(settings: VqaSettings, vocabulary: Vocabulary) -> tuple[Tensor, Tensor] | None:
    """Return the rows and vectors to start the words from, if the settings name a file."""
    if not settings.model.glove:
        return None
    path = Path(settings.model.glove)
    rows, vectors = read_glove(path, vocabulary.words, channels=settings.model.embedding)
    known = f"{len(rows):,} of {len(vocabulary.words):,} words"
    print(f"{path.name}: vectors of {known}", file=sys.stderr)
    return rows, vectors


def _card(
    settings: VqaSettings, store: FeatureStore, data: Path, splits: Sequence[Split]
) -> RunCard:
    files = [file for split in splits for file in split.files]
    given = dict.fromkeys([*files, *_given_files(settings)])
    return RunCard(
        task="vqa",
        settings=dataclasses.asdict(settings),
        store_digest=store.digest,
        data_files=data_digests(tuple(given)),
        store=str(store.path.resolve()),
        data=str(data.resolve()),
    )
