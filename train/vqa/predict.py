"""Answer questions with a trained model: a whole split, or one with its attention."""

import contextlib
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float32
from torch import nn
from tqdm import tqdm

from ...base.errors import ClipfeatError, UsageError
from ...featstore import FeatureStore
from ..batches import cut, prefetch
from ..checkpoint import load_model, read_checkpoint
from ..examples import Examples, read_batch
from ..jsonfile import field, read_json
from ..models.build import build_model
from ..normalize import ChannelStatistics, FeatureNorm
from ..records import RecordReader
from ..runfolder import BEST, RunCard, read_card
from ..settings import settings_of
from ..text import encode_tokens, tokenize
from .data import Vocabulary
from .settings import VqaSettings

VOCABULARY = "vocabulary.json"
TOP = 5  # answers that a question gets, the likeliest first


@dataclass(frozen=True)
class TrainedVqa:
    """The best model of a run, with all that answering takes."""

    folder: Path
    model: nn.Module
    vocabulary: Vocabulary
    settings: VqaSettings
    card: RunCard
    epoch: int  # of the checkpoint


@dataclass(frozen=True)
class Answer:
    """What a model answers to one question, and where it looked."""

    answer: str
    score: float  # the model's own estimate of the answer's accuracy, 0 to 1
    top: tuple[tuple[str, float], ...]  # the likeliest answers with their scores; this is the first
    attention: Float32[np.ndarray, "row col"]  # sums to 1


def load_run(run: Path) -> TrainedVqa:
    """Return the best model of a run folder, on the CPU.

    Raises UsageError where the folder is no VQA run or has no checkpoint yet.
    """
    card = read_card(run)
    if card.task != "vqa":
        raise UsageError(f"{run} is a run of task {card.task!r}, not vqa")
    if not (run / BEST).is_file():
        raise UsageError(f"{run} has no {BEST} yet: its first epoch is not done")
    settings = settings_of(VqaSettings, card.settings)
    vocabulary = read_vocabulary(run / VOCABULARY)
    tensors, state = read_checkpoint(run / BEST)
    statistics = ChannelStatistics(
        *(
            field(tensors, f"model.norm.{name}", torch.Tensor, run / BEST)
            for name in ("mean", "std")
        )
    )
    norm = FeatureNorm(statistics, blind=settings.blind)
    model = build_model(
        settings.model, norm, tokens=vocabulary.tokens, answers=len(vocabulary.answers)
    )
    load_model(model, tensors, run / BEST)
    epoch = field(state, "epoch", int, run / BEST)
    return TrainedVqa(run, model, vocabulary, settings, card, epoch)


def read_vocabulary(path: Path) -> Vocabulary:
    """Return the vocabulary of a run; ClipfeatError where the file is not one."""
    record = read_json(path)
    words, answers = (field(record, key, list, path) for key in ("words", "answers"))
    if not all(isinstance(text, str) for text in (*words, *answers)):
        raise ClipfeatError(f"{path}: words and answers must be texts")
    return Vocabulary(tuple(words), tuple(answers))


def check_digest(store: FeatureStore, card: RunCard) -> None:
    """Raise UsageError unless `store` holds the very features that the run was trained on."""
    if store.digest != card.store_digest:
        raise UsageError(
            f"the run was trained on a store of digest {card.store_digest}, this one has "
            f"{store.digest}; pass --store with the store it was trained on"
        )


@torch.inference_mode()
def predict(
    model: nn.Module,
    reader: RecordReader,
    examples: Examples,
    answers: Sequence[str],
    settings: VqaSettings,
    accelerator: Accelerator,
) -> dict[int | str, str]:
    """Return {question id: answer} for every question, once each.

    With several processes each answers its part of the batches.
    """
    model.eval()
    read = functools.partial(read_batch, reader, examples, answers=len(answers))
    order = np.argsort(examples.image_of_text, kind="stable")  # a record is read once
    size = math.ceil(settings.batch_size / settings.accumulate)  # what fits in training fits here
    mine = cut(order, size)[accelerator.process_index :: accelerator.num_processes]
    best = torch.zeros(len(examples), dtype=torch.int64, device=accelerator.device)
    bar = tqdm(
        total=sum(map(len, mine)),
        unit=" questions",
        desc="answering",
        leave=False,
        disable=None if accelerator.is_main_process else True,
    )
    with bar, contextlib.closing(prefetch(mine, read)) as stream:
        for numbers, batch in zip(mine, stream, strict=True):
            logits = model(*batch.to(accelerator.device).inputs).logits
            best[torch.from_numpy(numbers).to(best.device)] = logits.argmax(dim=1)
            bar.update(len(numbers))
    # Each question is answered in one process, and 0 in the others.
    chosen: list[int] = torch.as_tensor(accelerator.reduce(best, "sum")).tolist()
    return {
        question_id: answers[number]
        for question_id, number in zip(examples.ids, chosen, strict=True)
    }


@torch.inference_mode()
def answer(run: TrainedVqa, store: FeatureStore, image_id: str, question: str) -> Answer:
    """Answer one question about one image of a store, and say where the model looked.

    Raises UsageError where the store is not the one that the run was trained on, StoreError for
    an image without features.
    """
    check_digest(store, run.card)
    examples = Examples(
        ids=(0,),
        image_ids=(image_id,),
        image_of_text=np.zeros(1, dtype=np.int64),
        tokens=encode_tokens([question], run.vocabulary.words, max_tokens=run.settings.max_tokens),
        targets=(),
    )
    model = run.model.eval()
    device = next(model.parameters()).device
    reader = RecordReader(store, device)
    numbers = np.zeros(1, dtype=np.int64)
    batch = read_batch(reader, examples, numbers, answers=len(run.vocabulary.answers))
    found = model(*batch.to(device).inputs)
    logits, best = found.logits[0].float().topk(min(TOP, found.logits.shape[1]))
    texts = (run.vocabulary.answers[number] for number in best.tolist())
    top = tuple(zip(texts, logits.sigmoid().tolist(), strict=True))
    return Answer(
        *top[0],
        top=top,
        attention=found.attention[0].float().cpu().numpy().reshape(*batch.grid_shapes[0].tolist()),
    )


def knows_a_word(run: TrainedVqa, question: str) -> bool:
    """Return whether a run's training has met any word of a question."""
    return not set(run.vocabulary.words).isdisjoint(tokenize(question))
