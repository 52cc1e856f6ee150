"""Captioners: built, loaded from a run, and the captions that they write of a split."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from ....featstore import FeatureStore
from ...checkpoint import TrainedRun, load_trained
from ...data.caption_vocabulary import CaptionVocabulary, read_caption_vocabulary
from ...engine import each_batch, eval_batch_size
from ...models.caption_transformer import TransformerCaptioner
from ...models.captioner import Captioner
from ...models.decoding import Captions, beam_search, sample
from ...models.regions import require_regions
from ...models.settings import (
    CaptionerSettings,
    TransformerCaptionerSettings,
    UpDnCaptionerSettings,
)
from ...models.updn import UpDnCaptioner
from ...normalize import FeatureNorm
from ...records import RecordReader
from ...run import require_features
from ...stages import last_stage
from ..settings import STAGES, CaptionSettings, DecodingSettings
from .examples import CaptionExamples, fetch_images, read_images


def build_captioner(settings: CaptionerSettings, norm: FeatureNorm, *, words: int) -> Captioner:
    """Return a new captioner; `words` is the number of tokens."""
    match settings:
        case TransformerCaptionerSettings():
            return TransformerCaptioner(settings, norm, words=words)
        case UpDnCaptionerSettings():
            return UpDnCaptioner(settings, norm, words=words)


TASK = "caption"
TrainedCaptioner = TrainedRun[CaptionSettings, CaptionVocabulary, Captioner]
Decode = Callable[[Captioner, Any], Captions]  # of a model and its memory of images


def make_model(
    settings: CaptionSettings, norm: FeatureNorm, vocabulary: CaptionVocabulary
) -> Captioner:
    """Return a model of random weights."""
    return build_captioner(settings.model, norm, words=vocabulary.size)


def find_stage(run: Path) -> Path:
    """Return the folder of a captioning run's last stage that has a model; see `last_stage`."""
    return last_stage(run, STAGES, of="captioning")


def load_stage(folder: Path) -> TrainedCaptioner:
    """Return the best model of a stage's folder; raises UsageError as `load_trained` does."""
    return load_trained(
        folder,
        TASK,
        CaptionSettings,
        read_vocabulary=read_caption_vocabulary,
        norm="cells.norm",
        build=make_model,
    )


def require_store(trained: TrainedCaptioner, store: FeatureStore) -> None:
    """Raise UsageError unless a model can caption the images of a store."""
    require_features(store, trained.manifest)
    require_regions(trained.settings.model, store)


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
    decode = decoder(decoding, captions=1, seed=settings.seed, device=accelerator.device)
    # What fits in training, where there are no beams, fits here.
    size = math.ceil(eval_batch_size(settings) / decoding.beams)
    shape, device = (len(examples.ids), 1 + decoding.max_tokens), accelerator.device
    written = torch.zeros(shape, dtype=torch.int64, device=device)
    order = np.arange(len(examples.ids))
    read = functools.partial(read_images, reader, examples.image_ids)
    fetch = functools.partial(fetch_images, reader, examples.image_ids)
    for _, batch in each_batch(
        order, read, accelerator, size=size, doing="captioning", fetch=fetch
    ):
        with accelerator.autocast():
            tokens = decode(captioner, captioner.encode(batch.records)).tokens[:, 0]
        written[batch.images, : tokens.shape[1]] = tokens
    # Each image is captioned in one process, and has zeros in the others.
    rows = torch.as_tensor(accelerator.reduce(written, "sum")).tolist()
    return {
        image_id: vocabulary.decode(row) for image_id, row in zip(examples.ids, rows, strict=True)
    }


def decoder(
    decoding: DecodingSettings, *, captions: int, seed: int, device: torch.device
) -> Decode:
    """Return a function that writes captions of encoded images: the best first, or as drawn.

    It draws `captions` of each image, by random numbers of `seed`, or else returns as many as there
    are beams.
    """
    rules = {"max_tokens": decoding.max_tokens, "no_repeat": decoding.no_repeat}
    if decoding.nucleus:
        return functools.partial(
            sample,
            samples=captions,
            generator=torch.Generator(device).manual_seed(seed),
            nucleus=decoding.nucleus,
            temperature=decoding.temperature,
            **rules,
        )
    return functools.partial(
        beam_search,
        beams=decoding.beams,
        alpha=decoding.alpha,
        groups=decoding.groups,
        diversity=decoding.diversity,
        **rules,
    )
