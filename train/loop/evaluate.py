"""Go through a split once, each process through its part of it."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import TypeVar

from accelerate import Accelerator
from tqdm import tqdm

from ..settings import LoopSettings
from .batches import Numbers, cut, prefetch
from .train import Batch

B = TypeVar("B", bound=Batch)


def part_size(settings: LoopSettings) -> int:
    """Return how many examples a part of a training batch has: what fits there fits here."""
    return math.ceil(settings.batch_size / settings.accumulate)


def each_batch(
    order: Numbers,
    read_batch: Callable[[Numbers], B],
    accelerator: Accelerator,
    *,
    size: int,
    doing: str,
) -> Iterator[tuple[Numbers, B]]:
    """Yield (example numbers, batch on the device) of this process's part of `order`."""
    mine = cut(order, size)[accelerator.process_index :: accelerator.num_processes]
    bar = tqdm(
        total=sum(map(len, mine)),
        unit=" examples",
        desc=doing,
        leave=False,
        disable=None if accelerator.is_main_process else True,
    )
    with bar, contextlib.closing(prefetch(mine, read_batch)) as stream:
        for numbers, batch in zip(mine, stream, strict=True):
            yield numbers, batch.to(accelerator.device)
            bar.update(len(numbers))
