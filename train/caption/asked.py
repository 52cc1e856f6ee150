"""A split that a captioner is asked about, and the score that needs no other program."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from .data.examples import CaptionExamples
from .data.split import CaptionSplit
from .metrics.texts import TextCider


@dataclass(frozen=True)
class Asked:
    """A split to caption: its images, and those of them that have features."""

    split: CaptionSplit
    examples: CaptionExamples

    @functools.cached_property
    def cider(self) -> TextCider:
        """The scorer by the split's own references and document frequencies."""
        return TextCider([image.texts for image in self.split.images], end_is_word=False)

    def complete(self, captions: Mapping[int | str, str]) -> dict[int | str, str]:
        """Return a caption of every image: the empty one where it has no features."""
        return {image.image_id: captions.get(image.image_id, "") for image in self.split.images}

    def score_each(self, captions: Mapping[Any, str]) -> Float64[np.ndarray, " image"]:
        """Return 100 times the CIDEr-D of every image's caption, in the split's order."""
        count = len(self.split.images)
        said = list(self.complete(captions).values())
        return 100 * self.cider.scores(said, range(count), ended=[True] * count)

    def score(self, captions: Mapping[int | str, str]) -> float:
        """Return 100 times the CIDEr-D of captions by image id, as papers print it."""
        return round(float(self.score_each(captions).mean()), 2)

    def score_table(self, captions: Mapping[int | str, str]) -> dict[str, Any]:
        """Return the score of each image."""
        ids = [image.image_id for image in self.split.images]
        scores = [round(score, 2) for score in self.score_each(captions).tolist()]
        return {"split": self.split.name, "ids": ids, "images": ids, "scores": scores}
