"""What a captioner writes about every image of a split."""

import functools
import math
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Int
from torch import Tensor, nn

from ..grids.records import RecordReader
from ..loop.evaluate import each_batch, part_size
from .data.examples import CaptionExamples, read_images
from .data.tokens import CaptionVocabulary
from .decoding.beam import beam_search
from .models.captioner import Captioner
from .settings import CaptionSettings, DecodingSettings


def write_captions(
    model: nn.Module,
    reader: RecordReader,
    examples: CaptionExamples,
    vocabulary: CaptionVocabulary,
    settings: CaptionSettings,
    accelerator: Accelerator,
) -> dict[int | str, str]:
    """Return {image id: caption} for every image, by a captioner, as `settings.decoding` says.

    With several processes each writes its part of the batches.
    """
    captioner = cast(Captioner, model.eval())
    decoding = settings.decoding
    # What fits in training, where there are no beams, fits here.
    size = math.ceil(part_size(settings) / decoding.beams)
    shape, device = (len(examples.ids), 1 + decoding.max_tokens), accelerator.device
    written = torch.zeros(shape, dtype=torch.int64, device=device)
    order = np.arange(len(examples.ids))
    read = functools.partial(read_images, reader, examples.image_ids)
    for _, batch in each_batch(order, read, accelerator, size=size, doing="captioning"):
        with accelerator.autocast():
            tokens = best_captions(captioner, batch.records, decoding)
        written[batch.images, : tokens.shape[1]] = tokens
    # Each image is captioned in one process, and has zeros in the others.
    rows = torch.as_tensor(accelerator.reduce(written, "sum")).tolist()
    return {
        image_id: vocabulary.decode(row) for image_id, row in zip(examples.ids, rows, strict=True)
    }


@torch.no_grad()
def best_captions(
    model: Captioner, records: tuple[Tensor, ...], decoding: DecodingSettings
) -> Int[Tensor, "image token"]:
    """Return the best caption of each image: BEGIN, words, END, padding."""
    found = beam_search(
        model,
        model.encode(*records),
        beams=decoding.beams,
        alpha=decoding.alpha,
        max_tokens=decoding.max_tokens,
        no_repeat=decoding.no_repeat,
    )
    return found.tokens[:, 0]
