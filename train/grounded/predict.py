"""What a model answers to every text of a split."""

import contextlib
import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from ..grids.records import RecordReader
from ..loop.batches import cut, prefetch
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
    size = math.ceil(settings.batch_size / settings.accumulate)  # what fits in training fits here
    mine = cut(order, size)[accelerator.process_index :: accelerator.num_processes]
    best = torch.zeros(len(examples), dtype=torch.int64, device=accelerator.device)
    bar = tqdm(
        total=sum(map(len, mine)),
        unit=" examples",
        desc="answering",
        leave=False,
        disable=None if accelerator.is_main_process else True,
    )
    with bar, contextlib.closing(prefetch(mine, read)) as stream:
        for numbers, batch in zip(mine, stream, strict=True):
            logits = model(*batch.to(accelerator.device).inputs).logits
            best[torch.from_numpy(numbers).to(best.device)] = logits.argmax(dim=1)
            bar.update(len(numbers))
    # Each text is answered in one process, and 0 in the others.
    chosen: list[int] = torch.as_tensor(accelerator.reduce(best, "sum")).tolist()
    return {
        example_id: answers[number] for example_id, number in zip(examples.ids, chosen, strict=True)
    }
