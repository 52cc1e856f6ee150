"""How much of what is hidden a pre-trained encoder finds out."""

import contextlib

import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from ..loop.batches import cut, epoch_order, prefetch
from .examples import BatchReader
from .model import tallies
from .settings import PretrainSettings

EPOCH = 1 << 31  # none of training's: a split is hidden and replaced in the same way every time
OBJECTIVES = ("words", "matching", "answers", "cells")


@torch.inference_mode()
def evaluate(
    model: nn.Module, reader: BatchReader, settings: PretrainSettings, accelerator: Accelerator
) -> dict[str, float]:
    """Return "score", minus the weighted loss, and of each objective its loss and its accuracy.

    The accuracies, "words", "matching" and "answers", are in percent; masked pieces are judged
    where the text is about the image. With several processes each computes a part of the batches.
    """
    model.eval()
    order = epoch_order(reader.sentences.image_of_sentence, seed=0, epoch=0)
    size = max(1, settings.batch_size // settings.accumulate)  # what fits in training fits here
    mine = cut(order, size)[accelerator.process_index :: accelerator.num_processes]
    sums = torch.zeros(len(OBJECTIVES), 4, dtype=torch.float64, device=accelerator.device)
    bar = tqdm(
        total=sum(map(len, mine)),
        unit=" examples",
        desc="evaluating",
        leave=False,
        disable=None if accelerator.is_main_process else True,
    )
    stream = prefetch(mine, lambda numbers: reader.read(numbers, EPOCH))
    with bar, contextlib.closing(stream):
        for found in stream:
            batch = found.to(accelerator.device)
            for name, tally in tallies(model(batch), batch).items():
                sums[OBJECTIVES.index(name)] += torch.stack([n.double() for n in tally])
            bar.update(len(batch.matched))
    return _scores(torch.as_tensor(accelerator.reduce(sums, "sum")).tolist(), settings)


def _scores(sums: list[list[float]], settings: PretrainSettings) -> dict[str, float]:
    """Return losses and accuracies of what was asked about."""
    scores: dict[str, float] = {}
    total = 0.0
    for name, (loss, asked, right, judged) in zip(OBJECTIVES, sums, strict=True):
        weight = getattr(settings.objectives, name)
        if weight and asked:
            scores[f"{name}_loss"] = round(loss / asked, 4)
            total += weight * loss / asked
        if weight and judged:
            scores[name] = round(100 * right / judged, 2)
    return {"score": round(-total, 4), **scores}
