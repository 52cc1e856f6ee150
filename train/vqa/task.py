"""The VQA task: train a model on a store, and score a trained one on a split."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ...featstore import FeatureStore
from ..devices import accelerator_on
from ..examples import GroundedBatch, read_batch
from ..jsonfile import write_json
from ..loop import train
from ..models.build import build_model
from ..normalize import FeatureNorm, channel_statistics
from ..profile import LoopTimes
from ..records import RecordReader
from ..runfolder import RunCard, data_digests, start_run
from .data import build_vocabulary, encode
from .files import Split, read_split
from .metric import SCORES, score_split
from .predict import VOCABULARY, TrainedVqa, check_digest, load_run, predict
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
    train_split = read_split(data, settings.train_split, annotated=True)
    eval_split = read_split(data, settings.eval_split, annotated=True)
    vocabulary = build_vocabulary(train_split, min_answer_count=settings.min_answer_count)
    examples = encode(train_split, vocabulary, features, max_tokens=settings.max_tokens)
    held_out = encode(eval_split, vocabulary, features, max_tokens=settings.max_tokens)
    with accelerator.main_process_first():
        card = _card(settings, features, data, (*train_split.files, *eval_split.files))
        start_run(out, card, writes=accelerator.is_main_process)
    if accelerator.is_main_process:
        write_json(out / VOCABULARY, {"words": vocabulary.words, "answers": vocabulary.answers})

    statistics = channel_statistics(features, examples.image_ids, seed=settings.seed)
    torch.manual_seed(settings.seed)
    norm = FeatureNorm(statistics, blind=settings.blind)
    model = build_model(
        settings.model, norm, tokens=vocabulary.tokens, answers=len(vocabulary.answers)
    )
    reader = RecordReader(features, accelerator.device, settings.cache)
    reader.require_room(
        {*examples.image_ids, *held_out.image_ids}, processes=accelerator.num_processes
    )

    def evaluate(model: nn.Module) -> dict[str, float]:
        predictions = predict(model, reader, held_out, vocabulary.answers, settings, accelerator)
        scores = score_split(predictions, eval_split.annotations or {})
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
    result = _answer_split(load_run(out), eval_split, features, accelerator, PREDICTIONS)
    if accelerator.is_main_process:
        write_json(out / RESULT, result)
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
    run: Path, *, split: str, store: Path | None, data: Path | None, device: str | None
) -> dict[str, Any]:
    """Answer a split with a run's best model, write the answers into the run, return the scores.

    `store` and `data` are by default those of the run. The scores are None on a split without
    annotations. Raises UsageError for a store with other features than the run's.
    """
    trained = load_run(run)
    accelerator = accelerator_on(device, trained.settings)
    features = FeatureStore.open(store or Path(trained.card.store))
    check_digest(features, trained.card)
    questions = read_split(data or Path(trained.card.data), split, annotated=False)
    return _answer_split(trained, questions, features, accelerator, f"predictions_{split}.json")


def _answer_split(
    run: TrainedVqa, split: Split, store: FeatureStore, accelerator: Accelerator, name: str
) -> dict[str, Any]:
    """Answer every question of a split, write the answers into the run as `name`, score them."""
    examples = encode(split, run.vocabulary, store, max_tokens=run.settings.max_tokens)
    model = accelerator.prepare_model(run.model, evaluation_mode=True)
    reader = RecordReader(store, accelerator.device)
    predictions = predict(
        model, reader, examples, run.vocabulary.answers, run.settings, accelerator
    )
    in_order = [
        {"question_id": q.question_id, "answer": predictions[q.question_id]}
        for q in split.questions
    ]
    if accelerator.is_main_process:
        write_json(run.folder / name, in_order)
    scores: dict[str, Any] = {"n": len(predictions)} | dict.fromkeys(SCORES)
    if split.annotations is not None:
        scores = score_split(predictions, split.annotations)
    return {
        "split": split.name,
        "epoch": run.epoch,
        "blind": run.settings.blind,
        **scores,
        "predictions": str(run.folder / name),
    }


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
        lines.append(f"{result['overall']:6.2f}  overall")
        lines += [f"{score:6.2f}  {name}" for name, score in result["by_answer_type"].items()]
        lines += [f"{score:6.2f}  {name}" for name, score in result["by_question_type"].items()]
    return "\n".join([*lines, result["predictions"]])
