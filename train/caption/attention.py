"""Where a captioner looks for the words that it writes."""

import numpy as np
import torch
from jaxtyping import Float

from ...featstore import FeatureStore
from ..grids.records import RecordReader
from .asked import Asked
from .data.examples import read_images
from .data.tokens import CaptionVocabulary
from .trained import TrainedCaptioner
from .write import best_captions

SHARPEST = 5  # words of a caption

Words = list[tuple[str, Float[np.ndarray, "row col"]]]


@torch.no_grad()
def look(
    trained: TrainedCaptioner, asked: Asked, store: FeatureStore, numbers: list[int]
) -> list[Words]:
    """Return the words of each image's caption where attention is sharpest, in their order.

    `numbers` are positions of images in the split; attention is over the real cells.
    """
    model = trained.model.eval()
    device = next(model.parameters()).device
    reader = RecordReader(store, device)
    batch = read_images(reader, asked.examples.image_ids, np.array(numbers)).to(device)
    tokens = best_captions(model, batch.records, trained.settings.decoding)
    memory = model.encode(*batch.records)
    weights = model.attention(memory, tokens[:, :-1]).cpu().numpy()
    found = []
    for number, row, looked in zip(numbers, tokens.tolist(), weights, strict=True):
        image_id = asked.examples.image_ids[number]
        mask = store.mask(image_id)
        real = np.ix_(mask.any(axis=1), mask.any(axis=0))
        maps = looked[:, : mask.size].reshape(-1, *mask.shape)
        words = by_word(trained.vocabulary, row, maps)
        sharpest = sorted(range(len(words)), key=lambda n: -words[n][1].max())[:SHARPEST]
        found.append([(words[n][0], words[n][1][real]) for n in sorted(sharpest)])
    return found


def by_word(
    vocabulary: CaptionVocabulary, tokens: list[int], maps: Float[np.ndarray, "step row col"]
) -> Words:
    """Return the words of a caption, each with the mean attention of the parts it was made of."""
    parts: dict[int, list[int]] = {}
    for step in range(len(maps)):
        before = vocabulary.decode(tokens[: step + 1])
        after = vocabulary.decode(tokens[: step + 2])
        if after != before:  # neither the end nor padding
            parts.setdefault(len(after.split()) - 1, []).append(step)
    words = vocabulary.decode(tokens).split()
    return [(word, maps[parts[place]].mean(axis=0)) for place, word in enumerate(words)]
