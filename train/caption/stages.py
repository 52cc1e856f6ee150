"""What each stage of captioning brings to the shared loop."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..grids.normalize import channel_statistics
from ..grids.records import RecordReader
from ..grounded.examples import make_order
from ..loop.batches import Numbers, Order
from ..loop.devices import memory_errors
from ..loop.run import make_card
from ..runs.folder import BEST, RunCard
from .data.examples import read_batch, read_images
from .data.tokens import CaptionVocabulary
from .inputs import Inputs
from .losses import SelfCritical, caption_loss
from .metrics.texts import TextCider
from .models.captioner import Captioner
from .settings import SCST, CaptionSettings
from .trained import TASK, TrainedCaptioner, make_model


@dataclass(frozen=True)
class Stage:
    """A stage, as the loop takes it."""

    settings: CaptionSettings
    card: RunCard
    vocabulary: CaptionVocabulary
    model: Captioner
    order: Order
    read_batch: Callable[[Numbers, int], Any]
    loss_of: Callable[[nn.Module, Any], Tensor]


def cross_entropy_stage(settings: CaptionSettings, inputs: Inputs, reader: RecordReader) -> Stage:
    """Return the first stage, with a new model, the same one every time; examples are captions."""
    examples, features = inputs.examples, inputs.features
    statistics = channel_statistics(features, examples.image_ids, seed=settings.seed)
    torch.manual_seed(settings.seed)
    with memory_errors("the model does not fit; lower its sizes, such as model.hidden"):
        model = make_model(settings, statistics, inputs.vocabulary)
    return Stage(
        settings,
        cross_entropy_card(settings, inputs),
        inputs.vocabulary,
        model,
        make_order(examples.image_of_caption, examples.image_ids, features, settings),
        lambda numbers, _: read_batch(reader, examples, numbers),
        functools.partial(caption_loss, smoothing=settings.label_smoothing),
    )


def self_critical_stage(
    settings: CaptionSettings,
    inputs: Inputs,
    reader: RecordReader,
    accelerator: Accelerator,
    first: TrainedCaptioner,
) -> Stage:
    """Return the second stage, which goes on from the first one's model; examples are images."""
    settings, examples = settings.self_critical, inputs.examples
    files = (*inputs.files, first.folder / BEST)
    critic = SelfCritical(
        TextCider(examples.texts, end_is_word=True), first.vocabulary, settings, accelerator
    )
    images = np.arange(len(examples.ids))
    return Stage(
        settings,
        make_card(TASK, settings, store=inputs.features, data=inputs.data, files=files),
        first.vocabulary,
        first.model,
        make_order(images, examples.image_ids, inputs.features, settings),
        lambda numbers, _: read_images(reader, examples.image_ids, numbers),
        critic.loss_of,
    )


def cross_entropy_card(settings: CaptionSettings, inputs: Inputs) -> RunCard:
    """Return what makes the first stage the run it is; the second one's settings do not."""
    card = make_card(TASK, settings, store=inputs.features, data=inputs.data, files=inputs.files)
    own = {name: value for name, value in card.settings.items() if name != SCST}
    return dataclasses.replace(card, settings=own)
