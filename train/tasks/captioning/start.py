"""A captioner that starts from the best model of another captioning run."""

import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path

import torch

from ....featstore import FeatureStore
from ...data.caption_vocabulary import (
    BpeVocabulary,
    CaptionVocabulary,
    CaptionWordVocabulary,
    build_caption_words,
)
from ...devices import seeded
from ...models.captioner import Captioner
from ...models.pretrained import require_features_of, require_init, require_own_model
from ...models.regions import require_regions
from ...normalize import FeatureNorm, feature_norm
from ..settings import CaptionSettings
from .model import TrainedCaptioner, build_captioner, find_stage, load_stage

logger = logging.getLogger(__name__)


def find_start(
    settings: CaptionSettings, store: FeatureStore
) -> tuple[CaptionSettings, TrainedCaptioner | None]:
    """Return the settings with the model, norm and kind of words of the run to start from, and the run.

    The run is the last stage that has a model. Raises UsageError if `init` is not a captioning run or
    was trained on other features than the store's, and if the settings name another model.
    """
    if not settings.init:
        require_regions(settings.model, store)
        return settings, None
    require_init(settings.init)
    start = load_stage(find_stage(Path(settings.init)))
    require_own_model(settings, start.settings.model)
    channels = len(feature_norm(start.model).mean)
    require_features_of(store, start.folder, start.manifest, channels=channels)
    own = start.settings
    require_regions(own.model, store)
    return dataclasses.replace(settings, model=own.model, bpe=own.bpe, **own.of_norm()), start


def add_words(
    vocabulary: CaptionVocabulary, texts: Iterable[str], *, min_count: int
) -> CaptionVocabulary:
    """Return the vocabulary of a start, followed by other words of training texts.

    These are words that occur `min_count` times. Parts of words stay as they are.
    """
    if isinstance(vocabulary, BpeVocabulary):
        return vocabulary
    counted = build_caption_words(texts, min_count=min_count).words
    known = set(vocabulary.words)
    new = [word for word in counted if word not in known]
    logger.info(
        f"words of the training captions: {len(counted) - len(new):,} that the start knows, "
        f"{len(new):,} new ones"
    )
    return CaptionWordVocabulary((*vocabulary.words, *new))


def start_model(
    start: TrainedCaptioner, settings: CaptionSettings, vocabulary: CaptionVocabulary
) -> Captioner:
    """Return a model with the weights of `start`, and random ones for words that it does not have.

    The first tokens of the vocabulary must be those of the start.
    """
    own = feature_norm(start.model)
    norm = FeatureNorm(own.statistics, blind=settings.blind, regions=own.regions)
    with seeded(settings.seed):
        model = build_captioner(settings.model, norm, words=vocabulary.size)
    state = model.state_dict()
    with torch.no_grad():
        for name, own in start.model.state_dict().items():
            # What has a row for each word is longer, and the new rows stay.
            state[name] = torch.cat((own, state[name][len(own) :])) if own.dim() else own
    model.load_state_dict(state)
    logger.info(f"starting from {start.folder}")
    return model
