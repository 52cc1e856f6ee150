"""Ask a trained model one question: its answer, and where it looked."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from ...featstore import FeatureStore
from ..grids.records import RecordReader
from ..grounded.examples import read_batch
from ..grounded.train import Trained, load_trained, make_examples
from .settings import VqaSettings

TOP = 5  # answers that a question gets, the likeliest first


TrainedVqa = Trained[VqaSettings]


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
    return load_trained(run, "vqa", VqaSettings)


@torch.inference_mode()
def answer(run: TrainedVqa, store: FeatureStore, image_id: str, question: str) -> Answer:
    """Answer one question about one image of a store, and say where the model looked.

    Raises UsageError where the store has other features than the run's, StoreError for
    an image without features.
    """
    run.require_store(store)
    words, max_tokens = run.vocabulary.words, run.settings.max_tokens
    examples = make_examples([0], [image_id], [question], None, words=words, max_tokens=max_tokens)
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
    words = run.vocabulary.words
    return bool(words.known(words.encode([question], max_tokens=run.settings.max_tokens))[0])
