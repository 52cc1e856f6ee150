"""The VQA task: train a model on a store, and score a trained one on a split."""

import dataclasses
import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ...featstore import FeatureStore
from ..devices import accelerator_on
from ..examples import Examples, GroundedBatch, read_batch
from ..glove import read_glove
from ..jsonfile import write_json
from ..loop import train
from ..models.build import build_model
from ..normalize import FeatureNorm, channel_statistics
from ..profile import LoopTimes
from ..records import RecordReader
from ..runfolder import SCORES as SCORES_FILE
from ..runfolder import RunCard, data_digests, start_run
from .data import Vocabulary, build_vocabulary, encode
from .datasets.read import read_split
from .datasets.split import QuestionId, Split
from .metric import SCORES
from .predict import VOCABULARY, TrainedVqa, check_digest, load_run, predict
from .predictions import describe_scores, read_predictions, write_predictions
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
    eval_split = read_split(settings.dataset, data, settings.eval_split, annotated=True)
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
    examples, held_out = encode_split(train_split), encode_split(eval_split)
    glove = _read_glove(settings, vocabulary)
    files = (*train_split.files, *eval_split.files, *_given_files(settings))
    card = _card(settings, features, data, tuple(dict.fromkeys(files)))
    with accelerator.main_process_first():
        start_run(out, card, writes=accelerator.is_main_process)
    if accelerator.is_main_process:
        write_json(out / VOCABULARY, {"words": vocabulary.words, "answers": vocabulary.answers})

    statistics = channel_statistics(features, examples.image_ids, seed=settings.seed)
    torch.manual_seed(settings.seed)
    norm = FeatureNorm(statistics, blind=settings.blind)
    model = build_model(
        settings.model, norm, tokens=vocabulary.tokens, answers=len(vocabulary.answers)
    )
    if glove is not None:
        model.words.fill(*glove)
    reader = RecordReader(features, accelerator.device, settings.cache)
    reader.require_room(
        {*examples.image_ids, *held_out.image_ids}, processes=accelerator.num_processes
    )

    def evaluate(model: nn.Module) -> dict[str, float]:
        predictions = predict(model, reader, held_out, vocabulary.answers, settings, accelerator)
        scores = eval_split.score(_answers(eval_split, predictions))
        return {"score": scores["overall"], **scores["by_answer_type"]}

    times = train(
        model,
        settings,
        run=out,
        accelerator=accelerator,
        image_of_example=examples.image_of_text,
        read_batch=functools.partial(read_batch, reader, examples, answers=len(vocabulary.answers)),
        loss_of=loss_of,
        evaluate=evaluate,
    )
    best = load_run(out)
    result = _answer_split(best, eval_split, held_out, reader, accelerator, PREDICTIONS)
    if accelerator.is_main_process:
        write_json(out / RESULT, result)
        write_json(out / SCORES_FILE, _score_table(eval_split, held_out, out / PREDICTIONS))
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
    accelerator = accelerator_on(device, trained.settings)
    features = FeatureStore.open(store or Path(trained.card.store))
    check_digest(features, trained.card)
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
    return _answer_split(trained, questions, examples, reader, accelerator, name)


def _answer_split(
    run: TrainedVqa,
    split: Split,
    examples: Examples,
    reader: RecordReader,
    accelerator: Accelerator,
    name: str,
) -> dict[str, Any]:
    """Answer every question of a split, write the answers into the run as `name`, score them.

    All processes answer; the first writes and scores, and the result of the others is empty.
    """
    model = accelerator.prepare_model(run.model, evaluation_mode=True)
    predictions = predict(
        model, reader, examples, run.vocabulary.answers, run.settings, accelerator
    )
    if not accelerator.is_main_process:
        return {}
    path = run.folder / name
    write_predictions(path, _answers(split, predictions), split)
    scores: dict[str, Any] = {"n": len(split.questions)} | dict.fromkeys(SCORES)
    if split.annotations is not None:
        scores = split.score(read_predictions(path, split))
    return {
        "split": split.name,
        "epoch": run.epoch,
        "blind": run.settings.blind,
        **scores,
        "skipped": len(split.questions) - len(examples),
        "predictions": str(path),
    }


def _answers(split: Split, predictions: Mapping[QuestionId, str]) -> dict[QuestionId, str]:
    """Return an answer to every question: the empty one where its image has no features."""
    return {question_id: predictions.get(question_id, "") for question_id in split.ids}


def _score_table(split: Split, examples: Examples, predictions: Path) -> dict[str, Any]:
    """Return the score of each question in percent, with the image that it asks about."""
    scores = split.score_each(read_predictions(predictions, split))
    image_of = {question.question_id: question.candidates[0] for question in split.questions}
    for question_id, image in zip(examples.ids, examples.image_of_text, strict=True):
        image_of[question_id] = examples.image_ids[image]
    return {
        "split": split.name,
        "ids": list(scores),
        "images": [image_of[question_id] for question_id in scores],
        "scores": [round(100 * score, 2) for score in scores.values()],
    }


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
    settings: VqaSettings, store: FeatureStore, data: Path, files: tuple[Path, ...]
) -> RunCard:
    return RunCard(
        task="vqa",
        settings=dataclasses.asdict(settings),
        store_digest=store.digest,
        data_files=data_digests(files),
        store=str(store.path.resolve()),
        data=str(data.resolve()),
    )


def describe(result: Mapping[str, Any]) -> str:
    """Return a result as lines for people."""
    lines = [f"split {result['split']}: {result['n']} questions, epoch {result['epoch']}"]
    if result["overall"] is None:
        lines.append("no annotations here: predictions only, nothing scored")
    else:
        lines += describe_scores(result)
    if result["skipped"]:
        lines.append(f"{result['skipped']} questions skipped: their images have no features")
    return "\n".join([*lines, result["predictions"]])
