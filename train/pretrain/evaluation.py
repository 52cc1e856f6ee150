"""How much of what is hidden a pre-trained encoder finds out."""

import torch
from accelerate import Accelerator
from torch import nn

from ..loop.batches import epoch_order
from ..loop.evaluate import each_batch, part_size
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
    sums = torch.zeros(len(OBJECTIVES), 4, dtype=torch.float64, device=accelerator.device)
    for _, batch in each_batch(
        order,
        lambda numbers: reader.read(numbers, EPOCH),
        accelerator,
        size=part_size(settings),
        doing="evaluating",
    ):
        for name, tally in tallies(model(batch), batch).items():
            sums[OBJECTIVES.index(name)] += torch.stack([n.double() for n in tally])
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
