"""What a model answers to every text of a split."""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from ..grids.records import RecordReader
from ..loop.evaluate import each_batch, part_size
from ..settings import LoopSettings
from .examples import Examples, read_batch


@torch.inference_mode()
def predict(
    model: nn.Module,
    reader: RecordReader,
    examples: Examples,
    answers: Sequence[str],
    settings: LoopSettings,
    accelerator: Accelerator,
) -> dict[int | str, str]:
    """Return {id: answer} for every text, once each.

    With several processes each answers its part of the batches.
    """
    model.eval()
    read = functools.partial(read_batch, reader, examples, answers=len(answers))
    order = np.argsort(examples.image_of_text, kind="stable")  # a record is read once
    best = torch.zeros(len(examples), dtype=torch.int64, device=accelerator.device)
    size = part_size(settings)
    for numbers, batch in each_batch(order, read, accelerator, size=size, doing="answering"):
        logits = model(*batch.inputs).logits
        best[torch.from_numpy(numbers).to(best.device)] = logits.argmax(dim=1)
    # Each text is answered in one process, and 0 in the others.
    chosen: list[int] = torch.as_tensor(accelerator.reduce(best, "sum")).tolist()
    return {
        example_id: answers[number] for example_id, number in zip(examples.ids, chosen, strict=True)
    }
