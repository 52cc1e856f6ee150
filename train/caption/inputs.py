"""What both stages of captioning learn from, and what scores them."""

import functools
from dataclasses import dataclass
from pathlib import Path

from ...base.text import say
from ...featstore import FeatureStore
from ..grounded.train import require_apart
from .asked import Asked
from .data.bpe import build_bpe
from .data.examples import CaptionExamples, encode
from .data.read import read_split
from .data.split import CaptionSplit
from .data.tokens import CaptionVocabulary
from .data.words import build_words
from .metrics import ONE_IMAGE
from .settings import CaptionSettings


@dataclass(frozen=True)
class Inputs:
    """A training split and, if there is one, the split that scores the model."""

    features: FeatureStore
    data: Path  # folder
    files: tuple[Path, ...]  # with other contents it would be another run
    vocabulary: CaptionVocabulary
    examples: CaptionExamples
    asked: Asked | None

    @property
    def image_ids(self) -> set[str]:
        """The store's ids of all images."""
        return {*self.examples.image_ids, *(self.asked.examples.image_ids if self.asked else ())}


def read_inputs(settings: CaptionSettings, features: FeatureStore, data: Path) -> Inputs:
    """Return the splits that the settings name; raises as `read_split` and `encode` do."""
    split = read_split(settings.dataset, data, settings.train_split, training=True)
    held_out = _read_held_out(settings, data, split)
    vocabulary = (
        build_bpe(split.texts, size=settings.bpe)
        if settings.bpe
        else build_words(split.texts, min_count=settings.min_count)
    )
    encode_split = functools.partial(
        encode,
        vocabulary=vocabulary,
        store=features,
        max_tokens=settings.max_tokens,
        skip_missing=settings.skip_missing,
    )
    return Inputs(
        features=features,
        data=data,
        files=(*split.files, *(held_out.files if held_out else ())),
        vocabulary=vocabulary,
        examples=encode_split(split),
        asked=None if held_out is None else Asked(held_out, encode_split(held_out)),
    )


def _read_held_out(
    settings: CaptionSettings, data: Path, split: CaptionSplit
) -> CaptionSplit | None:
    """Return the split that scores the model, None where the settings name none."""
    if not settings.eval_split:
        return None
    held_out = read_split(settings.dataset, data, settings.eval_split, training=False)
    ids, theirs = ({image.image_id for image in s.images} for s in (split, held_out))
    require_apart(settings, ids, theirs, of="images")
    if len(theirs) == 1:
        say(
            f"eval_split {settings.eval_split} has one image: its CIDEr-D, which picks the best "
            f"checkpoint, is {ONE_IMAGE}",
        )
    return held_out
